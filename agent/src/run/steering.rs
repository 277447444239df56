//! Rules take effect in this order: routes to the addresses, the snapshot, the redirector's word that it is in effect,
//! then the flag in the maps; and go the other way round. So no connection is steered to a redirector that knows nothing
//! of it.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result};
use sluice_common::layout::{FrontendKey, HEARTBEAT_NS};

use super::{
    feed::Feed,
    grace::{Grace, GraceTime},
    lending::Lending,
    nodeport,
};
use crate::{
    compile::Dialled,
    health::{About, Shared},
    l7::{Place, Plan, Planner, rules::Severity, snapshot::Snapshot},
    loader::{self, Loaded},
    maps::{
        Pins, Tables,
        bpf::{BpfMaps, now_ns},
    },
    model::{ObjectName, Store},
    reconcile::{Reconciler, frontend_key},
    routes,
};

/// How long a redirector may take to answer for a snapshot before its rules count without its word.
const WORD: Duration = Duration::from_secs(2);
const CHECK_EVERY: Duration = Duration::from_secs(1);

/// How long connections to a port that lost its rules may go on through the redirector.
const LINGER: Duration = Duration::from_secs(60);
/// Somebody may take a route away.
const ROUTE_AGAIN: Duration = Duration::from_secs(30);

/// What rules there are, and how far they have taken effect.
pub struct Steering {
    planner: Planner,
    feed: Arc<Feed>,
    snapshot: Snapshot,
    /// What should be steered once the redirector knows of it.
    wanted: BTreeSet<(ObjectName, u16)>,
    /// The version of the snapshot that first had all of it.
    needed: u64,
    lingering: BTreeMap<(ObjectName, u16), Instant>,
    /// The node's addresses, loopback ones too.
    node: Vec<IpAddr>,
    routed: Option<(BTreeSet<IpAddr>, Instant)>,
    /// Since when we wait for the redirector's word.
    waiting: Option<Instant>,
    checked: Option<Instant>,
    /// This binary's program steers, and not an earlier one's.
    attached: bool,
    /// Behind which devices endpoints may see pods' addresses.
    lending: Option<Lending>,
    /// Addresses behind which that was so for an earlier agent, until it is known anew.
    answered: BTreeSet<IpAddr>,
    /// Marked packets reach the node.
    marked: bool,
    /// What is planned hangs on something that has changed.
    replan: bool,
    /// When connections end that are older than the rules.
    grace: Grace,
    /// The file has an earlier agent's snapshot.
    is_stale: bool,
}

impl Steering {
    /// Begins with what an earlier agent published last, if there was one.
    pub fn new(feed: Arc<Feed>, last: Option<Snapshot>, grace: GraceTime) -> Self {
        let is_stale = last.is_some();
        let mut last = last.unwrap_or_default();
        let pods = std::mem::take(&mut last.pods);
        let answered = pods.into_iter().flat_map(|pod| pod.answers_at).collect();
        let mut planner = Planner::default();
        planner.restore(last);
        Self {
            planner,
            feed,
            snapshot: Snapshot::default(),
            wanted: BTreeSet::new(),
            needed: 0,
            lingering: BTreeMap::new(),
            node: Vec::new(),
            routed: None,
            waiting: None,
            checked: None,
            attached: false,
            lending: None,
            answered,
            marked: false,
            replan: false,
            grace: Grace::new(grace),
            is_stale,
        }
    }

    /// Notes behind which devices endpoints may see pods' addresses; true if that is news.
    pub fn set_lending(&mut self, lending: Option<&Lending>) -> bool {
        let news = self.lending.as_ref() != lending || !self.answered.is_empty();
        if news {
            self.lending = lending.cloned();
            self.answered.clear();
            self.replan = true;
        }
        news
    }

    /// When to be called again, though nothing changes.
    pub fn wake(&self) -> Option<Instant> {
        let waiting = self.waiting.map(|since| since + WORD);
        let check = self.checked.filter(|_| !self.wanted.is_empty()).map(|at| at + CHECK_EVERY);
        // While the redirector is away, what is overdue waits for the next check.
        let ends = self.grace.wake().filter(|at| *at > Instant::now());
        let others = [self.planner.wake(), self.lingering.values().min().copied(), ends];
        [waiting, check].into_iter().chain(others).flatten().min()
    }

    /// Plans again if anything changed, and marks in `store` what the redirector serves from now on. `reconciler` knows
    /// what the maps say of it by now: who owns an address is decided there.
    ///
    /// # Errors
    /// The program cannot be attached, or a route cannot be set: nothing new is steered then.
    pub fn steer(
        &mut self,
        store: &mut Store,
        loaded: &mut Loaded,
        reconciler: &Reconciler,
        shared: &Shared,
    ) -> Result<()> {
        // Until then, what an earlier agent let take effect does: its routes too.
        if !store.knows_rules() {
            return Ok(());
        }
        let node: Vec<IpAddr> = reconciler.node_addresses().into_iter().collect();
        let moved = node != self.node;
        self.node = node;
        let now = Instant::now();
        let before = self.lingering.len();
        self.lingering.retain(|_, until| *until > now);
        let news = store.take_l7_news();
        if news.objects {
            self.planner.forget();
        }
        let replan = std::mem::take(&mut self.replan) || moved || before != self.lingering.len();
        if replan || self.planner.is_concerned(&news, now) {
            self.plan(store, reconciler.tables(), shared);
        }
        let waited = self.waiting.is_some_and(|since| self.is_known() || since.elapsed() >= WORD);
        if waited {
            // Should what follows fail, it is tried again after as long.
            self.waiting = Some(now);
        }
        let steers = self.attached && loader::is_steering(loaded.pins());
        if !self.wanted.is_empty() && !steers {
            loaded.attach_steering().context("cannot attach sk_lookup")?;
            self.attached = true;
        }
        self.route(&reconciler.redirected_cluster_ips())?;
        if waited {
            self.waiting = None;
            self.grace.set(&self.wanted, now);
            store.set_redirected(self.wanted.clone());
        }
        Ok(())
    }

    fn plan(&mut self, store: &mut Store, tables: &Tables, shared: &Shared) {
        let owns = |name: &ObjectName, dialled: &Dialled| {
            let value = tables.frontends.get(&frontend_key(dialled));
            let owner = value.and_then(|value| tables.services.get(&value.service_id));
            owner.is_some_and(|owner| {
                owner.namespace.as_str() == name.namespace && owner.name.as_str() == name.name
            })
        };
        let lingering: BTreeSet<(ObjectName, u16)> = self.lingering.keys().cloned().collect();
        let refusals = RefCell::new(BTreeSet::new());
        let mut planner = std::mem::take(&mut self.planner);
        let answers = |address| self.answers(address, &refusals);
        let place = Place { node: &self.node, owns: &owns, lingering: &lingering, answers: &answers };
        let plan = planner.plan(store, &place, Instant::now());
        self.planner = planner;
        if plan.snapshot.needs_redirector() && self.lending.is_some() && !self.marked && self.mark(shared) {
            return self.plan(store, tables, shared);
        }
        let lost: Vec<_> = self.wanted.difference(&plan.redirected).cloned().collect();
        if !lost.is_empty() {
            // Its open connections go on, without rules; new ones stay in the kernel.
            let until = Instant::now() + LINGER;
            self.lingering.extend(lost.into_iter().map(|port| (port, until)));
            self.wanted.retain(|port| plan.redirected.contains(port));
            return self.plan(store, tables, shared);
        }
        shared.clear("lending/");
        for text in refusals.into_inner() {
            shared.warn(&format!("lending/{text}"), text);
        }
        self.report(&plan, shared);
        self.lingering.retain(|port, _| !plan.redirected.contains(port));
        let stays: BTreeSet<_> =
            plan.redirected.iter().filter(|(name, port)| store.is_redirected(name, *port)).cloned().collect();
        let snapshot = Snapshot { version: self.snapshot.version, ..plan.snapshot };
        if snapshot != self.snapshot || std::mem::take(&mut self.is_stale) {
            // Versions rise over restarts of the agent too.
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            let version = (snapshot.version + 1).max(now.as_micros() as u64);
            self.snapshot = Snapshot { version, ..snapshot };
            let published = self.feed.publish(&self.snapshot);
            shared.problem("snapshot", published.err().map(|error| format!("{error:#}")));
        }
        if plan.redirected != self.wanted {
            self.wanted = plan.redirected;
            self.needed = self.snapshot.version;
        }
        if stays != self.wanted {
            self.waiting = self.waiting.or(Some(Instant::now()));
        }
        // What will be steered soon stays split until then.
        let mut splits = plan.splits;
        for port in self.wanted.difference(&stays) {
            splits.extend(store.splits().get(&port.0, port.1).map(|split| (port.clone(), split.clone())));
        }
        store.set_splits(splits);
        self.grace.set(&stays, Instant::now());
        store.set_redirected(stays);
        self.checked = None;
    }

    /// Whether what a pod at this address sends to a pod of this node comes by where it can be kept for the redirector.
    fn answers(&self, address: IpAddr, refusals: &RefCell<BTreeSet<String>>) -> bool {
        let Some(lending) = self.lending.as_ref().filter(|_| self.marked) else {
            return self.answered.contains(&address);
        };
        let Some(device) = Lending::device_to(address) else { return false };
        let answers = lending.answers(device, address.is_ipv4());
        answers.map_err(|text| refusals.borrow_mut().insert(text)).is_ok()
    }

    /// Lets marked packets reach the node; whether they do.
    fn mark(&mut self, shared: &Shared) -> bool {
        let result = routes::sync_marked(true);
        self.marked = result.is_ok();
        shared.clear("marked");
        if let Err(error) = result {
            shared.warn(
                "marked",
                format!("endpoints see the node's address: cannot set rules for marked packets: {error}"),
            );
        }
        self.marked
    }

    /// Whether the redirector has said that it knows. The first rule waits for it to start.
    fn is_known(&self) -> bool {
        self.feed.acked() >= self.needed
    }

    /// Makes the cluster IPs local that the redirector serves, or that the maps still say it does.
    fn route(&mut self, flagged: &BTreeSet<IpAddr>) -> Result<()> {
        let ports = self.snapshot.services.iter().flat_map(|service| &service.ports);
        let frontends = ports.flat_map(|port| &port.frontends).map(SocketAddr::ip);
        let wanted: BTreeSet<IpAddr> =
            frontends.chain(flagged.iter().copied()).filter(|address| !self.node.contains(address)).collect();
        let done =
            self.routed.as_ref().is_some_and(|(routed, at)| *routed == wanted && at.elapsed() < ROUTE_AGAIN);
        if done || (wanted.is_empty() && self.routed.is_none() && self.snapshot.version == 0) {
            return Ok(());
        }
        // Only an address that an interface has can be a source.
        let interfaces = nodeport::interfaces();
        let here = self.node.iter().filter(|address| !address.is_loopback() && interfaces.contains(address));
        routes::sync(&wanted, &here.copied().collect::<Vec<_>>()).context("cannot set local routes")?;
        if self.marked {
            let is_wanted = !wanted.is_empty();
            routes::sync_marked(is_wanted).context("cannot set rules for marked packets")?;
            self.marked = is_wanted;
        }
        self.routed = Some((wanted, Instant::now()));
        Ok(())
    }

    /// What was dialled of the connections that end now, for they are older than the rules that hold for it. While the
    /// redirector is away, they would only be made anew without rules.
    pub fn take_ended(&mut self, tables: &Tables, pins: &Pins) -> BTreeSet<FrontendKey> {
        let now = Instant::now();
        if !self.grace.is_due(now) || !is_beating(pins) {
            return BTreeSet::new();
        }
        self.grace.take_due(now, tables, &self.node)
    }

    /// Whether connections are to be steered.
    pub fn steers(&self) -> bool {
        !self.wanted.is_empty()
    }

    /// Looks whether the redirector is well.
    pub fn check(&mut self, pins: &Pins, shared: &Shared) {
        let now = Instant::now();
        if self.checked.is_none_or(|at| now.duration_since(at) >= CHECK_EVERY) {
            self.checked = Some(now);
            let away = !self.wanted.is_empty() && !is_beating(pins);
            let text = "the redirector is away: Services with rules are balanced without them, or refused with --l7-fail-closed";
            shared.problem("redirector", away.then(|| text.to_owned()));
        }
    }

    fn report(&self, plan: &Plan, shared: &Shared) {
        shared.clear("rule/");
        for report in &plan.reports {
            let (kind, name) = (report.kind.name(), &report.name);
            for message in &report.messages {
                let text = format!("{kind} {name}: {message}");
                let about = About {
                    kind: kind.to_owned(),
                    namespace: name.namespace.clone(),
                    name: name.name.clone(),
                    rejected: message.severity == Severity::Error,
                    path: message.path.clone(),
                    message: message.text.clone(),
                };
                shared.warn_about(&format!("rule/{text}"), text, about);
            }
        }
        let states = plan.reports.iter().map(|report| {
            let (kind, name) = (report.kind.name(), &report.name);
            ([kind.to_owned(), name.namespace.clone(), name.name.clone()], report.state.to_owned())
        });
        let states = states.collect();
        shared.update(|state| state.rules = states);
    }
}

/// Whether the redirector said of late that it is well.
fn is_beating(pins: &Pins) -> bool {
    let beat_ns = BpfMaps::heartbeat_ns(pins).unwrap_or(0);
    beat_ns != 0 && now_ns().saturating_sub(beat_ns) < HEARTBEAT_NS
}
