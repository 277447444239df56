//! From the model to what the maps must say. Pure: same input, same output; no ids, no I/O, no clock.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
};

use ipnet::IpNet;
use sluice_common::layout::{Excluded, FrontendKind};

use crate::model::{
    Algorithm, EndpointSlice, EndpointState, Family, ObjectName, Protocol, Service, ServiceKind, ServicePort,
    Store,
};

mod claims;
mod endpoints;
pub mod maglev;
mod split;
mod topology;

pub use claims::Claims;

/// Identity of a service port: what a service id in the maps stands for, across restarts.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct PortId {
    /// The Service.
    pub service: ObjectName,
    /// The port's name; often empty.
    pub port_name: String,
    /// A dual-stack Service has one service port for each family.
    pub family: Family,
}

/// What clients dial.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Dialled {
    /// Address.
    pub address: IpAddr,
    /// Port.
    pub port: u16,
    /// Transport.
    pub protocol: Protocol,
}

/// A service port, compiled.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CompiledPort {
    /// Identity.
    pub id: PortId,
    /// Type of the Service.
    pub kind: ServiceKind,
    /// The Service's port.
    pub port: u16,
    /// Transport.
    pub protocol: Protocol,
    /// For claims: the older Service wins an address that two want.
    pub created_s: i64,
    /// Sockets use the local range.
    pub internal_local: bool,
    /// Clients outside the cluster use the local range, at addresses for them.
    pub external_local: bool,
    /// From where clients are admitted to load balancer addresses; `None` is from everywhere.
    pub source_ranges: Option<Vec<IpNet>>,
    /// Session affinity in seconds; 0 is none.
    pub affinity_timeout_s: u32,
    /// A hash of the client chooses, in a table that every node makes alike.
    pub maglev: bool,
    /// The redirector serves it.
    pub redirected: bool,
    /// What clients dial; `only` restricts a headless frontend to one endpoint.
    pub frontends: BTreeMap<Dialled, Frontend>,
    /// All endpoints of this family, each once, in order.
    pub endpoints: Vec<CompiledEndpoint>,
    /// How many slots lead nowhere: the share of a rule's destinations that have no endpoint.
    pub refused: u32,
}

/// A frontend's kind, and the endpoint it is tied to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Frontend {
    /// Which of the Service's addresses it is.
    pub kind: FrontendKind,
    /// For headless Services: the index of the one endpoint that this address belongs to.
    pub only: Option<usize>,
}

/// An endpoint of a service port.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct CompiledEndpoint {
    /// The pod's address.
    pub address: IpAddr,
    /// The pod's port.
    pub port: u16,
    /// Conditions.
    pub state: EndpointState,
    /// On this node.
    pub local: bool,
    /// In the range for the whole cluster.
    pub in_cluster: bool,
    /// In the range for this node.
    pub in_local: bool,
    /// Why it is in neither range.
    pub excluded: Option<Excluded>,
    /// Its node.
    pub node: Option<Arc<str>>,
    /// Its zone.
    pub zone: Option<Arc<str>>,
    /// How many slots lead to it.
    pub weight: u32,
}

/// How connections to an address reach the redirector where rules hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reach {
    /// As they are: the address is the node's, or the cluster gave it out and it is made local.
    AsDialled,
    /// By the Service's cluster IP: a LoadBalancer's or external address may be another machine's, and is not made local.
    ByClusterIp,
    /// Not at all.
    Never,
}

/// See [`Reach`].
pub const fn reach(kind: FrontendKind) -> Reach {
    match kind {
        FrontendKind::ClusterIp | FrontendKind::NodePort => Reach::AsDialled,
        FrontendKind::LoadBalancer | FrontendKind::ExternalIp => Reach::ByClusterIp,
        FrontendKind::Headless => Reach::Never,
    }
}

/// Compiles the Service `name`: one result per port and family, none if it is gone.
pub fn service(store: &Store, name: &ObjectName) -> Vec<CompiledPort> {
    let Some(service) = store.service(name) else {
        return Vec::new();
    };
    // An address that the API server has not allocated yet: kube-proxy waits for it, and so do we.
    if service.kind != ServiceKind::Headless && service.cluster_ips.is_empty() {
        return Vec::new();
    }
    let slices = store.slices_of(name);
    let mut compiled = Vec::new();
    for port in &service.ports {
        for family in [Family::V4, Family::V6] {
            let uses_local = service.internal_local || service.external_local;
            let endpoints = categorized(store, &slices, port, family, uses_local);
            let split = store.splits().get(name, port.port).filter(|_| port.protocol == Protocol::Tcp);
            let (endpoints, refused) = match split {
                Some(split) => split::apply(store, split, family, endpoints, uses_local),
                None => (endpoints, 0),
            };
            // Weights are about connections, not about clients.
            let affinity =
                service.affinity_timeout_s.filter(|_| split.is_none_or(|split| split.shares.len() == 1));
            let frontends = if service.kind == ServiceKind::Headless {
                headless_frontends(store, service, port, &endpoints)
            } else {
                frontends(service, port, family)
            };
            if frontends.is_empty() {
                continue;
            }
            compiled.push(CompiledPort {
                id: PortId { service: name.clone(), port_name: port.name.clone(), family },
                kind: service.kind,
                port: port.port,
                protocol: port.protocol,
                created_s: service.created_s,
                // A split has looked at the policies of its destinations already.
                internal_local: service.internal_local && split.is_none(),
                external_local: service.external_local && split.is_none(),
                source_ranges: source_ranges(store, service, family),
                affinity_timeout_s: affinity.unwrap_or(0),
                // Weights are for chance to meet, and a headless frontend has one endpoint.
                maglev: service.algorithm == Algorithm::Maglev
                    && split.is_none()
                    && service.kind != ServiceKind::Headless,
                redirected: port.protocol == Protocol::Tcp && store.is_redirected(name, port.port),
                frontends,
                endpoints,
                refused,
            });
        }
    }
    compiled
}

/// A load balancer that sends packets to itself, with its own address as their source, is admitted where the node is.
///
/// Source: kube-proxy `pkg/proxy/nftables/proxier.go`, `allowFromNode`.
fn source_ranges(store: &Store, service: &Service, family: Family) -> Option<Vec<IpNet>> {
    let mut ranges = service.source_ranges.of_family(family)?;
    let node = &store.node().addresses;
    if node.iter().any(|address| ranges.iter().any(|network| network.contains(address))) {
        let own = service.load_balancer_ips.iter().filter(|address| Family::of(**address) == family);
        ranges.extend(own.map(|address| IpNet::from(*address)));
    }
    ranges.sort();
    ranges.dedup();
    Some(ranges)
}

/// The endpoints of a port that clients of this node may use now: what redirected requests go to. Without the splits of
/// rules, and whether the Service has an address of its own or not. Each with its zone.
pub fn usable(store: &Store, service: &Service, port: &ServicePort) -> Vec<(SocketAddr, Option<Arc<str>>)> {
    let slices = store.slices_of(&service.name);
    let of_family = |family| categorized(store, &slices, port, family, service.internal_local);
    let all = [Family::V4, Family::V6].into_iter().flat_map(of_family);
    let usable =
        all.filter(|endpoint| if service.internal_local { endpoint.in_local } else { endpoint.in_cluster });
    usable.map(|endpoint| (SocketAddr::new(endpoint.address, endpoint.port), endpoint.zone)).collect()
}

fn categorized(
    store: &Store,
    slices: &[&EndpointSlice],
    port: &ServicePort,
    family: Family,
    uses_local: bool,
) -> Vec<CompiledEndpoint> {
    let mut endpoints = endpoints::collect(slices, port, family);
    topology::categorize(&mut endpoints, store.node(), uses_local);
    endpoints.into_iter().map(|candidate| candidate.compiled).collect()
}

fn frontends(service: &Service, port: &ServicePort, family: Family) -> BTreeMap<Dialled, Frontend> {
    let mut frontends = BTreeMap::new();
    // In the order of precedence: an address that stands in two lists is what the first list says.
    // As in kube-proxy, a Service has no addresses of a family in which it has no cluster IP.
    if !service.cluster_ips.iter().any(|address| Family::of(*address) == family) {
        return frontends;
    }
    for (kind, addresses) in [
        (FrontendKind::ClusterIp, &service.cluster_ips),
        (FrontendKind::LoadBalancer, &service.load_balancer_ips),
        (FrontendKind::ExternalIp, &service.external_ips),
    ] {
        for address in
            addresses.iter().filter(|address| Family::of(**address) == family && !address.is_unspecified())
        {
            let dialled = Dialled { address: *address, port: port.port, protocol: port.protocol };
            frontends.entry(dialled).or_insert(Frontend { kind, only: None });
        }
    }
    if port.node_port != 0 && matches!(service.kind, ServiceKind::NodePort | ServiceKind::LoadBalancer) {
        let dialled = Dialled { address: any_address(family), port: port.node_port, protocol: port.protocol };
        frontends.insert(dialled, Frontend { kind: FrontendKind::NodePort, only: None });
    }
    frontends
}

/// What stands for every address of the node.
const fn any_address(family: Family) -> IpAddr {
    match family {
        Family::V4 => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        Family::V6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    }
}

/// A headless Service's port, at each endpoint's own address, where a pod of the Service's namespace has that address, listens
/// on another port, and nothing shows that it also uses the Service's port number itself.
fn headless_frontends(
    store: &Store,
    service: &Service,
    port: &ServicePort,
    endpoints: &[CompiledEndpoint],
) -> BTreeMap<Dialled, Frontend> {
    let mut frontends = BTreeMap::new();
    let namespace = &service.name.namespace;
    for (index, endpoint) in endpoints.iter().enumerate().filter(|_| service.translate_headless_port) {
        let differs = endpoint.port != port.port && endpoint.state != EndpointState::NotReady;
        if differs && store.has_free_port(namespace, endpoint.address, port.protocol, port.port) {
            let dialled = Dialled { address: endpoint.address, port: port.port, protocol: port.protocol };
            frontends.entry(dialled).or_insert(Frontend { kind: FrontendKind::Headless, only: Some(index) });
        }
    }
    frontends
}

#[cfg(test)]
mod tests;
