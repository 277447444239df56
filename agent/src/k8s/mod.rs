//! Objects from the API server: the only place that talks to one. Lists and watches Services, EndpointSlices and
//! this Node; reconnects for ever; a relisting replaces the earlier one without a gap.

use std::{
    fmt::Debug,
    path::PathBuf,
    sync::{Arc, mpsc},
};

use anyhow::{Context as _, Result, bail};
use futures::StreamExt as _;
use k8s_openapi::api::{core::v1 as core, discovery::v1 as discovery};
use kube::{
    Api, Client, Config, Resource, ResourceExt as _,
    client::ClientBuilder,
    config::{KubeConfigOptions, Kubeconfig},
    runtime::{WatchStreamExt as _, watcher},
};
use serde::de::DeserializeOwned;

mod backoff;
mod observe;

use crate::{
    health::Shared,
    model::{Change, ObjectName},
    objects::{self, Converted, Problem},
};

/// How to reach the API server.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// A kubeconfig; the in-cluster configuration otherwise.
    pub kubeconfig: Option<PathBuf>,
    /// Replaces the server's address in either.
    pub api_servers: Vec<String>,
}

/// Feeds `news` until the receiver is gone. An API server that is away is no error: it is waited for.
///
/// # Errors
/// A watch ended, which it never does by itself.
pub async fn watch(
    client: Client,
    node_name: &str,
    news: mpsc::Sender<Vec<Change>>,
    shared: &Arc<Shared>,
) -> Result<()> {
    let services = Listing::<core::Service>::new("services", shared, &news);
    let slices = Listing::<discovery::EndpointSlice>::new("endpointslices", shared, &news);
    let nodes = Listing::<core::Node>::new("node", shared, &news);
    let own_node = watcher::Config::default().fields(&format!("metadata.name={node_name}"));
    tokio::try_join!(
        services.follow(Api::all(client.clone()), watcher::Config::default()),
        slices.follow(Api::all(client.clone()), watcher::Config::default()),
        nodes.follow(Api::all(client), own_node),
    )?;
    Ok(())
}

/// A client that takes a source's problem back when the API server answers for it.
///
/// # Errors
/// The configuration cannot be found, read or used.
pub async fn client(options: &Options, shared: &Arc<Shared>) -> Result<Client> {
    let config = config(options).await?;
    let shared = Arc::clone(shared);
    let observe = observe::Observe::new(move |path| {
        let resource = path.rsplit('/').next().unwrap_or_default();
        let source = if resource == "nodes" { "node" } else { resource };
        shared.problem(&topic(source), None);
    });
    let builder = ClientBuilder::try_from(config).context("cannot use the Kubernetes configuration")?;
    Ok(builder.with_layer(&observe).build())
}

fn topic(source: &str) -> String {
    format!("source/{source}")
}

async fn config(options: &Options) -> Result<Config> {
    let mut config = match &options.kubeconfig {
        Some(file) => {
            let read = Kubeconfig::read_from(file)
                .with_context(|| format!("cannot read the kubeconfig {}", file.display()))?;
            Config::from_custom_kubeconfig(read, &KubeConfigOptions::default())
                .await
                .with_context(|| format!("cannot use the kubeconfig {}", file.display()))?
        }
        None => Config::incluster().context(
            "neither --manifests nor --kubeconfig is given, and this is not a pod with a service account",
        )?,
    };
    match options.api_servers.as_slice() {
        [] => {}
        [first, ..] => {
            config.cluster_url =
                first.parse().with_context(|| format!("--api-server {first} is not a URL"))?;
        }
    }
    if options.api_servers.len() > 1 {
        bail!("--api-server can be given once so far; failover among several is not built yet");
    }
    Ok(config)
}

/// A kind of object that we follow.
trait Followed: Resource + Clone + DeserializeOwned + Debug + Send + 'static {
    /// All of them, as one change.
    fn all(objects: Vec<Self>) -> (Vec<Change>, Vec<Problem>);
    /// One that is new or different.
    fn one(object: &Self) -> (Vec<Change>, Vec<Problem>);
    /// One that is gone.
    fn gone(object: &Self) -> Vec<Change>;
}

struct Listing<'s, K> {
    source: &'static str,
    shared: &'s Shared,
    news: mpsc::Sender<Vec<Change>>,
    /// Objects of a listing under way.
    pending: Vec<K>,
}

impl<'s, K: Followed> Listing<'s, K>
where
    K::DynamicType: Default + Clone + Debug + Eq + std::hash::Hash,
{
    fn new(source: &'static str, shared: &'s Shared, news: &mpsc::Sender<Vec<Change>>) -> Self {
        shared.source(source, false);
        Self { source, shared, news: news.clone(), pending: Vec::new() }
    }

    async fn follow(mut self, api: Api<K>, config: watcher::Config) -> Result<()> {
        let events = watcher(api, config).backoff(backoff::Patience::new());
        let mut events = std::pin::pin!(events);
        while let Some(event) = events.next().await {
            match event {
                Ok(event) => self.take(event)?,
                // The server has forgotten what we saw last: a new listing follows, and nothing is wrong.
                Err(watcher::Error::WatchError(status)) if status.code == 410 => {
                    tracing::debug!(source = self.source, "listing anew");
                }
                Err(error) => {
                    let text = format!("the API server does not give {}: {}", self.source, chain(&error));
                    self.shared.problem(&topic(self.source), Some(text));
                }
            }
        }
        bail!("the watch of {} ended", self.source)
    }

    fn take(&mut self, event: watcher::Event<K>) -> Result<()> {
        let (changes, problems) = match event {
            watcher::Event::Init => {
                self.pending.clear();
                return Ok(());
            }
            watcher::Event::InitApply(object) => {
                self.pending.push(object);
                return Ok(());
            }
            watcher::Event::InitDone => {
                self.shared.clear(&format!("object/{}/", self.source));
                self.shared.source(self.source, true);
                K::all(std::mem::take(&mut self.pending))
            }
            watcher::Event::Apply(object) => {
                self.forget(&object);
                K::one(&object)
            }
            watcher::Event::Delete(object) => {
                self.forget(&object);
                (K::gone(&object), Vec::new())
            }
        };
        for problem in problems {
            let topic = format!("object/{}/{} {}", self.source, problem.object, problem.path);
            tracing::warn!("{problem}");
            self.shared.warn(&topic, problem.to_string());
        }
        self.news.send(changes).context("the programming thread is gone")
    }

    fn forget(&self, object: &K) {
        self.shared.clear(&format!("object/{}/{} ", self.source, name_of(object)));
    }
}

fn name_of<K: Resource>(object: &K) -> ObjectName {
    ObjectName::new(object.namespace().unwrap_or_default(), object.name_any())
}

fn all<K, T>(objects: &[K], convert: impl Fn(&K) -> Converted<T>) -> (Vec<T>, Vec<Problem>) {
    let (mut values, mut problems) = (Vec::with_capacity(objects.len()), Vec::new());
    for object in objects {
        let converted = convert(object);
        values.extend(converted.value);
        problems.extend(converted.problems);
    }
    (values, problems)
}

impl Followed for core::Service {
    fn all(objects: Vec<Self>) -> (Vec<Change>, Vec<Problem>) {
        let (services, problems) = all(&objects, objects::service);
        let services = services.into_iter().map(|service| service.service).collect();
        (vec![Change::AllServices(services)], problems)
    }

    fn one(object: &Self) -> (Vec<Change>, Vec<Problem>) {
        let converted = objects::service(object);
        let service = converted.value.map(|service| Box::new(service.service));
        (vec![Change::Service(name_of(object), service)], converted.problems)
    }

    fn gone(object: &Self) -> Vec<Change> {
        vec![Change::Service(name_of(object), None)]
    }
}

impl Followed for discovery::EndpointSlice {
    fn all(objects: Vec<Self>) -> (Vec<Change>, Vec<Problem>) {
        let (slices, problems) = all(&objects, objects::slice);
        (vec![Change::AllSlices(slices)], problems)
    }

    fn one(object: &Self) -> (Vec<Change>, Vec<Problem>) {
        let converted = objects::slice(object);
        (vec![Change::Slice(name_of(object), converted.value.map(Box::new))], converted.problems)
    }

    fn gone(object: &Self) -> Vec<Change> {
        vec![Change::Slice(name_of(object), None)]
    }
}

impl Followed for core::Node {
    fn all(objects: Vec<Self>) -> (Vec<Change>, Vec<Problem>) {
        objects.first().map_or_else(|| (vec![Change::NoNode], Vec::new()), Self::one)
    }

    fn one(object: &Self) -> (Vec<Change>, Vec<Problem>) {
        let converted = objects::node(object);
        (converted.value.map(Change::Node).into_iter().collect(), converted.problems)
    }

    /// A node that is deleted while its agent runs keeps what is known of it.
    fn gone(_: &Self) -> Vec<Change> {
        Vec::new()
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
