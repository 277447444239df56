//! The one thread that writes the maps: takes changes in, compiles what they touch, reconciles, tries again.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::{Arc, mpsc},
    time::{Duration, Instant, SystemTime},
};

use anyhow::Result;
use sluice_common::layout::{FLAG_REDIRECTED, FrontendKey, ServiceValue};
use tokio::sync::{oneshot, watch};

use super::{
    Options, Selector,
    arrivals::Arrivals,
    devices::Devices,
    feed::Feed,
    flows, forwarding,
    health_ports::{self, Check, Checks},
    nodeport, opt_outs, probe,
    services::Services,
    steering::Steering,
    sweeper,
};
use crate::{
    compile,
    health::Shared,
    l7::snapshot::Snapshot,
    loader::{self, Loaded},
    maps::{
        Tables,
        bpf::{BpfMaps, Listeners},
    },
    model::{Change, Node, ObjectName, OptOut, Store},
    reconcile::Reconciler,
    sockets::{Doomed, Gone},
};

const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_LAST: Duration = Duration::from_secs(5);
const PROBE_EVERY: Duration = Duration::from_secs(10);
const PROBE_AGAIN: Duration = Duration::from_secs(2);
const COLLECT_EVERY: Duration = Duration::from_millis(500);

mod attaching;
mod names;
mod node;
mod probing;
mod report;
mod tables;
mod times;

use report::describe;

struct Programmer {
    store: Store,
    reconciler: Reconciler,
    maps: BpfMaps,
    loaded: Loaded,
    shared: Arc<Shared>,
    start: Instant,
    retry: Option<(Instant, Duration)>,
    probe_at: Option<Instant>,
    collect_at: Option<Instant>,
    first_round_done: bool,
    attached: bool,
    nodeport_addresses: Selector,
    node_ports: BTreeSet<u16>,
    checks: Checks,
    /// The node's addresses that NodePorts are served on, as far as its interfaces have them.
    here: Vec<IpAddr>,
    sweeper: mpsc::Sender<Doomed>,
    opt_outs: mpsc::Sender<Vec<OptOut>>,
    flows: mpsc::Sender<BTreeSet<FrontendKey>>,
    need_pods: watch::Sender<bool>,
    steering: Steering,
    arrivals: Arrivals,
    devices: Devices,
    names: names::Names,
    /// Services whose headless ports hang on what pods declare.
    pod_askers: BTreeSet<ObjectName>,
    /// Services that are not in the maps as they should be, and why.
    failed: BTreeMap<ObjectName, String>,
    /// Changes of endpoints that are not in the maps yet, and when they happened.
    triggers: Vec<(ObjectName, SystemTime)>,
    /// Changes from before that time say nothing about us.
    since: SystemTime,
    /// Services that ask for a Maglev table and have none.
    without_table: BTreeSet<ObjectName>,
    /// The node's addresses or devices may not be what they were.
    node_moved: bool,
    /// The kernel has refused some write of this round.
    refused: bool,
}

/// Adopts what the maps hold and starts the thread. The receiver yields when the thread ends.
pub fn spawn(
    mut loaded: Loaded,
    options: &Options,
    shared: Arc<Shared>,
    inbox: mpsc::Receiver<Vec<Change>>,
    need_pods: watch::Sender<bool>,
    feed: Arc<Feed>,
    health_ports: watch::Sender<health_ports::Table>,
) -> Result<oneshot::Receiver<()>> {
    let mut maps = loaded.maps()?;
    maps.set_host_netns(loader::netns_cookie()?)?;
    maps.set_fail_closed(options.l7_fail_closed)?;
    maps.forget_probes()?;
    feed.want_maps(Listeners::ids(loaded.pins()));
    let start = Instant::now();
    let adopted = maps.dump_with_leftovers()?;
    tracing::info!(
        services = adopted.services.len(),
        frontends = adopted.frontends.len(),
        took = ?start.elapsed(),
        "adopted pinned maps"
    );
    let sweeper = sweeper::spawn(loaded.pins().clone(), loaded.cgroup().to_owned(), Arc::clone(&shared))?;
    let opt_outs = opt_outs::spawn(loaded.pins().clone(), loaded.cgroup().to_owned(), Arc::clone(&shared))?;
    let last = feed.last();
    let splits = last.as_ref().map(Snapshot::splits).unwrap_or_default();
    let mut reconciler = Reconciler::new(adopted, options.sizes);
    reconciler.set_node_name(&options.node_name);
    let mut programmer = Programmer {
        sweeper,
        opt_outs,
        flows: flows::spawn(loaded.pins().clone(), Arc::clone(&shared), Services::new(loaded.take_bytes()?))?,
        need_pods,
        steering: Steering::new(feed, last, options.l7_grace),
        arrivals: Arrivals::default(),
        devices: Devices::new(&loaded, options)?,
        names: names::Names::open(&loaded)?,
        pod_askers: BTreeSet::new(),
        store: Store::new(Node { name: options.node_name.clone(), ..Node::default() }),
        reconciler,
        maps,
        loaded,
        shared,
        start: Instant::now(),
        retry: None,
        probe_at: None,
        collect_at: None,
        first_round_done: false,
        attached: false,
        nodeport_addresses: options.nodeport_addresses.clone(),
        node_ports: BTreeSet::new(),
        checks: Checks::new(health_ports),
        here: Vec::new(),
        failed: BTreeMap::new(),
        triggers: Vec::new(),
        since: SystemTime::now(),
        without_table: BTreeSet::new(),
        node_moved: true,
        refused: false,
    };
    // What is steered stays so until the rules are known.
    let redirected = redirected(programmer.reconciler.tables());
    programmer.store.set_redirected(redirected);
    programmer.store.set_splits(splits);
    let (ended, receiver) = oneshot::channel();
    std::thread::Builder::new().name("programmer".to_owned()).spawn(move || {
        while programmer.turn(&inbox) {}
        let _nobody_waits = ended.send(());
    })?;
    Ok(receiver)
}

/// The Service ports that the maps flag for the redirector.
fn redirected(tables: &Tables) -> BTreeSet<(ObjectName, u16)> {
    let flagged = tables.frontends.values().filter(|value| value.flags & FLAG_REDIRECTED != 0);
    let services = flagged.filter_map(|value| tables.services.get(&value.service_id));
    let name = |value: &ServiceValue| ObjectName::new(value.namespace.as_str(), value.name.as_str());
    services.map(|value| (name(value), u16::from_be(value.port_be))).collect()
}

impl Programmer {
    /// Waits for news or for the next thing to do, and does it. False when there will be no more news.
    fn turn(&mut self, inbox: &mpsc::Receiver<Vec<Change>>) -> bool {
        let retry = self.retry.map(|(at, _)| at);
        let wake = [retry, self.probe_at, self.collect_at, self.steering.wake()].into_iter().flatten().min();
        let wait = wake.map_or(PROBE_EVERY, |at| at.saturating_duration_since(Instant::now()));
        match inbox.recv_timeout(wait) {
            Ok(changes) => self.take(changes),
            Err(mpsc::RecvTimeoutError::Timeout) => {}
            Err(mpsc::RecvTimeoutError::Disconnected) => return false,
        }
        while let Ok(changes) = inbox.try_recv() {
            self.take(changes);
        }
        let leaving = self.store.node().leaving;
        self.shared.update(|state| {
            state.busy_since = Some(Instant::now());
            state.node_leaving = leaving;
        });
        // Before the first complete listing nothing is known to be gone, so that nothing is touched.
        if self.store.is_listed() {
            self.work();
        }
        self.shared.update(|state| state.busy_since = None);
        true
    }

    fn take(&mut self, changes: Vec<Change>) {
        let pods = changes.iter().any(|change| matches!(change, Change::AllOwnPods(_) | Change::OwnPod(..)));
        // No change is word that network devices did.
        self.node_moved |=
            changes.is_empty() || changes.iter().any(|change| matches!(change, Change::Node(_)));
        for change in changes {
            self.store.apply(change);
        }
        if pods && let Some(opt_outs) = self.store.opt_outs() {
            let _the_thread_lives_as_long_as_we = self.opt_outs.send(opt_outs);
            // Files that name none say nothing about who lives here.
            let pods = self.store.own_pods().filter(|pods| !pods.is_empty());
            self.shared.update(|state| state.pods = pods);
        }
    }

    fn work(&mut self) {
        let now = Instant::now();
        self.refused = false;
        // Each whatever becomes of the others: Services come before rules, and rules need to know who owns an address.
        let looks_at_node = self.looks_at_node(now);
        let addresses = !looks_at_node || self.serve_node_ports();
        let services = self.program();
        let rules = self.steer();
        let (devices, cidrs) = (&mut self.devices, self.store.service_cidrs());
        let guarded = devices.guard_cluster_ips(&mut self.reconciler, &mut self.maps, &cidrs, &self.shared);
        let complete = self.program() && addresses && services && rules && guarded;
        self.steering.check(self.loaded.pins(), &self.shared);
        self.arrivals.check(&self.maps, self.steering.steers(), &self.shared);
        self.checks.publish(&self.here);
        if complete && !self.first_round_done && !self.store.is_partial() {
            let purged = self.reconciler.purge(&mut self.maps);
            self.first_round_done = self.is_written("leftovers", purged);
        }
        if let Some(ports) = self.reconciler.take_node_ports() {
            self.node_ports = ports;
            self.reserve_ports();
        }
        if looks_at_node {
            self.serve_packets();
        }
        if self.steering.set_lending(self.devices.lending()) {
            self.steer();
        }
        if !self.attached && (complete || !self.loaded.has_predecessor()) {
            self.attach();
        } else if !self.attached {
            let text = "what an earlier agent left goes on serving: not everything fits into the new maps"
                .to_owned();
            self.shared.problem("takeover", Some(text));
        }
        if self.attached {
            self.end_unruled();
        }
        let done = complete && (self.first_round_done || self.store.is_partial()) && self.attached;
        self.schedule_retry(now, done);
        let counts = self.reconciler.tables().counts().map(|(map, count)| (map.to_owned(), count as u64));
        self.shared.update(|state| state.map_entries.extend(counts));
        if done {
            self.shared.update(|state| state.updated = Some(SystemTime::now()));
        }
        if self.attached && self.probe_at.is_none_or(|at| at <= now) {
            self.reserve_ports();
            self.probe(now);
        }
        self.collect(now);
        self.shared.refused(self.refused);
        // What does not fit is told; what the kernel refuses will be there in the end.
        if self.attached && !self.refused {
            self.shared.update(|state| state.programmed = true);
        }
    }

    /// Compiles and writes what changed. True when everything that should be in the maps is.
    fn program(&mut self) -> bool {
        let mut names = self.store.take_dirty();
        // With a file that cannot be read nobody knows what is gone.
        if !self.first_round_done && !self.store.is_partial() {
            let store = &self.store;
            names.extend(self.reconciler.leftovers(|name| store.service(name).is_some()));
        }
        self.ask_for_pods(&names);
        if names.is_empty() {
            return true;
        }
        let start = Instant::now();
        let compiled: BTreeMap<ObjectName, _> =
            names.iter().map(|name| (name.clone(), compile::service(&self.store, name))).collect();
        let now_ns = self.now_ns();
        let check = |(name, ports): (&ObjectName, &Vec<_>)| {
            (name.clone(), self.store.service(name).and_then(|service| Check::of(service, ports)))
        };
        let checks: Vec<_> = compiled.iter().map(check).collect();
        let outcome = self.reconciler.reconcile(&mut self.maps, compiled, now_ns);
        self.note_times(start, &outcome);
        // What is not in the maps is not told to load balancers either.
        let in_maps = checks.into_iter().filter(|(name, _)| !outcome.failed.contains_key(name));
        in_maps.for_each(|(name, check)| self.checks.set(name, check));
        if outcome.writes > 0 || !names.is_subset(&self.without_table) {
            self.collect_at = self.collect_at.or(Some(Instant::now() + COLLECT_EVERY));
        }
        self.note_tables(&outcome);
        tracing::debug!(services = names.len(), writes = outcome.writes, took = ?start.elapsed(), "programmed");
        for name in &outcome.looked_at {
            self.failed.remove(name);
            self.shared.clear(&format!("conflict/{name} "));
        }
        for (loser, dialled, winner) in &outcome.conflicts {
            let text = format!(
                "Service {loser}: {dialled} belongs to Service {winner}, which comes first (by kind of address, then age, then name)"
            );
            self.shared.warn(&format!("conflict/{loser} {dialled}"), text);
        }
        let gone = outcome.gone.iter().map(|(backend, service_stays)| Gone {
            addr: backend.addr,
            port_be: backend.port_be,
            tcp_too: *service_stays,
        });
        let gone: Vec<Gone> = gone.collect();
        if !gone.is_empty() {
            let _the_thread_lives_as_long_as_we = self.sweeper.send(Doomed { gone, ..Doomed::default() });
        }
        if outcome.udp_left {
            let _the_thread_lives_as_long_as_we = self.flows.send(BTreeSet::new());
        }
        self.report(&outcome);
        outcome.failed.keys().for_each(|name| self.store.mark(name.clone()));
        if outcome.writes > 0 && !self.first_round_done {
            tracing::info!(services = names.len(), writes = outcome.writes, "maps brought up to date");
        }
        self.shared.update(|state| state.writes += outcome.writes);
        outcome.failed.is_empty() && !self.reconciler.has_unsettled_addresses()
    }

    /// Lets rules take effect: plans, tells the redirector, marks what it serves from now on.
    fn steer(&mut self) -> bool {
        let result = self.steering.steer(&mut self.store, &mut self.loaded, &self.reconciler, &self.shared);
        let problem = result.as_ref().err().map(|error| format!("rules do not take effect: {error:#}"));
        self.shared.problem("steering", problem);
        result.is_ok()
    }

    /// Ends connections that are older than the rules for what they dialled, when it is time.
    fn end_unruled(&mut self) {
        let ruled = self.steering.take_ended(self.reconciler.tables(), self.loaded.pins());
        if !ruled.is_empty() {
            let _the_threads_live_as_long_as_we = self.flows.send(ruled.clone());
            let _the_threads_live_as_long_as_we = self.sweeper.send(Doomed { ruled, ..Doomed::default() });
        }
    }

    /// What pods declare is asked for as long as some Service hangs on it.
    fn ask_for_pods(&mut self, names: &BTreeSet<ObjectName>) {
        for name in names {
            if self.store.needs_pod_ports(name) {
                self.pod_askers.insert(name.clone());
            } else {
                self.pod_askers.remove(name);
            }
        }
        let needed = !self.pod_askers.is_empty() || !self.store.rules().objects().is_empty();
        self.need_pods.send_if_modified(|was| std::mem::replace(was, needed) != needed);
    }

    fn schedule_retry(&mut self, now: Instant, done: bool) {
        self.retry = match self.retry {
            _ if done => None,
            None => Some((now + RETRY_FIRST, RETRY_FIRST)),
            Some((at, wait)) if at <= now => Some((now + wait * 2, (wait * 2).min(RETRY_LAST))),
            waiting => waiting,
        };
    }

    fn now_ns(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}
