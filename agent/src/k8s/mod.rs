//! Objects from the API server, and events about them: the only place that talks to one. Lists and watches Services, EndpointSlices, this Node
//! and the metadata of its pods, ServiceCIDRs, and all pods while a feature needs them; reconnects for ever; a relisting replaces the
//! earlier one without a gap.

use std::{
    path::PathBuf,
    sync::{Arc, mpsc},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use k8s_openapi::api::{core::v1 as core, discovery::v1 as discovery};
use kube::{
    Api, Client, Config,
    client::ClientBuilder,
    config::{KubeConfigOptions, Kubeconfig},
    core::PartialObjectMeta,
    runtime::{utils::Backoff as _, watcher},
};
use tokio::sync::watch;

mod backoff;
mod clock;
mod failures;
mod kinds;
mod listing;
mod notices;
mod observe;
mod rules;
mod service_cidrs;
mod unread;

pub use notices::{Notice, Outbox, Teller, notices};

use crate::{health::Shared, model::Change};
use failures::Failures;
use listing::{Common, Listing};

/// How to reach the API server.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// A kubeconfig; the in-cluster configuration otherwise.
    pub kubeconfig: Option<PathBuf>,
    /// Replace the server's address in either, one after the other.
    pub api_servers: Vec<String>,
    /// How long nothing may arrive on a connection before it is given up.
    pub silence: Duration,
}

/// The first release whose API servers stream lists unless told otherwise (KEP-3157). Older ones may take the request for
/// one that they know, and then never say that the list is complete.
const STREAMS_SINCE: u32 = 32;

/// Clients of one API server or several.
pub struct Servers {
    clients: Vec<Client>,
    hosts: Vec<String>,
    failures: Arc<Failures>,
    silence: Duration,
}

/// Feeds `news` until the receiver is gone. An API server that is away is no error: the next one is tried, or it is
/// waited for. All pods are watched while `pods_needed` says so; what `outbox` has is published besides. When the clock is set
/// back, credentials are read anew.
///
/// # Errors
/// A watch ended, which it never does by itself.
pub async fn watch(
    mut servers: Servers,
    options: &Options,
    node_name: &str,
    news: mpsc::Sender<Vec<Change>>,
    (pods_needed, mut outbox): (watch::Receiver<bool>, Outbox),
    shared: &Arc<Shared>,
) -> Result<()> {
    loop {
        let needed = pods_needed.clone();
        tokio::select! {
            result = watch_on(&servers, node_name, news.clone(), (needed, &mut outbox), shared) => return result,
            () = clock::is_set_back() => {}
        }
        tracing::warn!("the clock was set back: credentials are read and objects listed anew");
        match connect(options, shared).await {
            Ok(anew) => servers = anew,
            Err(error) => tracing::warn!("going on with the credentials that there were: {error:#}"),
        }
    }
}

async fn watch_on(
    servers: &Servers,
    node_name: &str,
    news: mpsc::Sender<Vec<Change>>,
    (pods_needed, outbox): (watch::Receiver<bool>, &mut Outbox),
    shared: &Arc<Shared>,
) -> Result<()> {
    let mut patience = backoff::Patience::new();
    for (turn, (client, host)) in servers.clients.iter().zip(&servers.hosts).cycle().enumerate() {
        if turn > 0 && turn % servers.clients.len() == 0 {
            // None of them is of use at the moment.
            patience.reset();
            tokio::time::sleep(patience.next().unwrap_or_default()).await;
        }
        servers.failures.forget();
        tracing::info!(server = %host, "asking the API server");
        let config = servers.watching(client).await;
        let common = Common { shared, news: &news, servers, host, config: &config };
        let here = |field: &str| config.clone().fields(&format!("{field}={node_name}"));
        let services = Listing::<core::Service>::new("services", common);
        let slices = Listing::<discovery::EndpointSlice>::new("endpointslices", common);
        let nodes = Listing::<core::Node>::new("node", common);
        let own_pods = Listing::<PartialObjectMeta<core::Pod>>::new("pods", common);
        tokio::select! {
            // Each follows its kind until it gives this server up; a new listing replaces what the old one said.
            result = services.follow(Api::all(client.clone()), config.clone()) => result?,
            result = slices.follow(Api::all(client.clone()), config.clone()) => result?,
            result = nodes.follow(Api::all(client.clone()), here("metadata.name")) => result?,
            result = own_pods.follow(Api::all(client.clone()), here("spec.nodeName")) => result?,
            result = rules::follow(client, common) => result?,
            result = service_cidrs::follow(client, common) => result?,
            result = pods_while_needed(client, common, pods_needed.clone()) => result?,
            () = outbox.publish(client, node_name) => {}
        }
        tracing::warn!(server = %host, "giving this API server up for the next one");
    }
    bail!("there is no API server to ask")
}

/// Follows all pods of the cluster for as long as somebody asks what they declare.
async fn pods_while_needed(
    client: &Client,
    common: Common<'_>,
    mut needed: watch::Receiver<bool>,
) -> Result<()> {
    loop {
        needed.wait_for(|needed| *needed).await.context("the programming thread is gone")?;
        let pods = Listing::<core::Pod>::new("all pods", common);
        tokio::select! {
            result = pods.follow(Api::all(client.clone()), common.config.clone()) => return result,
            _ = needed.wait_for(|needed| !*needed) => {}
        }
        common.shared.forget_source("all pods");
        common.news.send(vec![Change::NoPods]).context("the programming thread is gone")?;
    }
}

impl Servers {
    /// How to list and watch on this server.
    async fn watching(&self, client: &Client) -> watcher::Config {
        let config = watcher::Config::default().timeout(self.silence.as_secs().try_into().unwrap_or(290));
        match tokio::time::timeout(Duration::from_secs(5), client.apiserver_version()).await {
            Ok(Ok(version)) if streams_lists(&version.major, &version.minor) => config.streaming_lists(),
            // It may be away: then the listings will say so.
            Ok(_) | Err(_) => config,
        }
    }
}

fn streams_lists(major: &str, minor: &str) -> bool {
    // Some distributions write "32+".
    let digits: String = minor.chars().take_while(char::is_ascii_digit).collect();
    major == "1" && digits.parse::<u32>().is_ok_and(|minor| minor >= STREAMS_SINCE)
}

/// Clients that take a source's problem back when the API server answers for it.
///
/// # Errors
/// The configuration cannot be found, read or used.
pub async fn connect(options: &Options, shared: &Arc<Shared>) -> Result<Servers> {
    let config = config(options).await?;
    let failures = Arc::new(Failures::default());
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
            failures.succeeded(resource);
            shared.problem(&listing::topic(resource), None);
        });
        let mut config = config.clone();
        config.cluster_url = url;
        // It would hide throttling and servers that are away behind minutes of trying again by itself.
        config.default_retry = false;
        config.connect_timeout = Some(options.silence.min(Duration::from_secs(10)));
        // A little longer than a watch lasts, which the server ends by itself.
        config.read_timeout = Some(options.silence + Duration::from_secs(6));
        let builder = ClientBuilder::try_from(config).context("cannot use the Kubernetes configuration")?;
        clients.push(builder.with_layer(&observe).build());
    }
    Ok(Servers { clients, hosts, failures, silence: options.silence })
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

#[cfg(test)]
mod tests {
    #[test]
    fn only_servers_that_surely_stream_are_asked_to() {
        for (major, minor, want) in
            [("1", "34", true), ("1", "32+", true), ("1", "31", false), ("1", "", false), ("2", "40", false)]
        {
            assert_eq!(super::streams_lists(major, minor), want, "{major}.{minor}");
        }
    }
}
