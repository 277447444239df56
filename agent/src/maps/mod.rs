//! The maps as userspace sees them: their names and sizes, one write at a time, and their whole contents.

use std::collections::{BTreeSet, HashMap};

use sluice_common::Addr;
use sluice_common::layout::{
    BackendValue, FrontendKey, FrontendValue, NodeValue, ServiceValue, SlotValue, SourceRangeKey,
};

pub mod bpf;
mod pins;
mod sizes;

pub use pins::Pins;
pub use sizes::{MapSpec, SPECS, Shape, Sizes};

/// What the maps hold, free entries left out. Backends, slots and nodes by id.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Tables {
    /// `FRONTENDS`.
    pub frontends: HashMap<FrontendKey, FrontendValue>,
    /// `SERVICES`.
    pub services: HashMap<u32, ServiceValue>,
    /// `SLOTS`, those that services and frontends name.
    pub slots: HashMap<u32, SlotValue>,
    /// `BACKENDS`.
    pub backends: HashMap<u32, BackendValue>,
    /// `NODES`.
    pub nodes: HashMap<u32, NodeValue>,
    /// `ADDRESSES`.
    pub addresses: HashMap<Addr, u32>,
    /// `SOURCE_RANGES`, with prefix lengths.
    pub source_ranges: BTreeSet<(SourceRangeKey, u32)>,
}

/// One write to one map.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Op {
    /// Sets a node's names.
    PutNode(u32, NodeValue),
    /// Sets a backend.
    PutBackend(u32, BackendValue),
    /// Sets a slot.
    PutSlot(u32, SlotValue),
    /// Sets a service's names and range.
    PutService(u32, ServiceValue),
    /// Sets a frontend: the atomic switch.
    PutFrontend(FrontendKey, FrontendValue),
    /// Removes a frontend.
    DeleteFrontend(FrontendKey),
    /// Removes a service.
    DeleteService(u32),
    /// Zeroes a backend.
    DeleteBackend(u32),
    /// Removes a node.
    DeleteNode(u32),
    /// Says what an address is: one of the node's, or a cluster IP.
    PutAddress(Addr, u32),
    /// It is nothing any more.
    DeleteAddress(Addr),
    /// Admits a network's clients to a service; the length of its prefix counts the service id.
    PutSourceRange(SourceRangeKey, u32),
    /// Does so no longer.
    DeleteSourceRange(SourceRangeKey, u32),
}

/// A write that did not happen.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The map has no room.
    #[error("{map} is full ({capacity} entries); raise {flag}")]
    Full {
        /// Its name.
        map: &'static str,
        /// Its capacity.
        capacity: u32,
        /// The flag that sets it.
        flag: &'static str,
    },
    /// The kernel refused.
    #[error("cannot write to {map}")]
    Refused {
        /// Its name.
        map: &'static str,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

impl WriteError {
    /// The map's name.
    pub const fn map(&self) -> &'static str {
        match self {
            Self::Full { map, .. } | Self::Refused { map, .. } => map,
        }
    }
}

/// Somewhere that takes writes: the pinned maps, or a test's table.
pub trait Writer {
    /// Does one write.
    ///
    /// # Errors
    /// The map is full or the kernel refuses; nothing changed then.
    fn write(&mut self, op: &Op) -> Result<(), WriteError>;
}

impl Tables {
    /// How many entries each map has.
    pub fn counts(&self) -> [(&'static str, usize); 7] {
        [
            ("FRONTENDS", self.frontends.len()),
            ("SERVICES", self.services.len()),
            ("SLOTS", self.slots.len()),
            ("BACKENDS", self.backends.len()),
            ("NODES", self.nodes.len()),
            ("ADDRESSES", self.addresses.len()),
            ("SOURCE_RANGES", self.source_ranges.len()),
        ]
    }

    /// What `op` makes of these contents.
    pub fn apply(&mut self, op: &Op) {
        match *op {
            Op::PutNode(id, value) => drop(self.nodes.insert(id, value)),
            Op::PutBackend(id, value) => drop(self.backends.insert(id, value)),
            Op::PutSlot(index, value) => drop(self.slots.insert(index, value)),
            Op::PutService(id, value) => drop(self.services.insert(id, value)),
            Op::PutFrontend(key, value) => drop(self.frontends.insert(key, value)),
            Op::DeleteFrontend(key) => drop(self.frontends.remove(&key)),
            Op::DeleteService(id) => drop(self.services.remove(&id)),
            Op::DeleteBackend(id) => drop(self.backends.remove(&id)),
            Op::DeleteNode(id) => drop(self.nodes.remove(&id)),
            Op::PutAddress(address, kind) => drop(self.addresses.insert(address, kind)),
            Op::DeleteAddress(address) => drop(self.addresses.remove(&address)),
            Op::PutSourceRange(key, prefix) => drop(self.source_ranges.insert((key, prefix))),
            Op::DeleteSourceRange(key, prefix) => drop(self.source_ranges.remove(&(key, prefix))),
        }
    }

    /// Whether `op` would change anything.
    pub fn lacks(&self, op: &Op) -> bool {
        match *op {
            Op::PutNode(id, value) => self.nodes.get(&id) != Some(&value),
            Op::PutBackend(id, value) => self.backends.get(&id) != Some(&value),
            Op::PutSlot(index, value) => self.slots.get(&index) != Some(&value),
            Op::PutService(id, value) => self.services.get(&id) != Some(&value),
            Op::PutFrontend(key, value) => self.frontends.get(&key) != Some(&value),
            Op::DeleteFrontend(key) => self.frontends.contains_key(&key),
            Op::DeleteService(id) => self.services.contains_key(&id),
            Op::DeleteBackend(id) => self.backends.contains_key(&id),
            Op::DeleteNode(id) => self.nodes.contains_key(&id),
            Op::PutAddress(address, kind) => self.addresses.get(&address) != Some(&kind),
            Op::DeleteAddress(address) => self.addresses.contains_key(&address),
            Op::PutSourceRange(key, prefix) => !self.source_ranges.contains(&(key, prefix)),
            Op::DeleteSourceRange(key, prefix) => self.source_ranges.contains(&(key, prefix)),
        }
    }
}
