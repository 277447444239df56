//! Rows of `sluice service`, `frontend` and `backend`.
#![expect(missing_docs, reason = "the fields are the documented keys of the JSON")]

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
};

use serde::Serialize;
use sluice_common::{
    Addr, choose,
    layout::{
        ADDRESS_NODE, AffinityKey, AffinityValue, BackendValue, EndpointState, FLAG_EXTERNAL_LOCAL,
        FLAG_INTERNAL_LOCAL, FLAG_SOURCE_RANGES, FrontendKey, FrontendKind, FrontendValue, ServiceKind,
        ServiceValue, SlotValue, client_of_netns,
    },
};

use super::{algorithm_name, kind_name, path_name, state_name, type_name};
use crate::{
    maps::Tables,
    model::{ObjectName, Protocol},
};

/// A Service.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceRow {
    pub namespace: String,
    pub name: String,
    pub r#type: &'static str,
    pub ports: Vec<PortRow>,
}

/// One of its ports, both families together.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PortRow {
    pub name: String,
    pub protocol: &'static str,
    pub port: u16,
    pub frontends: Vec<PortFrontendRow>,
    pub endpoints: Vec<EndpointRow>,
    /// `random` or `maglev`.
    pub algorithm: &'static str,
}

/// One of the addresses that clients dial for a port.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PortFrontendRow {
    pub kind: &'static str,
    pub address: IpAddr,
    pub port: u16,
    /// `kernel` or `redirector`.
    pub path: &'static str,
}

/// An endpoint of a port.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct EndpointRow {
    pub address: IpAddr,
    pub port: u16,
    pub node: String,
    pub zone: String,
    pub state: &'static str,
    pub local: bool,
    /// Whether clients on this node may be led to it.
    pub used: bool,
    /// Its share of new connections, in parts of the sum over all endpoints.
    pub weight: u32,
}

/// An entry of `FRONTENDS`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct FrontendRow {
    pub address: IpAddr,
    pub port: u16,
    pub protocol: &'static str,
    pub kind: &'static str,
    pub service: String,
    pub port_name: String,
    pub service_id: u32,
    pub cluster_endpoints: u32,
    pub local_endpoints: u32,
    pub internal_local: bool,
    pub external_local: bool,
    /// Whether only clients in the Service's source ranges are admitted.
    pub source_ranges: bool,
    pub affinity_timeout_seconds: u32,
    pub path: &'static str,
    /// `random` or `maglev`.
    pub algorithm: &'static str,
}

/// An entry of `BACKENDS`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BackendRow {
    pub address: IpAddr,
    pub port: u16,
    pub id: u32,
    pub node: String,
    pub zone: String,
    pub services: BTreeSet<String>,
}

/// An entry of `AFFINITY`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AffinityRow {
    pub service: String,
    pub port_name: String,
    /// `netns COOKIE` for sockets, an address for packets.
    pub client: String,
    pub backend: String,
    /// Since the client's last new connection.
    pub age_seconds: u64,
    pub timeout_seconds: u32,
    /// Whether it still binds the client.
    pub live: bool,
}

/// The remembered choices of services that still have affinity, at `now_ns` of `CLOCK_MONOTONIC`.
pub fn affinities(
    tables: &Tables,
    entries: &[(AffinityKey, AffinityValue)],
    now_ns: u64,
) -> Vec<AffinityRow> {
    // What Maglev does not remember any more says nothing.
    let remembering = tables.frontends.values().filter(|value| choose::remembers_clients(value));
    let timeouts: BTreeMap<u32, u32> =
        remembering.map(|value| (value.service_id, value.affinity_timeout_s)).collect();
    let row = |(key, value): &(AffinityKey, AffinityValue)| {
        let timeout_s = timeouts.get(&key.service_id).copied().filter(|timeout_s| *timeout_s > 0)?;
        let service = tables.services.get(&key.service_id)?;
        let backend = tables.backends.get(&value.backend_id)?;
        Some(AffinityRow {
            service: service_name(service),
            port_name: service.port_name.as_str().to_owned(),
            client: client_name(&key.client),
            backend: SocketAddr::new(backend.addr.into(), u16::from_be(backend.port_be)).to_string(),
            age_seconds: now_ns.saturating_sub(value.last_used_ns) / 1_000_000_000,
            timeout_seconds: timeout_s,
            live: choose::is_live(value.last_used_ns, now_ns, timeout_s),
        })
    };
    let mut rows: Vec<AffinityRow> = entries.iter().filter_map(row).collect();
    rows.sort();
    rows
}

fn client_name(client: &Addr) -> String {
    let cookie = u64::from(client.words_be[2]) << 32 | u64::from(client.words_be[3]);
    if *client == client_of_netns(cookie) {
        return format!("netns {cookie}");
    }
    IpAddr::from(*client).to_string()
}

/// All Services, sorted by namespace and name.
pub fn services(tables: &Tables) -> Vec<ServiceRow> {
    let mut ports: BTreeMap<ObjectName, (u8, BTreeMap<String, PortRow>)> = BTreeMap::new();
    let mut units: Vec<(&u32, &ServiceValue)> = tables.services.iter().collect();
    units.sort_by_key(|(id, value)| (value.family, **id));
    let mut frontends_of: BTreeMap<u32, Vec<(&FrontendKey, &FrontendValue)>> = BTreeMap::new();
    for (key, value) in &tables.frontends {
        frontends_of.entry(value.service_id).or_default().push((key, value));
    }
    for (id, value) in units {
        let name = ObjectName::new(value.namespace.as_str(), value.name.as_str());
        let (kind, by_name) = ports.entry(name).or_default();
        *kind = value.kind;
        let row = by_name.entry(value.port_name.as_str().to_owned()).or_insert_with(|| PortRow {
            name: value.port_name.as_str().to_owned(),
            protocol: protocol_name(value.protocol),
            port: u16::from_be(value.port_be),
            frontends: Vec::new(),
            endpoints: Vec::new(),
            algorithm: "random",
        });
        let mut frontends = frontends_of.remove(id).unwrap_or_default();
        frontends.sort_by_key(|(key, value)| (value.kind, **key));
        row.endpoints.extend(endpoints(tables, value, &frontends));
        for (key, value) in frontends {
            row.algorithm = algorithm_name(value);
            row.frontends.extend(addresses(tables, key).into_iter().map(|address| PortFrontendRow {
                kind: FrontendKind::try_from(value.kind).map_or("?", kind_name),
                address,
                port: u16::from_be(key.port_be),
                path: path_name(value),
            }));
        }
    }
    let row = |(name, (kind, ports)): (ObjectName, (u8, BTreeMap<String, PortRow>))| ServiceRow {
        namespace: name.namespace,
        name: name.name,
        r#type: ServiceKind::try_from(kind).map_or("?", type_name),
        ports: ports.into_values().collect(),
    };
    ports.into_iter().map(row).collect()
}

/// The addresses that a frontend stands for: its own, or those of the node for a NodePort.
fn addresses(tables: &Tables, key: &FrontendKey) -> Vec<IpAddr> {
    if key.scope == 0 {
        return vec![key.addr.into()];
    }
    let of_family = tables.addresses.iter().filter(|(address, _)| address.is_v4() == key.addr.is_v4());
    let mut addresses: Vec<IpAddr> = of_family
        .filter(|(_, kind)| **kind & ADDRESS_NODE != 0)
        .map(|(address, _)| (*address).into())
        .collect();
    addresses.sort();
    addresses
}

/// The endpoints of one service port, each once.
fn endpoints(
    tables: &Tables,
    service: &ServiceValue,
    frontends: &[(&FrontendKey, &FrontendValue)],
) -> Vec<EndpointRow> {
    let mut rows: BTreeMap<u32, EndpointRow> = BTreeMap::new();
    let mut weights: BTreeMap<u32, u32> = BTreeMap::new();
    // Frontends of one service may lead to different ranges: an endpoint is used if one of them leads to it.
    for (_, frontend) in frontends {
        let mut own: BTreeMap<u32, u32> = BTreeMap::new();
        for slot in used_slots(tables, choose::socket_range(frontend)) {
            *own.entry(slot.backend_id).or_default() += 1;
        }
        for (id, weight) in own {
            let known = weights.entry(id).or_default();
            *known = weight.max(*known);
        }
    }
    let range = service.range_start..service.range_start.saturating_add(service.range_count);
    for slot in range.filter_map(|index| tables.slots.get(&index)) {
        let Some(backend) = tables.backends.get(&slot.backend_id) else { continue };
        let weight = weights.get(&slot.backend_id).copied().unwrap_or(0);
        rows.insert(slot.backend_id, endpoint(tables, slot, backend, weight));
    }
    let mut rows: Vec<EndpointRow> = rows.into_values().collect();
    rows.sort();
    rows
}

fn endpoint(tables: &Tables, slot: &SlotValue, backend: &BackendValue, weight: u32) -> EndpointRow {
    let (node, zone) = node_and_zone(tables, backend.node_id);
    EndpointRow {
        address: backend.addr.into(),
        port: u16::from_be(backend.port_be),
        node,
        zone,
        state: EndpointState::try_from(slot.state).map_or("?", state_name),
        local: slot.local != 0,
        used: weight > 0,
        weight,
    }
}

/// The slots of a range: its first and how many.
pub fn used_slots(tables: &Tables, (start, count): (u32, u32)) -> impl Iterator<Item = &SlotValue> {
    (start..start.saturating_add(count)).filter_map(|index| tables.slots.get(&index))
}

/// All frontends, sorted by address, port and protocol.
pub fn frontends(tables: &Tables) -> Vec<FrontendRow> {
    let row = |(key, value): (&FrontendKey, &FrontendValue)| {
        let service = tables.services.get(&value.service_id);
        FrontendRow {
            address: key.addr.into(),
            port: u16::from_be(key.port_be),
            protocol: protocol_name(key.protocol),
            kind: FrontendKind::try_from(value.kind).map_or("?", kind_name),
            service: service.map_or_else(|| "?".to_owned(), service_name),
            port_name: service.map_or_else(String::new, |service| service.port_name.as_str().to_owned()),
            service_id: value.service_id,
            cluster_endpoints: value.cluster_count,
            local_endpoints: value.local_count,
            internal_local: value.flags & FLAG_INTERNAL_LOCAL != 0,
            external_local: value.flags & FLAG_EXTERNAL_LOCAL != 0,
            source_ranges: value.flags & FLAG_SOURCE_RANGES != 0,
            affinity_timeout_seconds: value.affinity_timeout_s,
            path: path_name(value),
            algorithm: algorithm_name(value),
        }
    };
    let mut rows: Vec<FrontendRow> = tables.frontends.iter().map(row).collect();
    rows.sort();
    rows
}

/// All backends that a service reaches, sorted by address and port.
pub fn backends(tables: &Tables) -> Vec<BackendRow> {
    let mut services: BTreeMap<u32, BTreeSet<String>> = BTreeMap::new();
    for service in tables.services.values() {
        let range = service.range_start..service.range_start.saturating_add(service.range_count);
        for slot in range.filter_map(|index| tables.slots.get(&index)) {
            services.entry(slot.backend_id).or_default().insert(service_name(service));
        }
    }
    let row = |(id, value): (&u32, &BackendValue)| {
        let (node, zone) = node_and_zone(tables, value.node_id);
        BackendRow {
            address: value.addr.into(),
            port: u16::from_be(value.port_be),
            id: *id,
            node,
            zone,
            services: services.get(id).cloned().unwrap_or_default(),
        }
    };
    let mut rows: Vec<BackendRow> = tables.backends.iter().map(row).collect();
    rows.sort();
    rows
}

pub fn service_name(value: &ServiceValue) -> String {
    format!("{}/{}", value.namespace.as_str(), value.name.as_str())
}

pub fn protocol_name(number: u8) -> &'static str {
    Protocol::from_number(number).map_or("?", Protocol::name)
}

fn node_and_zone(tables: &Tables, node_id: u32) -> (String, String) {
    let node = tables.nodes.get(&node_id);
    node.map_or_else(Default::default, |node| (node.name.as_str().to_owned(), node.zone.as_str().to_owned()))
}
