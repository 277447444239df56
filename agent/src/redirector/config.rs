//! From a snapshot to what is looked up per connection and request. Pure; what cannot be used is reported.

use std::{
    collections::{BTreeMap, HashMap, hash_map::Entry},
    net::{IpAddr, Ipv6Addr, SocketAddr},
    sync::Arc,
};

use crate::l7::rules::{
    Client, Message, ObjectName,
    hosts::Mesh,
    protocol::{self, Speech},
    table::{
        ClientRoutes, KnownService, KnownServices, Routes, RuleSet, read_destination_rule,
        read_virtual_service,
    },
};

use super::snapshot::{Pod, Port, Service, Snapshot};

/// A compiled snapshot. Immutable.
#[derive(Default, Debug)]
pub struct Config {
    frontends: HashMap<SocketAddr, Arc<Frontend>>,
    destinations: HashMap<Arc<str>, Vec<(u16, Arc<Destination>)>>,
    /// Names of Services without ports, by host: they are reached at whatever port a rule says.
    names: HashMap<Arc<str>, Arc<str>>,
    pods: HashMap<IpAddr, Arc<Pod>>,
    /// This node's zone.
    pub zone: Option<String>,
}

/// A Service port that clients dial.
#[derive(Debug)]
pub struct Frontend {
    /// What rules say of it.
    pub routes: Routes,
    /// The same for each client, where it is the same for all.
    pub shared: Option<Arc<ClientRoutes>>,
    /// What it is declared to speak.
    pub speech: Option<Speech>,
    /// Whether requests are balanced even where no rule holds.
    pub per_request: bool,
}

/// A Service port that requests go to.
#[derive(Debug)]
pub struct Destination {
    /// Service port.
    pub port: u16,
    /// Usable endpoints.
    pub endpoints: Vec<Backend>,
    /// The name to ask DNS for, when there are no endpoints.
    pub external_name: Option<Arc<str>>,
    /// What endpoints are declared to speak.
    pub speech: Option<Speech>,
    /// Whether a client stays with its endpoint.
    pub affinity: bool,
}

impl Destination {
    /// Whether DNS says where it is.
    pub const fn is_resolved(&self) -> bool {
        self.endpoints.is_empty() && self.external_name.is_some()
    }
}

/// A usable endpoint.
#[derive(Debug)]
pub struct Backend {
    /// Where it listens.
    pub address: SocketAddr,
    /// The pod behind it, if it is known.
    pub pod: Option<Arc<Pod>>,
    /// Its zone, if it is known.
    pub zone: Option<Arc<str>>,
}

impl Config {
    /// Compiles `snapshot`; the second part names what was left out and why.
    pub fn compile(snapshot: Snapshot) -> (Self, Vec<String>) {
        let mut left_out = Vec::new();
        let Snapshot {
            version: _,
            domain,
            zone,
            services,
            pods,
            virtual_services,
            destination_rules,
            splits: _,
        } = snapshot;
        let mesh = if domain.is_empty() { Mesh::default() } else { Mesh { domain, ..Mesh::default() } };
        let mut names = HashMap::new();
        let mut config = Self { zone, ..Self::default() };
        for pod in pods.into_iter().map(Arc::new) {
            config.pods.extend(pod.addresses.iter().map(|address| (address.to_canonical(), pod.clone())));
            names.insert(format!("{}/{}", pod.namespace, pod.name), pod);
        }
        let (mut accepted, mut accepted_rules) = (Vec::new(), Vec::new());
        for object in &virtual_services {
            let read = read_virtual_service(object, &mesh);
            note(&mut left_out, "VirtualService", &read.name, &read.messages, read.value.is_none());
            accepted.extend(read.value);
        }
        for object in &destination_rules {
            let read = read_destination_rule(object, &mesh);
            note(&mut left_out, "DestinationRule", &read.name, &read.messages, read.value.is_none());
            accepted_rules.extend(read.value);
        }
        let rules = RuleSet::new(mesh.clone(), accepted, accepted_rules);
        let hosts: Vec<Arc<str>> =
            services.iter().map(|service| mesh.resolve(&service.name, &service.namespace).into()).collect();
        let known = known(&services, &hosts);
        for (service, host) in services.iter().zip(&hosts) {
            if let Some(name) = service.external_name.as_deref().filter(|_| service.ports.is_empty()) {
                config.names.insert(host.clone(), name.into());
            }
            for port in &service.ports {
                let speech = protocol::declared(port.port, &port.name, port.app_protocol.as_deref());
                let destination = destination(service, port, speech, &config.pods, &names);
                config.destinations.entry(host.clone()).or_default().push((port.port, Arc::new(destination)));
                if port.frontends.is_empty() {
                    continue;
                }
                let routes = rules.routes(host, port.port, &known);
                let frontend = Arc::new(Frontend {
                    shared: routes.is_same_for_all().then(|| Arc::new(routes.for_client(&Client::UNKNOWN))),
                    routes,
                    speech,
                    per_request: service.per_request,
                });
                for address in port.frontends.iter().chain(&port.led).copied().map(canonical) {
                    match config.frontends.entry(address) {
                        Entry::Vacant(place) => drop(place.insert(frontend.clone())),
                        Entry::Occupied(other) => left_out.push(format!(
                            "{address} belongs to {} already, {host} does not get it",
                            other.get().routes.host
                        )),
                    }
                }
            }
        }
        (config, left_out)
    }

    /// The port that is dialled at `address`.
    pub fn frontend(&self, address: SocketAddr) -> Option<&Arc<Frontend>> {
        self.frontends.get(&address)
    }

    /// The port of a Service by its host in full.
    pub fn destination(&self, host: &str, port: u16) -> Option<&Arc<Destination>> {
        let ports = self.destinations.get(host)?;
        ports.iter().find(|(number, _)| *number == port).map(|(_, destination)| destination)
    }

    /// The port of a Service that is nothing but a name.
    pub fn named(&self, host: &str, port: u16) -> Option<Arc<Destination>> {
        let external_name = Some(self.names.get(host)?.clone());
        let endpoints = Vec::new();
        Some(Arc::new(Destination { port, endpoints, external_name, speech: None, affinity: false }))
    }

    /// The pod that has `address` for itself.
    pub fn pod(&self, address: IpAddr) -> Option<&Arc<Pod>> {
        self.pods.get(&address)
    }

    /// Who is behind `address`, as one address: a pod with two families is one client, and so is a network of IPv6 that is no
    /// pod's, for whoever has one address of a /64 has them all.
    pub fn client(&self, address: IpAddr) -> IpAddr {
        match (self.pod(address), address) {
            (Some(pod), _) => pod.addresses.first().map_or(address, IpAddr::to_canonical),
            (None, IpAddr::V4(_)) => address,
            (None, IpAddr::V6(v6)) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64)),
        }
    }
}

/// An address as it is compared: IPv4, even when it came as IPv6.
pub fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

fn note(left_out: &mut Vec<String>, kind: &str, name: &ObjectName, messages: &[Message], rejected: bool) {
    if rejected {
        let texts: Vec<_> = messages.iter().map(ToString::to_string).collect();
        left_out.push(format!("{kind} {name}: {}", texts.join("; ")));
    }
}

fn known(services: &[Service], hosts: &[Arc<str>]) -> KnownServices {
    let mut known = BTreeMap::new();
    for (service, host) in services.iter().zip(hosts) {
        let ports = service.ports.iter().map(|port| port.port).collect();
        known.insert(host.to_string(), KnownService { namespace: service.namespace.clone(), ports });
    }
    known
}

fn destination(
    service: &Service,
    port: &Port,
    speech: Option<Speech>,
    pods: &HashMap<IpAddr, Arc<Pod>>,
    names: &HashMap<String, Arc<Pod>>,
) -> Destination {
    let backend = |endpoint: &super::snapshot::Endpoint| {
        let address = canonical(endpoint.address);
        // The name first: pods in the host's network share an address.
        let named = endpoint.pod.as_ref().and_then(|name| names.get(name));
        let zone = endpoint.zone.as_deref().map(Arc::from);
        Backend { address, pod: named.or_else(|| pods.get(&address.ip())).cloned(), zone }
    };
    Destination {
        port: port.port,
        endpoints: port.endpoints.iter().map(backend).collect(),
        external_name: service.external_name.as_deref().map(Arc::from),
        speech,
        affinity: port.affinity_timeout_s > 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_is_one_client_and_so_is_a_network_of_ipv6_outside() {
        let pods = serde_json::from_value(serde_json::json!([
            {"namespace": "shop", "name": "a", "addresses": ["10.244.0.1", "fd00::1"]},
            {"namespace": "shop", "name": "b", "addresses": ["fd00::2"]},
        ]));
        let (config, _) = Config::compile(Snapshot { pods: pods.unwrap(), ..Snapshot::default() });
        for (address, want) in [
            ("10.244.0.1", "10.244.0.1"),
            ("fd00::1", "10.244.0.1"),
            ("fd00::2", "fd00::2"),
            ("fd00::3", "fd00::"),
            ("192.0.2.1", "192.0.2.1"),
            ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
            ("2001:db8:1:2:ffff::", "2001:db8:1:2::"),
            ("2001:db8:1:3::", "2001:db8:1:3::"),
        ] {
            assert_eq!(config.client(address.parse().unwrap()), want.parse::<IpAddr>().unwrap(), "{address}");
        }
    }
}
