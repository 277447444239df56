//! `sluice run`: sources feed one thread that programs the maps; an admin server tells how it goes.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::{Arc, mpsc},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};

use crate::{
    capabilities::Capabilities,
    health::{About, Shared},
    k8s, loader,
    manifests::{Finding, Manifests, Reading, Severity},
    maps::Sizes,
    model::Change,
    signals,
};

mod admin;
mod arrivals;
mod devices;
mod feed;
mod flows;
mod forwarding;
mod grace;
mod health_ports;
mod http;
mod lending;
mod metrics;
mod nodeport;
mod opt_outs;
mod own;
mod probe;
mod programmer;
mod services;
mod steering;
mod supervisor;
mod sweeper;
mod token;

pub use devices::{Forwarding, Packets};
pub use grace::GraceTime;
pub use nodeport::Selector;
pub use probe::connect_from_cgroup;

/// How often manifests are looked at.
const MANIFEST_POLL: Duration = Duration::from_millis(250);

/// Everything that `sluice run` can be told.
#[derive(Debug)]
pub struct Options {
    /// Files and folders; empty means Kubernetes.
    pub manifests: Vec<PathBuf>,
    /// Kubernetes access.
    pub kubernetes: k8s::Options,
    /// This node's name.
    pub node_name: String,
    /// Cgroup to attach to.
    pub cgroup: Option<PathBuf>,
    /// Folder of pins.
    pub bpffs: PathBuf,
    /// Metrics and state.
    pub admin: SocketAddr,
    /// Health: the first at once, the others when nobody else has them, which is nothing wrong.
    pub healthz: Vec<SocketAddr>,
    /// How long an update may take before the node counts as unhealthy.
    pub sync_timeout: Duration,
    /// On which addresses NodePorts are served.
    pub nodeport_addresses: Selector,
    /// Folder of the socket that the redirector reads, and of the last snapshot.
    pub run_dir: PathBuf,
    /// Somebody else runs the redirector.
    pub external_redirector: bool,
    /// While the redirector is away, what needs it is refused.
    pub l7_fail_closed: bool,
    /// How long connections from before a port's rules are kept.
    pub l7_grace: GraceTime,
    /// `/metrics` tells how many connections and bytes each Service port has.
    pub service_metrics: bool,
    /// Where and how packets are balanced.
    pub packets: Packets,
    /// Map capacities.
    pub sizes: Sizes,
}

/// Runs until SIGTERM or SIGINT. The kernel goes on forwarding afterwards.
///
/// # Errors
/// What keeps the agent from starting, or what ended it.
pub fn run(options: Options) -> Result<()> {
    let manifests = match options.manifests.as_slice() {
        [] => None,
        paths => Some(Manifests::new(paths.to_vec(), options.node_name.clone())?),
    };
    let claim = loader::claim(&options.bpffs, options.cgroup.as_deref())?;
    let claim = claim.counting_bytes(options.service_metrics);
    let shared = Arc::new(Shared::new(&options.node_name, claim.cgroup(), options.sync_timeout));
    for text in Capabilities::effective()?.shortcomings() {
        tracing::warn!("{text}");
        shared.warn(text, text.to_owned());
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async move {
        let (news, inbox) = mpsc::channel();
        let (health_ports, health_table) = tokio::sync::watch::channel(health_ports::Table::default());
        let (need_pods, pods_needed) = tokio::sync::watch::channel(false);
        let (teller, outbox) = k8s::notices();
        // What can be wrong with flags and ports shows before anything in the kernel is touched.
        let client = match &manifests {
            Some(_) => None,
            None => Some(k8s::connect(&options.kubernetes, &shared).await?),
        };
        let desk = Arc::new(admin::Desk::new(&shared, &options.bpffs));
        let mut servers = vec![serve_at(admin::Role::Admin, options.admin, &[], &desk)?];
        for (place, address) in options.healthz.iter().enumerate() {
            let role = if place == 0 { admin::Role::Health } else { admin::Role::MoreHealth };
            servers.push(serve_at(role, *address, &options.healthz, &desk)?);
        }
        let servers = futures::future::try_join_all(servers.into_iter().map(admin::Server::serve));
        let sizes = options.sizes;
        // The verifier takes its time: objects are listed meanwhile.
        let loading = tokio::task::spawn_blocking(move || loader::load(claim, &sizes));
        let for_devices = news.clone();
        let feed = feed::Feed::new(&options.run_dir, news.clone(), Arc::clone(&shared));
        let source = async {
            match (manifests, client) {
                (Some(manifests), _) => watch_manifests(manifests, news, &shared).await,
                (None, Some(client)) => {
                    let (kubernetes, asked) = (&options.kubernetes, (pods_needed, outbox));
                    k8s::watch(client, kubernetes, &options.node_name, news, asked, &shared).await
                }
                (None, None) => bail!("there is no source of objects"),
            }
        };
        let program = async {
            let loaded = loading.await.context("the programs are not loaded")??;
            std::fs::create_dir_all(&options.run_dir).with_context(|| {
                format!("cannot create {}; choose another folder with --run-dir", options.run_dir.display())
            })?;
            devices::watch(for_devices)?;
            let feed = Arc::new(feed);
            let ended = programmer::spawn(
                loaded,
                &options,
                Arc::clone(&shared),
                inbox,
                need_pods,
                Arc::clone(&feed),
                health_ports,
            )?;
            tracing::info!(node = %options.node_name, pid = std::process::id(), "sluice is up");
            tokio::select! {
                result = ended => bail!("the programming thread ended: {result:?}"),
                result = Arc::clone(&feed).serve() => result,
                result = supervise(&options, Arc::clone(&feed)) => result,
            }
        };
        tokio::select! {
            result = source => result,
            result = servers => result.map(drop),
            result = health_ports::serve(health_table, Arc::clone(&shared), teller) => result,
            result = program => result,
            result = stop_signal() => result,
        }
    })
}

/// A server at `address`, which is one of `all` or alone.
fn serve_at(
    role: admin::Role,
    address: SocketAddr,
    all: &[SocketAddr],
    desk: &Arc<admin::Desk>,
) -> Result<admin::Server> {
    let v4 = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), address.port());
    let families = if all.contains(&v4) { http::Families::V6 } else { http::Families::Both };
    admin::Server::bind(role, address, families, desk)
}

async fn supervise(options: &Options, feed: Arc<feed::Feed>) -> Result<()> {
    if options.external_redirector {
        return std::future::pending().await;
    }
    let (run_dir, bpffs) = (options.run_dir.clone(), options.bpffs.clone());
    supervisor::supervise(feed, run_dir, bpffs, options.packets.keep_clients).await
}

async fn stop_signal() -> Result<()> {
    signals::stop().await?;
    tracing::info!("stopping; the programs stay attached and keep forwarding");
    Ok(())
}

/// Whose object a finding is about, as far as it is known.
fn about(finding: &Finding) -> About {
    let (kind, name) = finding.object.split_once(' ').unwrap_or((&finding.object, ""));
    let (namespace, name) = name.split_once('/').unwrap_or(("", name));
    About {
        kind: kind.to_owned(),
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        rejected: finding.severity == Severity::Error,
        path: finding.path.clone(),
        message: finding.message.clone(),
    }
}

async fn watch_manifests(
    mut manifests: Manifests,
    news: mpsc::Sender<Vec<Change>>,
    shared: &Shared,
) -> Result<()> {
    shared.source("manifests", false);
    loop {
        if let Some(Reading { changes, findings }) = manifests.poll() {
            shared.clear("manifests/");
            for finding in findings {
                let text = finding.to_string();
                match finding.severity {
                    Severity::Error => tracing::error!("{text}"),
                    Severity::Warning => tracing::warn!("{text}"),
                }
                shared.warn_about(&format!("manifests/{text}"), text.clone(), about(&finding));
            }
            news.send(changes).context("the programming thread is gone")?;
            shared.source("manifests", true);
        }
        tokio::time::sleep(MANIFEST_POLL).await;
    }
}
