//! All that an agent writes into the pinned maps, in a form that does not depend on how it came there. Reads the maps by
//! itself, not by the agent's code.
//!
//! Which id a service, a backend, a node or a range of slots got depends on what came first, so that ids are replaced by
//! what they stand for, and the slots of a range, which are sorted by the ids of their backends, are sorted by name.
//! Everything else is compared byte for byte: flags, checks, padding. Left out: slots that no service names (nothing
//! reads them) and the self-probe's entries, which come and go.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
};

use anyhow::{Context as _, Result, bail, ensure};
use aya::{
    Pod,
    maps::{Array, HashMap, Map, MapData},
};
use bytemuck::must_cast;
use sluice::maps::{Pins, SPECS, bpf::BpfMaps};
use sluice_common::layout::{
    ANY_DEVICE, BackendValue, CONFIG_CAPACITY, CONFIG_NO_POD_FLOWS, CONFIG_PATHS_UNTIL, CONFIG_POD_FLOWS,
    CONFIG_WORKERS, FrontendKey, FrontendValue, NodeValue, PROBE_ID, ServiceValue, SlotValue, SourceRangeKey,
};

use crate::world::{Node, tool};

/// Maps that this module compares, and those that others write. A new map must be put into one of them.
const COMPARED: [&str; 12] = [
    "FRONTENDS",
    "SLOTS",
    "BACKENDS",
    "SERVICES",
    "NODES",
    "ADDRESSES",
    "CONFIG",
    "DEVICES",
    "OPT_OUTS",
    "PODS",
    "RESERVED",
    "SOURCE_RANGES",
];
/// Places in `CONFIG` that hang on what happens: how many listeners the redirector has, when connections began.
const OF_OTHERS: [u32; 4] = [CONFIG_WORKERS, CONFIG_POD_FLOWS, CONFIG_NO_POD_FLOWS, CONFIG_PATHS_UNTIL];
const OTHERS: [&str; 12] = [
    "UDP_REVNAT",
    "AFFINITY",
    "SOCKETS",
    "LISTENERS",
    "HEARTBEAT",
    "REASONS",
    "FLOWS",
    "FRAGMENTS",
    "PATHS",
    "ANSWERS",
    "SCHEMAS",
    "EVENTS",
];

/// The contents as lines, in order.
///
/// # Errors
/// A map cannot be read, or something in it is damaged, or rests, or leaked: an id that leads nowhere, a backend or a
/// node that nothing names, slots that are out of order, a device that is not there.
pub fn contents(node: &Node) -> Result<Vec<String>> {
    for spec in SPECS {
        let known = COMPARED.contains(&spec.name) || OTHERS.contains(&spec.name);
        ensure!(known, "{}: nobody said whether the agent writes it", spec.name);
    }
    let maps = Raw::read(&Pins::at(&node.bpffs()))?;
    let names = devices(node)?;
    let mut lines = Vec::new();
    let mut ranges: BTreeSet<(u32, u32)> = BTreeSet::new();
    for (id, service) in &maps.services {
        let range = (service.range_start, service.range_count);
        ranges.insert(range);
        let bytes = ServiceValue { range_start: 0, ..*service };
        let slots = sorted(maps.slots(*id, range.0, range.1)?);
        lines.push(format!("service {} {:?} {slots:#?}", maps.service(*id)?, bytemuck::bytes_of(&bytes)));
    }
    for (key, value) in &maps.frontends {
        let cluster = maps.slots(value.service_id, value.cluster_start, value.cluster_count)?;
        let local = maps.slots(value.service_id, value.local_start, value.local_count)?;
        // Lists are in the order of ids, which differ; tables have each endpoint in a place of its own.
        let is_table = sluice_common::choose::is_maglev(value);
        let [cluster, local] = [cluster, local].map(|slots| if is_table { slots } else { sorted(slots) });
        let bytes = FrontendValue { service_id: 0, cluster_start: 0, local_start: 0, ..*value };
        lines.push(format!(
            "frontend {:?} {} {:?} cluster {cluster:#?} local {local:#?}",
            bytemuck::bytes_of(key),
            maps.service(value.service_id)?,
            bytemuck::bytes_of(&bytes)
        ));
    }
    maps.nothing_unused(&ranges)?;
    for id in maps.backends.keys() {
        lines.push(format!("backend {}", maps.backend(*id)?));
    }
    lines.extend(maps.nodes.values().map(|node| format!("node {:?}", bytemuck::bytes_of(node))));
    lines.extend(maps.addresses.iter().map(|(address, kind)| format!("address {address:?} is {kind}")));
    lines.extend(maps.config.iter().map(|(index, value)| format!("config {index} is {value}")));
    for (key, prefix) in &maps.source_ranges {
        lines.push(format!("clients of {} from {:?}/{prefix}", maps.service(key.service_id)?, key.addr));
    }
    lines.extend(maps.opt_outs.iter().map(|(cookie, pod)| format!("opt-out {cookie} {pod:?}")));
    lines.extend(maps.pods.iter().map(|(address, pod)| format!("pod at {address:?} {pod:?}")));
    for (index, value) in &maps.devices {
        let name = names.get(index).with_context(|| format!("device {index} is not there"))?;
        lines.push(format!("device {name} {value:?}"));
    }
    lines.extend(maps.reserved.keys().map(|port| format!("reserved {port}")));
    lines.sort();
    Ok(lines)
}

fn sorted(mut lines: Vec<String>) -> Vec<String> {
    lines.sort();
    lines
}

/// Names of the node's devices, by interface index; index 0 stands for all of them.
fn devices(node: &Node) -> Result<BTreeMap<u32, String>> {
    let output = tool("ip").args(["-n", &node.host.netns, "-json", "link"]).output().context("ip")?;
    let links: Vec<serde_json::Value> = serde_json::from_slice(&output.stdout).context("ip -json link")?;
    let name = |link: &serde_json::Value| {
        let index = link["ifindex"].as_u64().context("a device without index")?;
        let name = link["ifname"].as_str().context("a device without name")?;
        Ok((u32::try_from(index)?, name.to_owned()))
    };
    links.iter().map(name).chain([Ok((ANY_DEVICE, "any".to_owned()))]).collect()
}

/// What only one of two contents has; empty if they are equal.
pub fn difference(left: &[String], right: &[String]) -> String {
    let without = |lines: &[String], others: &[String], whose: &str| {
        let only = lines.iter().filter(|line| !others.contains(line));
        only.map(|line| format!("only {whose}: {line}\n")).collect::<String>()
    };
    let text = without(left, right, "left") + &without(right, left, "right");
    if text.is_empty() && left.len() != right.len() {
        "some entries are there twice".to_owned()
    } else {
        text
    }
}

/// The maps as they are.
struct Raw {
    frontends: Vec<(FrontendKey, FrontendValue)>,
    services: BTreeMap<u32, ServiceValue>,
    slots: Array<MapData, [u8; 16]>,
    backends: BTreeMap<u32, BackendValue>,
    nodes: BTreeMap<u32, NodeValue>,
    addresses: BTreeMap<[u8; 16], u32>,
    opt_outs: BTreeMap<u64, [u8; 128]>,
    pods: BTreeMap<[u8; 16], [u8; 128]>,
    reserved: BTreeMap<u32, u32>,
    devices: BTreeMap<u32, [u8; 40]>,
    config: Vec<(u32, u64)>,
    source_ranges: BTreeSet<(SourceRangeKey, u32)>,
}

fn hash<K: Pod, V: Pod>(pins: &Pins, name: &str) -> Result<Vec<(K, V)>> {
    let data = MapData::from_pin(pins.map(name)).with_context(|| name.to_owned())?;
    let map: HashMap<MapData, K, V> = Map::HashMap(data).try_into()?;
    map.iter().collect::<Result<_, _>>().with_context(|| name.to_owned())
}

fn array<V: Pod>(pins: &Pins, name: &str) -> Result<Array<MapData, V>> {
    let data = MapData::from_pin(pins.map(name)).with_context(|| name.to_owned())?;
    Ok(Map::Array(data).try_into()?)
}

impl Raw {
    fn read(pins: &Pins) -> Result<Self> {
        let frontends = hash::<[u8; 20], [u8; 32]>(pins, "FRONTENDS")?;
        let frontends = frontends.into_iter().map(|(key, value)| (must_cast(key), must_cast(value)));
        let services = hash::<u32, [u8; 224]>(pins, "SERVICES")?;
        let nodes = hash::<u32, [u8; 128]>(pins, "NODES")?;
        let backends = array::<[u8; 24]>(pins, "BACKENDS")?;
        let backend = |id: u32| Ok((id, must_cast::<_, BackendValue>(backends.get(&id, 0)?)));
        let backends: Vec<(u32, BackendValue)> = (0..backends.len()).map(backend).collect::<Result<_>>()?;
        let config = array::<u64>(pins, "CONFIG")?;
        let agents = (0..CONFIG_CAPACITY).filter(|index| !OF_OTHERS.contains(index));
        let config: Vec<(u32, u64)> =
            agents.map(|index| Ok((index, config.get(&index, 0)?))).collect::<Result<_>>()?;
        Ok(Self {
            frontends: frontends
                .filter(|(_, value): &(FrontendKey, FrontendValue)| value.service_id != PROBE_ID)
                .collect(),
            services: services.into_iter().map(|(id, value)| (id, must_cast(value))).collect(),
            slots: array(pins, "SLOTS")?,
            backends: backends
                .into_iter()
                .filter(|(id, value)| *id != PROBE_ID && *value != bytemuck::Zeroable::zeroed())
                .collect(),
            nodes: nodes.into_iter().map(|(id, value)| (id, must_cast(value))).collect(),
            addresses: hash(pins, "ADDRESSES")?.into_iter().collect(),
            opt_outs: hash(pins, "OPT_OUTS")?.into_iter().collect(),
            pods: hash(pins, "PODS")?.into_iter().collect(),
            reserved: hash(pins, "RESERVED")?.into_iter().collect(),
            devices: hash(pins, "DEVICES")?.into_iter().collect(),
            config,
            source_ranges: BpfMaps::open(pins)?.dump()?.source_ranges,
        })
    }

    /// What a service's id stands for.
    fn service(&self, id: u32) -> Result<String> {
        let value = self.services.get(&id).with_context(|| format!("service {id} has no names"))?;
        let [namespace, name, port] =
            [value.namespace, value.name, value.port_name].map(|name| name.as_str().to_owned());
        Ok(format!("{namespace}/{name}:{port} IPv{}", value.family))
    }

    fn backend(&self, id: u32) -> Result<String> {
        let value = self.backends.get(&id).with_context(|| format!("backend {id} is not there"))?;
        let address = SocketAddr::new(IpAddr::from(value.addr), u16::from_be(value.port_be));
        let node = match value.node_id {
            0 => "nowhere".to_owned(),
            id => {
                let node = self.nodes.get(&id).with_context(|| format!("node {id} is not there"))?;
                format!("{} in zone {:?}", node.name.as_str(), node.zone.as_str())
            }
        };
        Ok(format!("{address} on {node}, pad {}", value.pad))
    }

    /// The slots of a range of the service `id`.
    fn slots(&self, id: u32, start: u32, count: u32) -> Result<Vec<String>> {
        let mut lines = Vec::new();
        for index in start..start + count {
            let slot: SlotValue = must_cast(self.slots.get(&index, 0)?);
            ensure!(slot.service_id == id, "slot {index} of service {id} belongs to {}", slot.service_id);
            let bytes = SlotValue { backend_id: 0, service_id: 0, ..slot };
            lines.push(format!("{} {:?}", self.backend(slot.backend_id)?, bytemuck::bytes_of(&bytes)));
        }
        Ok(lines)
    }

    /// Fails if a backend or a node is there that nothing names, or if two services share a slot.
    fn nothing_unused(&self, ranges: &BTreeSet<(u32, u32)>) -> Result<()> {
        let (mut backends, mut nodes, mut seen) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
        for index in ranges.iter().flat_map(|(start, count)| *start..start + count) {
            ensure!(seen.insert(index), "slot {index} is in two ranges");
            let slot: SlotValue = must_cast(self.slots.get(&index, 0)?);
            backends.insert(slot.backend_id);
            nodes.extend(self.backends.get(&slot.backend_id).map(|backend| backend.node_id));
        }
        if let Some(id) = self.backends.keys().find(|id| !backends.contains(id)) {
            bail!("no slot names the backend {}", self.backend(*id)?);
        }
        if let Some(id) = self.nodes.keys().find(|id| !nodes.contains(id)) {
            bail!("no backend names the node {id}");
        }
        Ok(())
    }
}
