//! Between compiled services and map entries.

use std::{
    collections::BTreeSet,
    iter::repeat_n,
    net::{IpAddr, SocketAddr},
};

use ipnet::IpNet;

use sluice_common::{
    Addr,
    layout::{
        BackendValue, EndpointState, FLAG_EXTERNAL_LOCAL, FLAG_HAS_ENDPOINTS, FLAG_INTERNAL_LOCAL,
        FLAG_MAGLEV, FLAG_REDIRECTED, FLAG_SOURCE_RANGES, FrontendKey, FrontendKind, FrontendValue,
        NO_BACKEND, Name, NodeValue, ServiceValue, SlotValue, SourceRangeKey,
    },
};

use super::ranges::Range;
use crate::{
    compile::{CompiledEndpoint, CompiledPort, Dialled, Frontend, PortId, Reach, maglev, reach},
    model::{Family, ObjectName, Protocol, ServiceKind},
};

/// The key for what a client dials; the unspecified address stands for every address of the node (NodePort).
pub fn frontend_key(dialled: &Dialled) -> FrontendKey {
    FrontendKey {
        addr: Addr::from(dialled.address),
        port_be: dialled.port.to_be(),
        protocol: dialled.protocol as u8,
        scope: u8::from(dialled.address.is_unspecified()),
    }
}

/// What a client dials to meet `key`; `None` if the protocol is not one we know.
pub fn dialled(key: &FrontendKey) -> Option<Dialled> {
    Some(Dialled {
        address: IpAddr::from(key.addr),
        port: u16::from_be(key.port_be),
        protocol: Protocol::from_number(key.protocol)?,
    })
}

pub fn node_value(endpoint: &CompiledEndpoint) -> Option<NodeValue> {
    let name = endpoint.node.as_deref()?;
    Some(NodeValue { name: Name::new(name), zone: Name::new(endpoint.zone.as_deref().unwrap_or_default()) })
}

pub fn backend_value(endpoint: &CompiledEndpoint, node_id: u32) -> BackendValue {
    BackendValue { addr: Addr::from(endpoint.address), port_be: endpoint.port.to_be(), pad: 0, node_id }
}

/// Which of a port's endpoints stand in its range: cluster, then local, then the excluded ones. Each part is sorted by
/// backend id, for session affinity looks a backend up in it; or cluster and local are a Maglev table each, which needs no
/// affinity.
pub struct Order {
    /// Indices into `CompiledPort::endpoints`.
    pub endpoints: Vec<usize>,
    /// Slots between cluster and local that lead nowhere; they count as cluster.
    refused: u32,
    cluster: u32,
    local: u32,
    is_maglev: bool,
}

impl Order {
    /// Each endpoint as often as its weight says.
    pub fn of(port: &CompiledPort, backend_ids: &[u32]) -> Self {
        let pick = |want: fn(&CompiledEndpoint) -> bool| {
            let numbered = port.endpoints.iter().enumerate();
            let mut picked: Vec<usize> =
                numbered.filter(|(_, endpoint)| want(endpoint)).map(|(index, _)| index).collect();
            picked.sort_by_key(|index| backend_ids[*index]);
            picked
        };
        let weigh = |index: usize| repeat_n(index, port.endpoints[index].weight as usize);
        let mut endpoints: Vec<usize> =
            pick(|endpoint| endpoint.in_cluster).into_iter().flat_map(weigh).collect();
        let cluster = endpoints.len() as u32;
        endpoints.extend(pick(|endpoint| endpoint.in_local).into_iter().flat_map(weigh));
        let local = endpoints.len() as u32 - cluster;
        endpoints.extend(pick(|endpoint| endpoint.excluded.is_some()));
        Self { endpoints, refused: port.refused, cluster: cluster + port.refused, local, is_maglev: false }
    }

    /// Tables; `None` when some endpoints are too many for one.
    pub fn maglev(port: &CompiledPort) -> Option<Self> {
        let table = |want: fn(&CompiledEndpoint) -> bool| {
            let numbered = port.endpoints.iter().enumerate().filter(|(_, endpoint)| want(endpoint));
            let (indices, ends): (Vec<usize>, Vec<SocketAddr>) =
                numbered.map(|(index, it)| (index, SocketAddr::new(it.address, it.port))).unzip();
            let places = maglev::table(&ends)?;
            Some(places.into_iter().map(|place| indices[place]).collect::<Vec<_>>())
        };
        let (mut endpoints, local) = (table(|it| it.in_cluster)?, table(|it| it.in_local)?);
        let (cluster, local_count) = (endpoints.len() as u32, local.len() as u32);
        endpoints.extend(local);
        let excluded = port.endpoints.iter().enumerate().filter(|(_, it)| it.excluded.is_some());
        endpoints.extend(excluded.map(|(index, _)| index));
        Some(Self { endpoints, refused: 0, cluster, local: local_count, is_maglev: true })
    }
}

/// The slots of a service, given the backend id of each endpoint (by index).
pub fn slots(port: &CompiledPort, order: &Order, service_id: u32, backend_ids: &[u32]) -> Vec<SlotValue> {
    let slot = |index: &usize| {
        let endpoint = &port.endpoints[*index];
        SlotValue {
            backend_id: backend_ids[*index],
            service_id,
            state: endpoint.state as u8,
            excluded: endpoint.excluded.map_or(0, |excluded| excluded as u8),
            local: u8::from(endpoint.local),
            pad: 0,
            pad2: 0,
        }
    };
    // No id is greater than that of no backend, so that the range stays sorted.
    let nowhere = SlotValue {
        backend_id: NO_BACKEND,
        service_id,
        state: EndpointState::NotReady as u8,
        excluded: 0,
        local: 0,
        pad: 0,
        pad2: 0,
    };
    let (cluster, others) = order.endpoints.split_at((order.cluster - order.refused) as usize);
    let nowhere = repeat_n(nowhere, order.refused as usize);
    cluster.iter().map(slot).chain(nowhere).chain(others.iter().map(slot)).collect()
}

pub fn frontend_value(
    key: &FrontendKey,
    port: &CompiledPort,
    frontend: &Frontend,
    order: &Order,
    service_id: u32,
    range: Range,
) -> FrontendValue {
    let mut flags = 0;
    if port.endpoints.iter().any(|endpoint| endpoint.state != EndpointState::NotReady) {
        flags |= FLAG_HAS_ENDPOINTS;
    }
    if port.redirected && reach(frontend.kind) != Reach::Never {
        flags |= FLAG_REDIRECTED;
    }
    let external = match frontend.kind {
        FrontendKind::NodePort | FrontendKind::LoadBalancer | FrontendKind::ExternalIp => true,
        FrontendKind::ClusterIp | FrontendKind::Headless => false,
    };
    if port.external_local && external {
        flags |= FLAG_EXTERNAL_LOCAL;
    }
    if order.is_maglev {
        flags |= FLAG_MAGLEV;
    }
    if port.source_ranges.is_some() && frontend.kind == FrontendKind::LoadBalancer {
        flags |= FLAG_SOURCE_RANGES;
    }
    let (mut cluster_start, mut cluster_count) = (range.start, order.cluster);
    let (mut local_start, mut local_count) = (range.start + order.cluster, order.local);
    match frontend.only {
        // An endpoint's own address leads to that endpoint, whatever the policies.
        Some(only) => {
            let position = order.endpoints.iter().position(|index| *index == only);
            cluster_start = range.start + position.unwrap_or(0) as u32;
            cluster_count = u32::from(position.is_some());
            (local_start, local_count) = (cluster_start, cluster_count);
        }
        // The internal policy is about the cluster IP: the other addresses are external ones, even from inside.
        None if port.internal_local && frontend.kind == FrontendKind::ClusterIp => {
            flags |= FLAG_INTERNAL_LOCAL
        }
        None => {}
    }
    FrontendValue {
        check: key.check(),
        service_id,
        flags,
        kind: frontend.kind as u8,
        pad: 0,
        affinity_timeout_s: port.affinity_timeout_s,
        cluster_start,
        cluster_count,
        local_start,
        local_count,
    }
}

/// All of a port's networks; see [`source_range`].
pub fn source_ranges(port: &CompiledPort, service_id: u32) -> BTreeSet<(SourceRangeKey, u32)> {
    port.source_ranges.iter().flatten().map(|network| source_range(service_id, network)).collect()
}

/// A network of a service's clients: key and prefix length, which counts the service id.
pub fn source_range(service_id: u32, network: &IpNet) -> (SourceRangeKey, u32) {
    let before = if network.addr().is_ipv4() { 32 + 96 } else { 32 };
    let key = SourceRangeKey { service_id, addr: Addr::from(network.network()) };
    (key, before + u32::from(network.prefix_len()))
}

pub fn service_value(port: &CompiledPort, range: Range) -> ServiceValue {
    let cluster_ip = port.frontends.iter().find(|(_, frontend)| frontend.kind == FrontendKind::ClusterIp);
    ServiceValue {
        namespace: Name::new(&port.id.service.namespace),
        name: Name::new(&port.id.service.name),
        port_name: Name::new(&port.id.port_name),
        range_start: range.start,
        range_count: range.count,
        port_be: port.port.to_be(),
        protocol: port.protocol as u8,
        kind: port.kind as u8,
        family: port.id.family as u8,
        pad: [0; 3],
        cluster_ip: cluster_ip.map_or(Addr::UNSPECIFIED, |(dialled, _)| Addr::from(dialled.address)),
    }
}

/// The identity that a service id stands for; `None` if the value is damaged.
pub fn port_id(value: &ServiceValue) -> Option<PortId> {
    let family = match value.family {
        4 => Family::V4,
        6 => Family::V6,
        _ => return None,
    };
    ServiceKind::try_from(value.kind).ok()?;
    Some(PortId {
        service: ObjectName::new(value.namespace.as_str(), value.name.as_str()),
        port_name: value.port_name.as_str().to_owned(),
        family,
    })
}
