//! The ways through a node that are measured: nothing but routing, kube-proxy's rules, Sluice's programs.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::{Result, bail};

use super::empty::{self, EmptyXdp};
use crate::{
    bench::kube_proxy::{Mode, Rule},
    peer::Peer,
    wait,
    world::{Agent, Line},
};

/// What a node does with packets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// It drops them before it has them: what is left is the sender's own cost.
    Base,
    /// It routes.
    Plain,
    /// It routes, and its devices have an XDP program that does nothing.
    EmptyXdp,
    /// kube-proxy's rules.
    KubeProxy(Mode),
    /// The agent, with these flags.
    Sluice(&'static [&'static str]),
}

/// What can be chosen on the command line.
pub const WAYS: [(&str, Kind); 6] = [
    ("plain", Kind::Plain),
    ("empty-xdp", Kind::EmptyXdp),
    ("iptables", Kind::KubeProxy(Mode::Iptables)),
    ("nftables", Kind::KubeProxy(Mode::Nftables)),
    ("tc", Kind::Sluice(&["--devices", "eth0,eth1", "--xdp", "off"])),
    ("xdp", Kind::Sluice(&["--devices", "eth0,eth1", "--xdp", "native"])),
];

/// What a client dials.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Destination {
    /// The backend's own address: no Service's business.
    Pod,
    /// The node's address.
    NodePort,
    /// The load balancer's address.
    LoadBalancer,
}

impl Destination {
    /// As results name it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pod => "pod",
            Self::NodePort => "NodePort",
            Self::LoadBalancer => "LoadBalancer",
        }
    }
}

/// Port of the backend: TCP, UDP.
const TARGETS: [u16; 2] = [8080, 5353];
/// Port of its Service: TCP, UDP.
const PORTS: [u16; 2] = [80, 53];
/// Node port of its Service: TCP, UDP. Those of the others are below.
const NODE_PORTS: [u16; 2] = [30_080, 30_053];
const FIRST_NODE_PORT: u16 = 20_000;
const VERDICT_DEADLINE: std::time::Duration = std::time::Duration::from_secs(120);

/// A line with one kind of node in it.
pub struct Way {
    /// As results name it.
    pub name: &'static str,
    /// What its node does.
    pub kind: Kind,
    /// Sockets of the client.
    pub client: Peer,
    /// Where it all is.
    pub line: Line,
    _server: Peer,
    agent: Option<Agent>,
    _empty: Option<EmptyXdp>,
}

impl Way {
    /// Builds it, without Services.
    ///
    /// # Errors
    /// The program that does nothing cannot be attached.
    pub fn start(name: &'static str, kind: Kind) -> Result<Self> {
        let line = Line::new();
        let server = line.backend.serve(&[(TARGETS[0], false), (TARGETS[1], true)]);
        let client = line.client.peer();
        let empty = (kind == Kind::EmptyXdp).then(|| empty::attach(&line.node.host, &["eth0", "eth1"]));
        Ok(Self { name, kind, client, line, _server: server, agent: None, _empty: empty.transpose()? })
    }

    /// What can be dialled here.
    pub const fn destinations(&self) -> &'static [Destination] {
        match self.kind {
            Kind::Base | Kind::Plain | Kind::EmptyXdp => &[Destination::Pod],
            Kind::KubeProxy(_) => &[Destination::NodePort, Destination::LoadBalancer],
            Kind::Sluice(_) => &[Destination::NodePort, Destination::LoadBalancer, Destination::Pod],
        }
    }

    /// Its address.
    pub fn address(&self, destination: Destination, udp: bool) -> SocketAddr {
        let protocol = usize::from(udp);
        match destination {
            Destination::Pod => (self.line.backend.v4, TARGETS[protocol]).into(),
            Destination::NodePort => (self.line.node.host.v4, NODE_PORTS[protocol]).into(),
            Destination::LoadBalancer => (balancer(0), PORTS[protocol]).into(),
        }
    }

    /// Makes it this many Services with an endpoint each; the backend's own has both protocols.
    ///
    /// # Errors
    /// The rules are not taken, or the agent ends.
    pub fn grow_to(&mut self, services: u16) -> Result<()> {
        match self.kind {
            Kind::Base | Kind::Plain | Kind::EmptyXdp => Ok(()),
            Kind::KubeProxy(mode) => mode.load(&self.line.node.host, &rules(services, self.line.backend.v4)),
            Kind::Sluice(flags) => self.program(services, flags),
        }
    }

    fn program(&mut self, services: u16, flags: &[&str]) -> Result<()> {
        let node = &self.line.node;
        node.apply("services", &manifests(services, self.line.backend.v4));
        if self.agent.is_none() {
            let folder = node.manifests().display().to_string();
            self.agent = Some(node.spawn_agent(&[&["--manifests", &folder], flags].concat()));
        }
        let last = format!("{}:80", cluster_ip(services - 1));
        let ended = wait::until_within(VERDICT_DEADLINE, &last, || {
            if self.agent.as_mut().is_some_and(|agent| agent.ended().is_some()) {
                return Ok(true);
            }
            let output = node.sluice(&["explain", &last]);
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            if text.contains("verdict: translate") { Ok(false) } else { Err(text) }
        });
        if ended {
            bail!("{}: the agent ended: {}", self.name, node.log());
        }
        node.wait_healthy();
        Ok(())
    }
}

fn cluster_ip(number: u16) -> Ipv4Addr {
    (0x0a60_0000 + u32::from(number)).into()
}

/// In the range that is set aside for benchmarks (RFC 2544).
fn balancer(number: u16) -> Ipv4Addr {
    (0xc612_0001 + u32::from(number)).into()
}

/// An endpoint that nobody dials.
fn elsewhere(number: u16) -> Ipv4Addr {
    (0x0b00_0000 + u32::from(number) * 16).into()
}

fn rules(services: u16, backend: Ipv4Addr) -> Vec<Rule> {
    let other = |number: u16| Rule {
        address: cluster_ip(number),
        protocol: "tcp",
        port: 80,
        endpoint: (elsewhere(number), 8080),
        outside: Some((balancer(number), FIRST_NODE_PORT + number)),
    };
    let mut rules: Vec<Rule> = (1..services).map(other).collect();
    for (protocol, name) in ["tcp", "udp"].into_iter().enumerate() {
        // Its place among the others is the middle.
        rules.insert(
            rules.len() / 2,
            Rule {
                address: cluster_ip(0),
                protocol: name,
                port: PORTS[protocol],
                endpoint: (backend, TARGETS[protocol]),
                outside: Some((balancer(0), NODE_PORTS[protocol])),
            },
        );
    }
    rules
}

fn manifests(services: u16, backend: Ipv4Addr) -> String {
    (0..services)
        .map(|number| service(number, if number == 0 { backend } else { elsewhere(number) }))
        .collect()
}

fn service(number: u16, endpoint: Ipv4Addr) -> String {
    let mut ports = vec![("http", "TCP", PORTS[0], TARGETS[0], FIRST_NODE_PORT + number)];
    if number == 0 {
        ports = vec![
            ("http", "TCP", PORTS[0], TARGETS[0], NODE_PORTS[0]),
            ("dns", "UDP", PORTS[1], TARGETS[1], NODE_PORTS[1]),
        ];
    }
    let of_service: Vec<String> = ports
        .iter()
        .map(|(name, protocol, port, target, node_port)| {
            format!(
                "{{name: {name}, protocol: {protocol}, port: {port}, targetPort: {target}, nodePort: {node_port}}}"
            )
        })
        .collect();
    let of_slice: Vec<String> = ports
        .iter()
        .map(|(name, protocol, _, target, _)| {
            format!("{{name: {name}, protocol: {protocol}, port: {target}}}")
        })
        .collect();
    format!(
        "---\napiVersion: v1\nkind: Service\nmetadata: {{name: service-{number}, namespace: bench}}\n\
         spec: {{type: LoadBalancer, clusterIP: {ip}, clusterIPs: [{ip}], ports: [{}]}}\n\
         status: {{loadBalancer: {{ingress: [{{ip: {balancer}}}]}}}}\n\
         ---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\naddressType: IPv4\n\
         metadata: {{name: service-{number}-1, namespace: bench, labels: {{kubernetes.io/service-name: service-{number}}}}}\n\
         ports: [{}]\nendpoints: [{{addresses: [{endpoint}], nodeName: node-2, conditions: {{ready: true}}}}]\n",
        of_service.join(", "),
        of_slice.join(", "),
        ip = cluster_ip(number),
        balancer = balancer(number),
    )
}
