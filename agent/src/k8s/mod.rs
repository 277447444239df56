//! Objects from the API server: the only place that talks to one. Lists and watches Services, EndpointSlices and
//! this Node; reconnects for ever; a relisting replaces the earlier one without a gap.

use std::{
    fmt::Debug,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
        mpsc,
    },
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
    model::{Change, ObjectName, Service},
    objects::{self, Converted, Problem},
};

/// How to reach the API server.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// A kubeconfig; the in-cluster configuration otherwise.
    pub kubeconfig: Option<PathBuf>,
    /// Replace the server's address in either, one after the other.
    pub api_servers: Vec<String>,
}

/// Failed answers in a row, without a good one between them, after which the next API server is tried.
const PATIENCE: u32 = 3;

/// Clients of one API server or several.
pub struct Servers {
    clients: Vec<Client>,
    hosts: Vec<String>,
    failures: Arc<AtomicU32>,
}

/// Feeds `news` until the receiver is gone. An API server that is away is no error: the next one is tried, or it is
/// waited for.
///
/// # Errors
/// A watch ended, which it never does by itself.
pub async fn watch(
    servers: Servers,
    node_name: &str,
    news: mpsc::Sender<Vec<Change>>,
    shared: &Arc<Shared>,
) -> Result<()> {
    for (client, host) in servers.clients.iter().zip(&servers.hosts).cycle() {
        servers.failures.store(0, Ordering::Relaxed);
        tracing::info!(server = %host, "asking the API server");
        let context = Context { shared, news: &news, servers: &servers, host };
        let services = Listing::<core::Service>::new("services", context);
        let slices = Listing::<discovery::EndpointSlice>::new("endpointslices", context);
        let nodes = Listing::<core::Node>::new("node", context);
        let own_node = watcher::Config::default().fields(&format!("metadata.name={node_name}"));
        tokio::select! {
            // Each follows its kind until it gives this server up; a new listing replaces what the old one said.
            result = services.follow(Api::all(client.clone()), watcher::Config::default()) => result?,
            result = slices.follow(Api::all(client.clone()), watcher::Config::default()) => result?,
            result = nodes.follow(Api::all(client.clone()), own_node) => result?,
        }
        tracing::warn!(server = %host, "giving this API server up for the next one");
    }
    bail!("there is no API server to ask")
}

/// Clients that take a source's problem back when the API server answers for it.
///
/// # Errors
/// The configuration cannot be found, read or used.
pub async fn connect(options: &Options, shared: &Arc<Shared>) -> Result<Servers> {
    let config = config(options).await?;
    let failures = Arc::new(AtomicU32::new(0));
    let mut urls = Vec::new();
    for url in &options.api_servers {
        urls.push(url.parse::<http::Uri>().with_context(|| format!("--api-server {url} is not a URL"))?);
    }
    if urls.is_empty() {
        urls.push(config.cluster_url.clone());
    }
    let (mut clients, mut hosts) = (Vec::new(), Vec::new());
    for url in urls {
        hosts.push(url.host().unwrap_or_default().trim_matches(['[', ']']).to_owned());
        let (shared, failures) = (Arc::clone(shared), Arc::clone(&failures));
        let observe = observe::Observe::new(move |path| {
            let resource = path.rsplit('/').next().unwrap_or_default();
            let source = if resource == "nodes" { "node" } else { resource };
            failures.store(0, Ordering::Relaxed);
            shared.problem(&topic(source), None);
        });
        let mut config = config.clone();
        config.cluster_url = url;
        let builder = ClientBuilder::try_from(config).context("cannot use the Kubernetes configuration")?;
        clients.push(builder.with_layer(&observe).build());
    }
    Ok(Servers { clients, hosts, failures })
}

fn topic(source: &str) -> String {
    format!("source/{source}")
}

async fn config(options: &Options) -> Result<Config> {
    let Some(file) = &options.kubeconfig else {
        return Config::incluster().context(
            "neither --manifests nor --kubeconfig is given, and this is not a pod with a service account",
        );
    };
    let read = Kubeconfig::read_from(file)
        .with_context(|| format!("cannot read the kubeconfig {}", file.display()))?;
    Config::from_custom_kubeconfig(read, &KubeConfigOptions::default())
        .await
        .with_context(|| format!("cannot use the kubeconfig {}", file.display()))
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

/// What the listings of one API server share.
#[derive(Clone, Copy)]
struct Context<'s> {
    shared: &'s Shared,
    news: &'s mpsc::Sender<Vec<Change>>,
    servers: &'s Servers,
    host: &'s str,
}

struct Listing<'s, K> {
    source: &'static str,
    context: Context<'s>,
    /// Objects of a listing under way.
    pending: Vec<K>,
}

impl<'s, K: Followed> Listing<'s, K>
where
    K::DynamicType: Default + Clone + Debug + Eq + std::hash::Hash,
{
    fn new(source: &'static str, context: Context<'s>) -> Self {
        context.shared.source(source, false);
        Self { source, context, pending: Vec::new() }
    }

    /// Returns when this API server has failed too often and there is another one.
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
                    self.context.shared.problem(&topic(self.source), Some(text));
                    let servers = self.context.servers;
                    let failures = servers.failures.fetch_add(1, Ordering::Relaxed) + 1;
                    if failures >= PATIENCE && servers.clients.len() > 1 {
                        return Ok(());
                    }
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
                self.context.shared.clear(&format!("object/{}/", self.source));
                self.context.shared.source(self.source, true);
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
        if changes.iter().any(|change| names_own_server(change, self.context.host)) {
            let text = format!(
                "the API server is reached at {}, the cluster IP of default/kubernetes, which works only through this \
                 agent; name a direct address with --api-server",
                self.context.host
            );
            self.context.shared.problem("api-server", Some(text));
        }
        for problem in problems {
            let topic = format!("object/{}/{} {}", self.source, problem.object, problem.path);
            tracing::warn!("{problem}");
            self.context.shared.warn(&topic, problem.to_string());
        }
        self.context.news.send(changes).context("the programming thread is gone")
    }

    fn forget(&self, object: &K) {
        self.context.shared.clear(&format!("object/{}/{} ", self.source, name_of(object)));
    }
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
