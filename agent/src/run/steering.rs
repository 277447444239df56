//! Rules take effect in this order: routes to the addresses, the snapshot, the redirector's word that it is in effect,
//! then the flag in the maps; and go the other way round. So no connection is steered to a redirector that knows nothing
//! of it.

use std::{
    collections::BTreeSet,
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use sluice_common::layout::{ADDRESS_NODE, HEARTBEAT_NS};

use super::feed::Feed;
use crate::{
    health::{About, Shared},
    l7::{Plan, Planner, rules::Severity, snapshot::Snapshot},
    loader::{self, Loaded},
    maps::{Pins, Tables, bpf::BpfMaps},
    model::{ObjectName, Store},
    routes,
};

/// How long a redirector may take to answer for a snapshot before its rules count without its word.
const WORD: Duration = Duration::from_secs(2);
const CHECK_EVERY: Duration = Duration::from_secs(1);

/// What rules there are, and how far they have taken effect.
pub struct Steering {
    planner: Planner,
    feed: Arc<Feed>,
    snapshot: Snapshot,
    /// What should be steered once the redirector knows of it.
    wanted: BTreeSet<(ObjectName, u16)>,
    addresses: BTreeSet<IpAddr>,
    node: Vec<IpAddr>,
    /// Since when we wait for the redirector's word.
    waiting: Option<Instant>,
    checked: Option<Instant>,
    pins: Option<Pins>,
    /// This binary's program steers, and not an earlier one's.
    attached: bool,
}

impl Steering {
    /// No rules.
    pub fn new(feed: Arc<Feed>) -> Self {
        Self {
            planner: Planner::default(),
            feed,
            snapshot: Snapshot::default(),
            wanted: BTreeSet::new(),
            addresses: BTreeSet::new(),
            node: Vec::new(),
            waiting: None,
            checked: None,
            pins: None,
            attached: false,
        }
    }

    /// When to be called again, though nothing changes.
    pub fn wake(&self) -> Option<Instant> {
        let waiting = self.waiting.map(|since| since + WORD);
        let check = self.checked.filter(|_| !self.wanted.is_empty()).map(|at| at + CHECK_EVERY);
        waiting.into_iter().chain(check).min()
    }

    /// Plans again if anything changed, and marks in `store` what the redirector serves from now on.
    ///
    /// # Errors
    /// The program cannot be attached, or a route cannot be set: nothing new is steered then.
    pub fn steer(
        &mut self,
        store: &mut Store,
        loaded: &mut Loaded,
        tables: &Tables,
        shared: &Shared,
    ) -> Result<()> {
        let node = tables.addresses.iter().filter(|(_, kind)| **kind & ADDRESS_NODE != 0);
        let node: Vec<IpAddr> = node.map(|(address, _)| (*address).into()).collect();
        let moved = node != self.node;
        self.node = node;
        // Until then, what an earlier agent let take effect does: its routes too.
        if !store.knows_rules() {
            return Ok(());
        }
        if store.take_l7_changed() || moved {
            let plan = self.planner.plan(store, &self.node);
            self.report(&plan, shared);
            self.take(plan, store, shared);
        }
        let steers = self.attached && loader::is_steering(loaded.pins());
        if !self.wanted.is_empty() && !steers {
            loaded.attach_steering().context("cannot attach sk_lookup")?;
            self.attached = true;
        }
        self.pins = Some(loaded.pins().clone());
        self.route(&self.addresses)?;
        if self.waiting.is_some_and(|since| self.is_known() || since.elapsed() >= WORD) {
            self.waiting = None;
            store.set_redirected(self.wanted.clone());
        }
        Ok(())
    }

    fn take(&mut self, plan: Plan, store: &mut Store, shared: &Shared) {
        let stays: BTreeSet<_> =
            plan.redirected.iter().filter(|(name, port)| store.is_redirected(name, *port)).cloned().collect();
        store.set_redirected(stays);
        self.wanted = plan.redirected;
        let ports = plan.snapshot.services.iter().flat_map(|service| &service.ports);
        let frontends = ports.flat_map(|port| &port.frontends).map(std::net::SocketAddr::ip);
        self.addresses.extend(frontends.filter(|address| !self.node.contains(address)));
        let version = self.snapshot.version;
        let snapshot = Snapshot { version, ..plan.snapshot };
        if snapshot != self.snapshot {
            // Versions rise over restarts of the agent too.
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
            self.snapshot = Snapshot { version: (version + 1).max(now.as_micros() as u64), ..snapshot };
            let published = self.feed.publish(&self.snapshot);
            shared.problem("snapshot", published.err().map(|error| format!("{error:#}")));
        }
        self.waiting = Some(Instant::now());
        self.checked = None;
    }

    /// Whether the redirector has said that it knows; where there is none, nobody is waited for.
    fn is_known(&self) -> bool {
        !self.feed.is_read() || self.feed.acked() >= self.snapshot.version
    }

    fn route(&self, addresses: &BTreeSet<IpAddr>) -> Result<()> {
        routes::sync(addresses, &self.node).context("cannot set local routes")
    }

    /// After the maps say what `store` says: takes routes back, and looks whether the redirector is well.
    pub fn settle(&mut self, shared: &Shared, store: &Store) {
        let now = Instant::now();
        if self.waiting.is_none() {
            let ports = self.snapshot.services.iter().flat_map(|service| &service.ports);
            let frontends = ports.flat_map(|port| &port.frontends).map(std::net::SocketAddr::ip);
            let addresses: BTreeSet<IpAddr> =
                frontends.filter(|address| !self.node.contains(address)).collect();
            if addresses != self.addresses {
                self.addresses = addresses;
                if let Err(error) = self.route(&self.addresses) {
                    tracing::warn!("{error:#}");
                }
            }
        }
        let _ = store;
        if self.checked.is_none_or(|at| now.duration_since(at) >= CHECK_EVERY) {
            self.checked = Some(now);
            let away = !self.wanted.is_empty() && !self.is_beating();
            let text = "the redirector is away: Services with rules are balanced without them, or refused with --l7-fail-closed";
            shared.problem("redirector", away.then(|| text.to_owned()));
        }
    }

    fn is_beating(&self) -> bool {
        let beat_ns = self.pins.as_ref().and_then(|pins| BpfMaps::heartbeat_ns(pins).ok()).unwrap_or(0);
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        let now_ns = now.tv_sec.unsigned_abs() * 1_000_000_000 + now.tv_nsec.unsigned_abs();
        beat_ns != 0 && now_ns.saturating_sub(beat_ns) < HEARTBEAT_NS
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
