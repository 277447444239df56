//! The reference model for packets: what must become of the first one of a connection, by where it comes from and what it
//! dials. What follows on a connection follows from that.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv6Addr, SocketAddr},
};

use super::{Cluster, Endpoint, Expectation, Exposed, NODE, Random, Service, ZONE};
use crate::rig::{LOCAL_PODS, PODS};

/// Which of a Service's addresses is dialled.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Kind {
    /// A cluster IP.
    ClusterIp,
    /// A node's address and the NodePort.
    NodePort,
    /// A load balancer's address.
    LoadBalancer,
    /// An external address.
    ExternalIp,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::ClusterIp, Self::NodePort, Self::LoadBalancer, Self::ExternalIp];
}

/// What cluster IPs are taken from: networks, and an address in each that no Service has.
pub const CIDRS: [(&str, &str); 2] = [("10.96.0.0/16", "10.96.7.7"), ("fd00:96::/64", "fd00:96::7:7")];

/// Who sends the packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sender {
    /// Somebody outside of the cluster.
    Outside,
    /// That pod of this node.
    Pod(usize),
    /// The node.
    Node,
}

/// What must become of the first packet of a connection.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Fate {
    /// Nothing.
    Pass,
    /// It is led to one of these.
    Led(BTreeSet<SocketAddr>),
    /// Whoever sent it hears that nobody is there.
    Refused,
    /// It ends without a word.
    Dropped,
}

impl Service {
    /// Its addresses of a kind, both families; none for NodePorts, which are the node's.
    pub fn of_kind(&self, kind: Kind) -> Vec<IpAddr> {
        let number = self.number;
        let (v4, v6) = match kind {
            Kind::ClusterIp => return self.addresses(),
            Kind::NodePort => return Vec::new(),
            Kind::LoadBalancer => (IpAddr::from([203, 0, 113, number]), u16::from(number)),
            Kind::ExternalIp => (IpAddr::from([203, 0, 113, 100 + number]), 0x100 + u16::from(number)),
        };
        let v6 = IpAddr::from(Ipv6Addr::new(0x2001, 0xdb8, 0x50, 0, 0, 0, 0, v6));
        let of_family = [(self.families.0, v4), (self.families.1, v6)];
        let has = of_family.into_iter().filter(|(has, _)| *has && self.exposed.is_some());
        has.map(|(_, address)| address).collect()
    }

    /// Everything that can be dialled, at a node with these addresses.
    pub fn dialled(&self, node: &[IpAddr]) -> Vec<(Kind, SocketAddr)> {
        let mut all = Vec::new();
        for kind in Kind::ALL {
            let addresses = self.of_kind(kind);
            all.extend(addresses.into_iter().map(|address| (kind, SocketAddr::new(address, self.port))));
        }
        if let Some(exposed) = &self.exposed {
            let of_family =
                |address: &&IpAddr| if address.is_ipv6() { self.families.1 } else { self.families.0 };
            let own = node.iter().filter(of_family);
            all.extend(own.map(|own| (Kind::NodePort, SocketAddr::new(*own, exposed.node_port))));
        }
        all
    }

    /// Source: `Service.spec.loadBalancerSourceRanges`; a list without networks of the client's family says nothing.
    fn admits(&self, client: IpAddr) -> bool {
        let ranges = self.exposed.iter().flat_map(|exposed| &exposed.source_ranges);
        let mut own = ranges.filter(|(network, _)| network.is_ipv6() == client.is_ipv6()).peekable();
        own.peek().is_none() || own.any(|(network, bits)| leading(*network, *bits) == leading(client, *bits))
    }
}

/// The first bits of an address.
fn leading(address: IpAddr, bits: u8) -> u128 {
    let (number, length) = match address {
        IpAddr::V4(v4) => (u128::from(u32::from(v4)), 32),
        IpAddr::V6(v6) => (u128::from(v6), 128),
    };
    number.checked_shr(length - u32::from(bits)).unwrap_or(0)
}

impl Cluster {
    /// What must become of the first packet from `src` to `to`, at a node with these addresses and pods.
    pub fn fate(
        &self,
        (sender, src): (Sender, IpAddr),
        (to, udp): (SocketAddr, bool),
        node: &[IpAddr],
        pods: &[IpAddr],
    ) -> Fate {
        let found = self.services.iter().find_map(|service| {
            let dialled = service.dialled(node);
            let (kind, _) = dialled.into_iter().find(|(_, at)| *at == to && service.udp == udp)?;
            Some((service, kind))
        });
        let Some((service, kind)) = found else {
            return self.unserved(sender, to.ip());
        };
        if kind == Kind::LoadBalancer && !service.admits(src) {
            return Fate::Dropped;
        }
        let only_local = match (kind, &service.exposed) {
            (Kind::ClusterIp, _) => service.internal_local,
            // Who is on the node may go wherever the Service goes: kube-proxy's short-circuit.
            (_, Some(exposed)) => exposed.external_local && sender == Sender::Outside,
            (_, None) => false,
        };
        let choice = service.choice(pods, only_local);
        if service.redirected && !udp && self.is_redirecting {
            let is_nowhere = kind != Kind::ClusterIp && only_local && choice == Expectation::Dropped;
            match (kind, sender) {
                _ if is_nowhere => return Fate::Dropped,
                (Kind::ClusterIp | Kind::NodePort, _) => return Fate::Pass,
                // Such an address may be another machine's: to the redirector by the cluster IP, which is made the node's.
                (Kind::LoadBalancer | Kind::ExternalIp, Sender::Outside | Sender::Pod(_)) => {
                    let own = service.addresses().into_iter().filter(|own| own.is_ipv6() == to.is_ipv6());
                    return Fate::Led(own.map(|own| SocketAddr::new(own, service.port)).collect());
                }
                // On their way out they cannot be turned round.
                (Kind::LoadBalancer | Kind::ExternalIp, Sender::Node) => {}
            }
        }
        match choice {
            Expectation::Answer(endpoints) => Fate::Led(endpoints),
            Expectation::Refused => Fate::Refused,
            Expectation::Dropped => Fate::Dropped,
        }
    }

    /// A port that no Service has.
    fn unserved(&self, sender: Sender, address: IpAddr) -> Fate {
        let is = |kind: Kind| self.services.iter().any(|service| service.of_kind(kind).contains(&address));
        if is(Kind::ClusterIp) {
            return Fate::Refused;
        }
        if self.is_guarded && CIDRS.iter().any(|(_, unallocated)| unallocated.parse() == Ok(address)) {
            return Fate::Dropped;
        }
        // Behind such an address there may be another machine, which those inside may still reach.
        let vip = is(Kind::LoadBalancer) || is(Kind::ExternalIp);
        if vip && sender == Sender::Outside { Fate::Refused } else { Fate::Pass }
    }
}

/// Changes a few things for packets; returns the numbers of the Services touched.
pub fn mutate(cluster: &mut Cluster, random: &mut Random) -> Vec<u8> {
    let touched: Vec<u8> = (0..=random.below(2)).map(|_| 1 + random.below(6) as u8).collect();
    for number in &touched {
        let position = cluster.services.iter().position(|service| service.number == *number);
        match position {
            Some(position) if random.once_in(8) => drop(cluster.services.remove(position)),
            Some(position) if random.once_in(2) => {
                let service = &mut cluster.services[position];
                if !service.endpoints.is_empty() && random.once_in(2) {
                    let index = random.below(service.endpoints.len() as u64) as usize;
                    service.endpoints.remove(index);
                } else {
                    add(service, random);
                }
            }
            Some(position) => cluster.services[position] = service(*number, random),
            None => cluster.services.push(service(*number, random)),
        }
    }
    touched
}

fn service(number: u8, random: &mut Random) -> Service {
    let networks: [&[(&str, u8)]; 5] = [
        &[],
        &[("192.168.50.0", 25), ("2001:db8:9::", 48)],
        &[("10.0.0.0", 8)],
        &[("fd00:50::", 112)],
        &[("192.168.50.128", 25), ("fd00:50::80", 121), ("10.244.1.10", 32)],
    ];
    let ranges = random.of(&networks);
    let parse = |(text, bits): &(&str, u8)| (text.parse().expect("an address"), *bits);
    let exposed = Exposed {
        external_local: random.once_in(2),
        node_port: 30_000 + u16::from(number),
        source_ranges: ranges.iter().map(parse).collect(),
    };
    let mut service = Service {
        number,
        families: random.of(&[(true, false), (false, true), (true, true), (true, true)]),
        udp: random.once_in(2),
        port: random.of(&[80, 8081]),
        internal_local: random.once_in(3),
        affinity: random.once_in(3),
        maglev: random.once_in(3),
        redirected: random.once_in(5),
        exposed: (!random.once_in(4)).then_some(exposed),
        endpoints: Vec::new(),
    };
    (0..random.below(5)).for_each(|_| add(&mut service, random));
    service
}

/// Adds an endpoint, or replaces the one on the same pod and port.
fn add(service: &mut Service, random: &mut Random) {
    let ready = if random.once_in(3) { Some(false) } else { random.of(&[None, Some(true)]) };
    let (pod, port) = (random.below(PODS as u64) as usize, random.of(&super::random::PORTS));
    let endpoint = Endpoint {
        pod,
        port,
        here: pod < LOCAL_PODS,
        ready,
        serving: random.of(&[None, Some(true), Some(false)]),
        terminating: random.of(&[None, Some(true), Some(false)]),
        zone_hint: random.of(&[None, Some(ZONE), Some(ZONE), Some("zone-2")]),
        node_hint: random.of(&[None, None, None, Some(NODE), Some("node-2")]),
    };
    service.endpoints.retain(|other| (other.pod, other.port) != (endpoint.pod, endpoint.port));
    service.endpoints.push(endpoint);
}
