//! Follows one kind of object on one API server, and says what is wrong with the server or with an object.

use std::{fmt::Debug, sync::mpsc};

use anyhow::{Context as _, Result, bail};
use futures::StreamExt as _;
use kube::{
    Api, Error,
    runtime::{
        WatchStreamExt as _,
        utils::Backoff as _,
        watcher::{self, InitialListStrategy, watcher},
    },
};

use super::{
    Servers, backoff,
    kinds::{Followed, name_of},
};
use crate::{
    health::{About, Shared},
    model::{Change, ObjectName, Service},
    objects::Problem,
};

/// The topic of what is wrong with a resource, by the last part of its path.
pub fn topic(resource: &str) -> String {
    format!("source/{resource}")
}

/// What the listings of one API server share.
#[derive(Clone, Copy)]
pub struct Common<'s> {
    /// Where to say how it goes.
    pub shared: &'s Shared,
    /// Where the objects go.
    pub news: &'s mpsc::Sender<Vec<Change>>,
    /// All servers.
    pub servers: &'s Servers,
    /// The address of this one.
    pub host: &'s str,
    /// How to list and watch on it.
    pub config: &'s watcher::Config,
}

/// One kind of object on one API server.
pub struct Listing<'s, K: Followed> {
    source: &'static str,
    common: Common<'s>,
    /// What a listing under way brought. Objects are let go as they come: a large cluster's are hundreds of megabytes.
    pending: Vec<K::Value>,
    /// What is wrong with them, and whether it is all that there is of the object.
    complaints: Vec<(Problem, bool)>,
    /// Listings that began since one was complete.
    begun: u32,
}

/// Streamed lists that end before they are complete, one after the other, after which lists are asked for in pages: a proxy
/// between, or a server that takes the request for another, may never say that one is complete.
const ENDLESS_STREAMS: u32 = 3;

impl<'s, K: Followed> Listing<'s, K>
where
    K::DynamicType: Default + Clone + Debug + Eq + std::hash::Hash,
{
    /// `source` is its name in `status`.
    pub fn new(source: &'static str, common: Common<'s>) -> Self {
        common.shared.source(source, false);
        Self { source, common, pending: Vec::new(), complaints: Vec::new(), begun: 0 }
    }

    /// Returns when this API server has failed too often and there is another one.
    ///
    /// # Errors
    /// The watch ended, which it never does by itself, or nobody takes the news.
    pub async fn follow(mut self, api: Api<K>, mut config: watcher::Config) -> Result<()> {
        let mut patience = backoff::Patience::new();
        loop {
            let events = watcher(api.clone(), config.clone()).backoff(backoff::Patience::new());
            let mut events = std::pin::pin!(events);
            loop {
                let Some(event) = events.next().await else { bail!("the watch of {} ended", self.source) };
                match event {
                    Ok(watcher::Event::Init) if self.begun >= ENDLESS_STREAMS && streams(&config) => {
                        tracing::warn!(
                            source = self.source,
                            "streamed lists end too early: listing in pages"
                        );
                        config.initial_list_strategy = InitialListStrategy::ListWatch;
                        break;
                    }
                    Ok(event) => self.take(event)?,
                    // The server has forgotten what we saw last: a new listing follows, and nothing is wrong. Started
                    // anew, for kube 5 asks for ever for the version that a server has refused with status 410.
                    Err(error) if has_expired(&error) => {
                        tracing::debug!(source = self.source, "listing anew");
                        break;
                    }
                    Err(error) if refuses_to_stream(&config, &error) => {
                        tracing::debug!(source = self.source, "the server does not stream lists");
                        config.initial_list_strategy = InitialListStrategy::ListWatch;
                        break;
                    }
                    Err(error) if self.is_too_much(&error) => return Ok(()),
                    Err(_) => {}
                }
            }
            patience.reset();
            tokio::time::sleep(patience.next().unwrap_or_default()).await;
        }
    }

    /// Notes a failure; true when it is time for another server.
    fn is_too_much(&self, error: &watcher::Error) -> bool {
        let text = format!("the API server does not give {}: {}", self.source, chain(error));
        let resource = K::plural(&K::DynamicType::default()).into_owned();
        self.common.shared.problem(&topic(&resource), Some(text));
        // Whether what one can do without is served, and to us, says nothing of the server.
        let kind = K::DynamicType::default();
        let group = K::group(&kind);
        if [super::rules::GROUP, super::service_cidrs::GROUP].contains(&group.as_ref()) {
            return false;
        }
        let servers = self.common.servers;
        servers.failures.is_too_much(&resource) && servers.clients.len() > 1
    }

    fn take(&mut self, event: watcher::Event<K>) -> Result<()> {
        let (change, problems) = match event {
            watcher::Event::Init => {
                self.begun += 1;
                self.pending.clear();
                self.complaints.clear();
                return Ok(());
            }
            watcher::Event::InitApply(object) => {
                let (value, problems) = convert(&object);
                self.pending.extend(value);
                self.complaints.extend(problems);
                return Ok(());
            }
            watcher::Event::InitDone => {
                self.begun = 0;
                self.common.shared.clear(&format!("object/{}/", self.source));
                self.common.shared.source(self.source, true);
                (Some(K::all(std::mem::take(&mut self.pending))), std::mem::take(&mut self.complaints))
            }
            watcher::Event::Apply(object) => {
                self.forget(&object);
                let (value, problems) = convert(&object);
                (K::one(name_of(&object), value), problems)
            }
            watcher::Event::Delete(object) => {
                self.forget(&object);
                (K::one(name_of(&object), None), Vec::new())
            }
        };
        if change.as_ref().is_some_and(|change| names_own_server(change, self.common.host)) {
            let text = format!(
                "the API server is reached at {}, the cluster IP of default/kubernetes, which works only through this \
                 agent; name a direct address with --api-server",
                self.common.host
            );
            self.common.shared.problem("api-server", Some(text));
        }
        for (problem, rejected) in problems {
            let topic = format!("object/{}/{} {}", self.source, problem.object, problem.path);
            tracing::warn!("{problem}");
            let about = About {
                kind: problem.kind.to_owned(),
                namespace: problem.object.namespace.clone(),
                name: problem.object.name.clone(),
                rejected,
                path: problem.path.clone(),
                message: problem.message.clone(),
            };
            self.common.shared.warn_about(&topic, problem.to_string(), about);
        }
        self.common.news.send(change.into_iter().collect()).context("the programming thread is gone")
    }

    fn forget(&self, object: &K) {
        self.common.shared.clear(&format!("object/{}/{} ", self.source, name_of(object)));
    }
}

/// What the model keeps of `object`, and each problem with whether nothing is kept.
fn convert<K: Followed>(object: &K) -> (Option<K::Value>, Vec<(Problem, bool)>) {
    let converted = object.convert();
    let rejected = converted.value.is_none();
    (converted.value, converted.problems.into_iter().map(|problem| (problem, rejected)).collect())
}

/// Whether the server has forgotten the version that a watch was to begin at.
fn has_expired(error: &watcher::Error) -> bool {
    match error {
        watcher::Error::WatchError(status) => status.code == 410,
        watcher::Error::WatchStartFailed(Error::Api(status)) => status.code == 410,
        // Between two pages.
        watcher::Error::InitialListFailed(Error::Api(status)) => status.code == 410,
        _ => false,
    }
}

/// Whether lists are asked for as streams.
fn streams(config: &watcher::Config) -> bool {
    config.initial_list_strategy == InitialListStrategy::StreamingList
}

/// Whether the server, asked to stream a list, says that it does not.
fn refuses_to_stream(config: &watcher::Config, error: &watcher::Error) -> bool {
    let refused = matches!(error, watcher::Error::WatchStartFailed(Error::Api(status)) if (400..500).contains(&status.code) && status.code != 410 && status.code != 429);
    streams(config) && refused
}

/// Whether `change` shows that `host` is the cluster IP of the API server's own Service.
fn names_own_server(change: &Change, host: &str) -> bool {
    let is_it = |service: &Service| {
        service.name == ObjectName::new("default", "kubernetes")
            && service.cluster_ips.iter().any(|address| address.to_string() == host)
    };
    match change {
        Change::AllServices(services) => services.iter().any(is_it),
        Change::Service(_, Some(service)) => is_it(service),
        _ => false,
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}
