//! From what the maps hold to what they should hold: decides each write and its order, and does no I/O but
//! through a [`Writer`].
//!
//! Order, so that a reader sees the old set of endpoints or the new one and never a mixture: nodes and backends,
//! then slots in a **new** range, then the service's names, then its frontends one by one; only then go
//! frontends that nobody wants, and after a grace period the old range and unused backends.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
};

use crate::{
    compile::{Claims, CompiledPort, PortId},
    maps::{Op, Sizes, Tables, WriteError, Writer},
    model::ObjectName,
};

mod addresses;
mod adopt;
mod arrange;
mod encode;
mod interner;
mod plan;
mod ranges;

use interner::Interner;
use ranges::{Range, Ranges};
use sluice_common::{
    Addr,
    layout::{
        ADDRESS_CLUSTER_IP, ADDRESS_LOOPBACK, ADDRESS_NODE, ADDRESS_REDIRECTED, BackendValue, FrontendKey,
        Name, SERVICE_CIDRS, SlotValue, UDP,
    },
};

pub use encode::{dialled, frontend_key, port_id};

/// How long a range, a backend or an id rests before it is used again. A hook runs for microseconds, so that one
/// second is long; the owner that each slot names catches what even that would miss.
pub const GRACE_NS: u64 = 1_000_000_000;

/// The writing side of the maps: their mirror, who owns what in them, and what rests.
#[derive(Debug)]
pub struct Reconciler {
    /// What the maps hold: as read at the start, then as written.
    actual: Tables,
    /// Which of the frontends in `actual` lead to a service.
    frontends_of: HashMap<u32, BTreeSet<FrontendKey>>,
    units: BTreeMap<PortId, Unit>,
    /// Lists, not sets, here and elsewhere: a set of one takes the room of eleven.
    by_service: BTreeMap<ObjectName, Vec<PortId>>,
    claims: Claims,
    service_ids: ranges::Ids,
    backends: Interner<BackendValue>,
    nodes: Interner<sluice_common::layout::NodeValue>,
    slots: Ranges,
    sizes: Sizes,
    writes: u64,
    node_ports_changed: bool,
    addresses: addresses::Addresses,
    /// This node, once it is said.
    own: Option<Name>,
    /// Backends whose last slot went in this round: id, value, and whether the service is still there.
    gone: Vec<(u32, BackendValue, bool)>,
    /// Somebody whom UDP led to a backend should not be led there any more.
    udp_left: bool,
}

/// A service port in the maps.
#[derive(Debug, Default)]
struct Unit {
    service_id: u32,
    /// The range that the frontends should name.
    current: Placed,
    /// Ranges that frontends may still name, because a write failed half-way.
    stale: Vec<Placed>,
    /// Backends and nodes of a put that has not succeeded yet: kept until its next try.
    held: Held,
    /// What was compiled last; `None` after adoption, until the first compile.
    compiled: Option<CompiledPort>,
}

/// A range and what it should hold; each slot counts as a reference to its backend and that backend's node.
#[derive(Debug, Default)]
struct Placed {
    range: Range,
    slots: Vec<SlotValue>,
}

/// Ids that count as referred to while a put is under way.
#[derive(Debug, Default)]
struct Held {
    backends: Vec<u32>,
    nodes: Vec<u32>,
}

/// What a round of reconciling came to.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Services that this round looked at.
    pub looked_at: BTreeSet<ObjectName>,
    /// Services that are not, or not entirely, in the maps; each with its reason.
    pub failed: BTreeMap<ObjectName, WriteError>,
    /// Addresses that an older Service has already: loser, address, winner.
    pub conflicts: Vec<(ObjectName, crate::compile::Dialled, ObjectName)>,
    /// Backends that no service names any more, and whether the service that named it last is still there.
    pub gone: Vec<(BackendValue, bool)>,
    /// Whether a backend of UDP stopped serving some Service, or an address of UDP left a Service.
    pub udp_left: bool,
    /// Services that ask for a Maglev table and have none, and why.
    pub without_table: BTreeMap<ObjectName, String>,
    /// Writes done.
    pub writes: u64,
}

impl Reconciler {
    /// Starts from the contents of the maps; ids and ranges in use stay what they are.
    pub fn new(actual: Tables, sizes: Sizes) -> Self {
        adopt::adopt(actual, sizes)
    }

    /// Which node this is: addresses of its endpoints are known as such from now on.
    pub fn set_node_name(&mut self, name: &str) {
        self.own = Some(Name::new(name));
        for (id, backend) in &self.actual.backends {
            self.addresses.note_local(*id, self.is_here(backend).then_some(backend.addr));
        }
    }

    fn is_here(&self, backend: &BackendValue) -> bool {
        let node = self.actual.nodes.get(&backend.node_id).map(|node| node.name);
        node.is_some() && node == self.own
    }

    /// What the maps hold.
    pub const fn tables(&self) -> &Tables {
        &self.actual
    }

    /// Services that the maps hold and that `is_wanted` does not know: leftovers of an earlier run.
    pub fn leftovers(&self, is_wanted: impl Fn(&ObjectName) -> bool) -> BTreeSet<ObjectName> {
        self.by_service.keys().filter(|name| !is_wanted(name)).cloned().collect()
    }

    /// Brings Services to what was compiled for each; an empty list of ports removes one.
    pub fn reconcile(
        &mut self,
        writer: &mut impl Writer,
        compiled: BTreeMap<ObjectName, Vec<CompiledPort>>,
        now_ns: u64,
    ) -> Outcome {
        let before = self.writes;
        let mut outcome = Outcome::default();
        let mut touched = BTreeSet::new();
        for (name, ports) in &compiled {
            touched.extend(self.claims.update(name, ports));
        }
        let mut work = compiled;
        for name in touched {
            // Lost or won an address by another's change: its own ports are what they were.
            work.entry(name).or_insert_with_key(|name| self.last_compiled(name));
        }
        // Everything new goes in before anything old goes out, over all Services of this round.
        let mut wanted: BTreeMap<ObjectName, Vec<PortId>> = BTreeMap::new();
        for (name, ports) in work {
            let ids = ports.iter().map(|port| port.id.clone()).collect();
            if let Err(error) = self.put_all(writer, &name, ports, now_ns, &mut outcome) {
                outcome.failed.insert(name.clone(), error);
            }
            wanted.insert(name, ids);
        }
        for (name, ids) in &wanted {
            if !outcome.failed.contains_key(name)
                && let Err(error) = self.remove_unwanted(writer, name, ids, now_ns, &outcome.failed)
            {
                outcome.failed.insert(name.clone(), error);
            }
        }

        // An address is refused whole only when its frontends are in, and no longer than they are. What fails is
        // tried again with the node's addresses.
        let _unsettled = self.settle_addresses(writer);
        let gone = std::mem::take(&mut self.gone);
        let gone = gone.into_iter().filter(|(id, _, _)| self.backends.is_unreferred(*id));
        outcome.gone = gone.map(|(_, backend, service_stays)| (backend, service_stays)).collect();
        outcome.udp_left = std::mem::take(&mut self.udp_left);
        outcome.looked_at = wanted.into_keys().collect();
        outcome.writes = self.writes - before;
        outcome
    }

    /// All NodePorts in the maps, if they have changed since the last call.
    pub fn take_node_ports(&mut self) -> Option<BTreeSet<u16>> {
        let node_ports = || {
            let keys = self.actual.frontends.keys().filter(|key| key.scope == 1);
            keys.map(|key| u16::from_be(key.port_be)).collect()
        };
        std::mem::take(&mut self.node_ports_changed).then(node_ports)
    }

    /// Serves NodePorts on these addresses (and kinds) and on no others.
    ///
    /// # Errors
    /// A write failed; it is safe to call again.
    pub fn set_node_addresses(
        &mut self,
        writer: &mut impl Writer,
        wanted: &BTreeMap<Addr, u32>,
    ) -> Result<(), WriteError> {
        self.addresses.set_node(wanted);
        self.settle_addresses(writer)
    }

    /// Whether an address could not be written yet.
    pub fn has_unsettled_addresses(&self) -> bool {
        self.addresses.is_unsettled()
    }

    /// The node's addresses in the maps, loopback ones too and those on which no NodePort is served not.
    pub fn node_addresses(&self) -> BTreeSet<IpAddr> {
        let of_node = ADDRESS_NODE | ADDRESS_LOOPBACK;
        self.addresses_in_maps(self.addresses.of_node(), |kind| kind & of_node != 0)
    }

    /// The cluster IPs in the maps of which the redirector serves a port.
    pub fn redirected_cluster_ips(&self) -> BTreeSet<IpAddr> {
        let both = ADDRESS_CLUSTER_IP | ADDRESS_REDIRECTED;
        self.addresses_in_maps(self.addresses.redirected(), |kind| kind & both == both)
    }

    fn addresses_in_maps<'a>(
        &self,
        addresses: impl Iterator<Item = &'a Addr>,
        is_meant: impl Fn(u32) -> bool,
    ) -> BTreeSet<IpAddr> {
        let kind = |addr| self.actual.addresses.get(addr).copied().unwrap_or(0);
        addresses.filter(|addr| is_meant(kind(addr))).map(|addr| (*addr).into()).collect()
    }

    /// What goes makes room for what comes, and one that fails keeps no other.
    fn settle_addresses(&mut self, writer: &mut impl Writer) -> Result<(), WriteError> {
        let mut result = Ok(());
        for (addr, op) in self.addresses.pending() {
            match self.write(writer, &op) {
                Ok(()) => self.addresses.settled(&addr),
                Err(error) => result = result.and(Err(error)),
            }
        }
        result
    }

    /// Frees what has rested long enough. Returns whether anything still rests.
    ///
    /// # Errors
    /// A write failed; it is tried again next time.
    pub fn collect(&mut self, writer: &mut impl Writer, now_ns: u64) -> Result<bool, WriteError> {
        for id in self.backends.expired(now_ns) {
            self.write(writer, &Op::DeleteBackend(id))?;
            self.backends.free(id);
        }
        for id in self.nodes.expired(now_ns) {
            self.write(writer, &Op::DeleteNode(id))?;
            self.nodes.free(id);
        }
        self.settle_addresses(writer)?;
        self.slots.release_expired(now_ns);
        self.service_ids.release_expired(now_ns);
        let resting = self.backends.is_resting() || self.nodes.is_resting();
        Ok(resting || self.slots.is_resting() || self.service_ids.is_resting())
    }

    /// Removes what an earlier run left and nobody can name any more: entries of unknown services. For after
    /// the first complete listing.
    ///
    /// # Errors
    /// A write failed; it is safe to call again.
    pub fn purge(&mut self, writer: &mut impl Writer) -> Result<(), WriteError> {
        let known: BTreeSet<u32> = self.units.values().map(|unit| unit.service_id).collect();
        let frontends = self.actual.frontends.iter();
        let strays = frontends.filter(|(_, value)| !known.contains(&value.service_id)).map(|(key, _)| *key);
        for key in strays.collect::<BTreeSet<_>>() {
            self.write(writer, &Op::DeleteFrontend(key))?;
        }
        let ranges = self.actual.source_ranges.iter();
        let strays =
            ranges.filter(|(key, _)| !known.contains(&key.service_id) && key.service_id != SERVICE_CIDRS);
        for (key, prefix) in strays.copied().collect::<Vec<_>>() {
            self.write(writer, &Op::DeleteSourceRange(key, prefix))?;
        }
        let strays = self.actual.services.keys().filter(|id| !known.contains(id)).copied();
        for id in strays.collect::<BTreeSet<_>>() {
            self.write(writer, &Op::DeleteService(id))?;
        }
        let strays = self.actual.backends.keys().filter(|id| !self.backends.has(**id)).copied();
        for id in strays.collect::<BTreeSet<_>>() {
            self.write(writer, &Op::DeleteBackend(id))?;
        }
        self.settle_addresses(writer)?;
        let strays = self.actual.nodes.keys().filter(|id| !self.nodes.has(**id)).copied();
        for id in strays.collect::<BTreeSet<_>>() {
            self.write(writer, &Op::DeleteNode(id))?;
        }
        Ok(())
    }

    fn last_compiled(&self, name: &ObjectName) -> Vec<CompiledPort> {
        let ids = self.by_service.get(name).into_iter().flatten();
        ids.filter_map(|id| self.units.get(id)?.compiled.clone()).collect()
    }

    /// Does one write unless the maps say so already; on success the mirror says so too.
    fn write(&mut self, writer: &mut impl Writer, op: &Op) -> Result<(), WriteError> {
        if self.actual.lacks(op) {
            self.has_room(op)?;
            writer.write(op)?;
            self.writes += 1;
            self.note_owner(op);
            self.note_local(op);
            self.actual.apply(op);
        }
        Ok(())
    }

    /// The last place in `FRONTENDS` is the self-probe's.
    fn has_room(&self, op: &Op) -> Result<(), WriteError> {
        let capacity = self.sizes.max_frontends;
        match op {
            Op::PutFrontend(key, _)
                if self.actual.frontends.len() >= capacity as usize
                    && !self.actual.frontends.contains_key(key) =>
            {
                Err(WriteError::Full { map: "FRONTENDS", capacity, flag: "--max-frontends" })
            }
            _ => Ok(()),
        }
    }

    /// Keeps the addresses of this node's endpoints in step with a write that is about to enter `actual`.
    fn note_local(&mut self, op: &Op) {
        let (id, backend) = match op {
            Op::PutBackend(id, backend) => (*id, Some(backend)),
            Op::DeleteBackend(id) => (*id, None),
            _ => return,
        };
        let here = backend.filter(|backend| self.is_here(backend));
        self.addresses.note_local(id, here.map(|backend| backend.addr));
    }

    /// Keeps `frontends_of` in step with a write that is about to enter `actual`.
    fn note_owner(&mut self, op: &Op) {
        let (Op::PutFrontend(key, _) | Op::DeleteFrontend(key)) = op else { return };
        let comes_or_goes = matches!(op, Op::DeleteFrontend(_)) || !self.actual.frontends.contains_key(key);
        let new = if let Op::PutFrontend(_, value) = op { Some(value) } else { None };
        self.addresses.note(key, self.actual.frontends.get(key), new);
        self.node_ports_changed |= key.scope == 1 && comes_or_goes;
        let old_owner = self.actual.frontends.get(key).map(|old| old.service_id);
        let leaves = old_owner.is_some() && old_owner != new.map(|new| new.service_id);
        self.udp_left |= key.protocol == UDP && leaves;
        if let Some(old) = self.actual.frontends.get(key)
            && let Some(keys) = self.frontends_of.get_mut(&old.service_id)
        {
            keys.remove(key);
            if keys.is_empty() {
                self.frontends_of.remove(&old.service_id);
            }
        }
        if let Op::PutFrontend(key, value) = op {
            self.frontends_of.entry(value.service_id).or_default().insert(*key);
        }
    }
}

#[cfg(test)]
mod tests;
