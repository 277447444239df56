//! The pinned maps through bpf(2): open, read whole, write one entry.

use std::{collections::BTreeSet, io, path::Path};

use anyhow::{Context as _, Result, ensure};
use aya::maps::{
    Array, HashMap, Map, MapData, MapError, PerCpuArray,
    lpm_trie::{Key, LpmTrie},
};
use bytemuck::must_cast;
use sluice_common::{
    Reason,
    layout::{
        AffinityKey, AffinityValue, CONFIG_FAIL_CLOSED, CONFIG_HOST_NETNS, FrontendKey, FrontendValue,
        PROBE_ID, SCHEMAS_CAPACITY, ServiceValue,
    },
};

use super::{Op, Pins, SPECS, Tables, WriteError, Writer};

/// Handles on the maps that userspace reads or writes. Works with and without an agent.
pub struct BpfMaps {
    frontends: HashMap<MapData, [u8; 20], [u8; 32]>,
    slots: Array<MapData, [u8; 16]>,
    backends: Array<MapData, [u8; 24]>,
    services: HashMap<MapData, u32, [u8; 224]>,
    nodes: HashMap<MapData, u32, [u8; 128]>,
    addresses: HashMap<MapData, [u8; 16], u32>,
    source_ranges: LpmTrie<MapData, [u8; 20], u32>,
    config: Array<MapData, u64>,
    reasons: PerCpuArray<MapData, u64>,
    capacities: Vec<(&'static str, u32)>,
}

mod bytes;
mod carry;
mod counts;
mod events;
mod flows;
mod lookup;
mod pods;
mod schemas;
mod small;

pub use bytes::ServiceBytes;
pub use carry::{Memory, copy_services, shape};
pub use counts::counts;
pub use events::{Events, Record};
pub use flows::Flows;
pub use pods::PodNames;
pub use schemas::{Schemas, note_schemas};
pub use small::{Devices, Listeners, OptOuts, ReservedPorts, SocketMemory};

/// Now, by the clock of all times in maps: ns of `CLOCK_MONOTONIC`.
pub fn now_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec.unsigned_abs() * 1_000_000_000 + now.tv_nsec.unsigned_abs()
}

fn open(path: &Path) -> Result<MapData> {
    MapData::from_pin(path).with_context(|| {
        format!(
            "cannot open the pinned map {}; are you root, is Sluice running here, and with this --bpffs?",
            path.display()
        )
    })
}

impl BpfMaps {
    /// Opens the maps pinned at `pins`.
    ///
    /// # Errors
    /// Names the first pin that cannot be opened.
    pub fn open(pins: &Pins) -> Result<Self> {
        let mut capacities = Vec::with_capacity(SPECS.len());
        let schemas = Schemas::open(pins);
        for spec in SPECS {
            let path = pins.map(spec.name);
            if spec.name == Schemas::NAME && !path.exists() {
                // An agent of a release before there was one runs here.
                capacities.push((spec.name, SCHEMAS_CAPACITY));
                continue;
            }
            let info = open(&path)?.info()?;
            ensure!(
                info.key_size() == spec.key_size && info.value_size() == spec.value_size,
                "the map {} under {} was made by another version of sluice, with entries of {} + {} bytes instead of {} + {}: \
                 use the sluice of the agent that runs there",
                spec.name,
                pins.root().display(),
                info.key_size(),
                info.value_size(),
                spec.key_size,
                spec.value_size
            );
            ensure!(
                schemas.of(info.id()) == spec.schema,
                "the map {} under {} was made by another version of sluice, to which its bytes mean something else \
                 (schema {} instead of {}): use the sluice of the agent that runs there",
                spec.name,
                pins.root().display(),
                schemas.of(info.id()),
                spec.schema
            );
            capacities.push((spec.name, info.max_entries()));
        }
        let data = |name: &str| open(&pins.map(name));
        Ok(Self {
            frontends: Map::HashMap(data("FRONTENDS")?).try_into()?,
            slots: Map::Array(data("SLOTS")?).try_into()?,
            backends: Map::Array(data("BACKENDS")?).try_into()?,
            services: Map::HashMap(data("SERVICES")?).try_into()?,
            nodes: Map::HashMap(data("NODES")?).try_into()?,
            addresses: Map::HashMap(data("ADDRESSES")?).try_into()?,
            source_ranges: Map::LpmTrie(data("SOURCE_RANGES")?).try_into()?,
            config: Map::Array(data("CONFIG")?).try_into()?,
            reasons: Map::PerCpuArray(data("REASONS")?).try_into()?,
            capacities,
        })
    }

    /// Each map's name and capacity in entries.
    pub fn capacities(&self) -> &[(&'static str, u32)] {
        &self.capacities
    }

    /// Everything that services and frontends reach. The self-probe's entries are left out.
    ///
    /// # Errors
    /// The kernel refuses a read.
    pub fn dump(&self) -> Result<Tables> {
        let mut tables = Tables::default();
        for entry in self.frontends.iter() {
            let (key, value) = entry.context("cannot read FRONTENDS")?;
            let value: FrontendValue = must_cast(value);
            if value.service_id != PROBE_ID {
                tables.frontends.insert(must_cast(key), value);
            }
        }
        tables.services = self.services()?;
        for entry in self.nodes.iter() {
            let (id, value) = entry.context("cannot read NODES")?;
            tables.nodes.insert(id, must_cast(value));
        }
        for entry in self.addresses.iter() {
            let (address, kind) = entry.context("cannot read ADDRESSES")?;
            tables.addresses.insert(must_cast(address), kind);
        }
        for entry in self.source_ranges.iter() {
            let (key, _) = entry.context("cannot read SOURCE_RANGES")?;
            tables.source_ranges.insert((must_cast(key.data()), key.prefix_len()));
        }
        self.dump_slots(&mut tables)?;
        Ok(tables)
    }

    /// [`Self::dump`], and the backends that nothing names any more: an agent that ends before they have rested leaves
    /// them. One read for each place in the map, so that only a starting agent does it.
    ///
    /// # Errors
    /// The kernel refuses a read.
    pub fn dump_with_leftovers(&self) -> Result<Tables> {
        let mut tables = self.dump()?;
        for id in (0..self.backends.len()).filter(|id| *id != PROBE_ID) {
            let bytes = self.backends.get(&id, 0).context("cannot read BACKENDS")?;
            if bytes != [0; 24] {
                tables.backends.insert(id, must_cast(bytes));
            }
        }
        Ok(tables)
    }

    /// Names and extent of each service port, by id.
    ///
    /// # Errors
    /// The kernel refuses a read.
    pub fn services(&self) -> Result<std::collections::HashMap<u32, ServiceValue>> {
        let entries = self.services.iter().map(|entry| entry.map(|(id, value)| (id, must_cast(value))));
        entries.collect::<Result<_, _>>().context("cannot read SERVICES")
    }

    fn dump_slots(&self, tables: &mut Tables) -> Result<()> {
        let services = tables.services.values().map(|value| (value.range_start, value.range_count));
        let frontends = tables.frontends.values().flat_map(|value| {
            [(value.cluster_start, value.cluster_count), (value.local_start, value.local_count)]
        });
        // Ranges of a damaged map may be anything: nothing is read past the array's end.
        let end = u64::from(self.slots.len());
        let indices: BTreeSet<u32> = services
            .chain(frontends)
            .flat_map(|(start, count)| u64::from(start)..(u64::from(start) + u64::from(count)).min(end))
            .map(|index| index as u32)
            .collect();
        for index in indices {
            let slot: sluice_common::layout::SlotValue =
                must_cast(self.slots.get(&index, 0).context("cannot read SLOTS")?);
            if slot.service_id == PROBE_ID {
                continue;
            }
            tables.slots.insert(index, slot);
            if slot.backend_id < self.backends.len() && !tables.backends.contains_key(&slot.backend_id) {
                let bytes = self.backends.get(&slot.backend_id, 0).context("cannot read BACKENDS")?;
                let backend: sluice_common::layout::BackendValue = must_cast(bytes);
                if backend.port_be != 0 {
                    tables.backends.insert(slot.backend_id, backend);
                }
            }
        }
        Ok(())
    }

    /// How many UDP exchanges are remembered.
    ///
    /// # Errors
    /// The map cannot be opened or read.
    pub fn udp_flows(pins: &Pins) -> Result<usize> {
        let map: HashMap<MapData, [u8; 32], [u8; 24]> =
            Map::LruHashMap(open(&pins.map("UDP_REVNAT"))?).try_into()?;
        Ok(map.keys().filter(Result::is_ok).count())
    }

    /// The choices of session affinity that are remembered, live or not.
    ///
    /// # Errors
    /// The map cannot be opened or read.
    pub fn affinities(pins: &Pins) -> Result<Vec<(AffinityKey, AffinityValue)>> {
        let map: HashMap<MapData, [u8; 20], [u8; 16]> =
            Map::LruHashMap(open(&pins.map("AFFINITY"))?).try_into()?;
        let entries = map.iter().map(|entry| entry.map(|(key, value)| (must_cast(key), must_cast(value))));
        entries.collect::<Result<_, _>>().context("cannot read AFFINITY")
    }

    /// How often each reason was counted, over all CPUs, since the map was made.
    ///
    /// # Errors
    /// The kernel refuses a read.
    pub fn reasons(&self) -> Result<Vec<(Reason, u64)>> {
        Reason::ALL.iter().map(|reason| Ok((*reason, self.count(*reason)?))).collect()
    }

    /// How often this one was.
    ///
    /// # Errors
    /// The kernel refuses the read.
    pub fn count(&self, reason: Reason) -> Result<u64> {
        let values = self.reasons.get(&(reason as u32), 0).context("cannot read REASONS")?;
        Ok(values.iter().sum())
    }

    /// Tells the programs which network namespace is the node's own.
    ///
    /// # Errors
    /// The kernel refuses the write.
    pub fn set_host_netns(&mut self, cookie: u64) -> Result<()> {
        self.config.set(CONFIG_HOST_NETNS, cookie, 0).context("cannot write to CONFIG")
    }

    /// Tells the programs what to do with connections that need the redirector while it is away.
    ///
    /// # Errors
    /// The kernel refuses the write.
    pub fn set_fail_closed(&mut self, closed: bool) -> Result<()> {
        self.config.set(CONFIG_FAIL_CLOSED, u64::from(closed), 0).context("cannot write to CONFIG")
    }

    /// When the redirector last said that it is well, ns of `CLOCK_MONOTONIC`; 0 is never.
    ///
    /// # Errors
    /// The map cannot be opened or read.
    pub fn heartbeat_ns(pins: &Pins) -> Result<u64> {
        let map: Array<MapData, u64> = Map::Array(open(&pins.map("HEARTBEAT"))?).try_into()?;
        map.get(&0, 0).context("cannot read HEARTBEAT")
    }

    /// Removes the frontends of self-probes that did not come to their end.
    ///
    /// # Errors
    /// The kernel refuses a read or a write.
    pub fn forget_probes(&mut self) -> Result<()> {
        let entries = self.frontends.iter().filter_map(Result::ok);
        let probes =
            entries.filter(|(_, value)| must_cast::<_, FrontendValue>(*value).service_id == PROBE_ID);
        for (key, _) in probes.collect::<Vec<_>>() {
            self.write(&Op::DeleteFrontend(must_cast(key)))?;
        }
        Ok(())
    }

    /// Sets the self-probe's frontend; slot and backend 0 are its own.
    ///
    /// # Errors
    /// The kernel refuses a write.
    pub fn put_probe(
        &mut self,
        key: FrontendKey,
        value: FrontendValue,
        slot: sluice_common::layout::SlotValue,
        backend: sluice_common::layout::BackendValue,
    ) -> Result<(), WriteError> {
        self.write(&Op::PutBackend(PROBE_ID, backend))?;
        self.write(&Op::PutSlot(PROBE_ID, slot))?;
        self.write(&Op::PutFrontend(key, value))
    }

    fn capacity(&self, map: &str) -> (&'static str, u32, &'static str) {
        let index = SPECS.iter().position(|spec| spec.name == map).unwrap_or(0);
        (SPECS[index].name, self.capacities[index].1, SPECS[index].flag)
    }

    fn explain(&self, map: &str, error: MapError) -> WriteError {
        let (map, capacity, flag) = self.capacity(map);
        match error {
            // Of hash tables and arrays, and of tries.
            MapError::SyscallError(error)
                if matches!(error.io_error.raw_os_error(), Some(libc::E2BIG | libc::ENOSPC)) =>
            {
                WriteError::Full { map, capacity, flag }
            }
            MapError::SyscallError(error) => WriteError::Refused { map, source: error.io_error },
            MapError::OutOfBounds { .. } => WriteError::Full { map, capacity, flag },
            other => WriteError::Refused { map, source: io::Error::other(other) },
        }
    }
}

/// Deleting what is gone already is no failure: a retry after a crash does it.
fn deleted(result: Result<(), MapError>) -> Result<(), MapError> {
    match result {
        Err(MapError::KeyNotFound) => Ok(()),
        Err(MapError::SyscallError(error)) if error.io_error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

impl Writer for BpfMaps {
    fn write(&mut self, op: &Op) -> Result<(), WriteError> {
        let (map, result) = match *op {
            Op::PutNode(id, value) => ("NODES", self.nodes.insert(id, must_cast::<_, [u8; 128]>(value), 0)),
            Op::PutBackend(id, value) => {
                ("BACKENDS", self.backends.set(id, must_cast::<_, [u8; 24]>(value), 0))
            }
            Op::PutSlot(index, value) => ("SLOTS", self.slots.set(index, must_cast::<_, [u8; 16]>(value), 0)),
            Op::PutService(id, value) => {
                ("SERVICES", self.services.insert(id, must_cast::<_, [u8; 224]>(value), 0))
            }
            Op::PutFrontend(key, value) => (
                "FRONTENDS",
                self.frontends.insert(must_cast::<_, [u8; 20]>(key), must_cast::<_, [u8; 32]>(value), 0),
            ),
            Op::DeleteFrontend(key) => ("FRONTENDS", deleted(self.frontends.remove(&must_cast(key)))),
            Op::DeleteService(id) => ("SERVICES", deleted(self.services.remove(&id))),
            Op::DeleteBackend(id) => ("BACKENDS", self.backends.set(id, [0; 24], 0)),
            Op::DeleteNode(id) => ("NODES", deleted(self.nodes.remove(&id))),
            Op::PutAddress(address, kind) => {
                ("ADDRESSES", self.addresses.insert(must_cast::<_, [u8; 16]>(address), kind, 0))
            }
            Op::DeleteAddress(address) => ("ADDRESSES", deleted(self.addresses.remove(&must_cast(address)))),
            Op::PutSourceRange(key, prefix) => {
                ("SOURCE_RANGES", self.source_ranges.insert(&Key::new(prefix, must_cast(key)), 1, 0))
            }
            Op::DeleteSourceRange(key, prefix) => {
                ("SOURCE_RANGES", deleted(self.source_ranges.remove(&Key::new(prefix, must_cast(key)))))
            }
        };
        result.map_err(|error| self.explain(map, error))
    }
}
