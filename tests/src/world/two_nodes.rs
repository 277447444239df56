//! Two nodes, their pods on an overlay between them, and a client outside of the cluster; all on one wire.
//!
//! ```text
//!   client ────────┬──────────── node-1 ── pods      wire     192.168.50.0/24          fd00:50::/64
//!   192.168.50.2   ├──────────── node-2 ── pods      node-N   192.168.50.1N            fd00:50::1N
//!   fd00:50::2     wire (a bridge)                   pods     10.244.N.0/24            fd00:10:244:N::/64
//! ```
//!
//! Service and load balancer addresses are routed to a node by the client, who is everybody's default gateway too and
//! forwards nothing. `overlay.rs` has the devices.

use std::{
    net::{Ipv4Addr, Ipv6Addr},
    path::PathBuf,
};

use super::{Ground, Node, Pod, Tun, ip, overlay};
use crate::peer::Peer;

/// What the client sends to a node: the ranges of load balancer addresses and cluster IPs.
pub const SERVICE_RANGES: [&str; 4] =
    ["203.0.113.0/24", "2001:db8:50::/64", "10.96.0.0/16", "fd00:10:96::/112"];

/// Two nodes and a client. Both nodes' agents read one folder of manifests.
#[derive(Debug)]
pub struct TwoNodes {
    nodes: [Node; 2],
    client: Pod,
    pods: Vec<Pod>,
    // Last, for everything above lives on it.
    ground: Ground,
}

impl TwoNodes {
    /// Nodes without pods.
    ///
    /// # Panics
    /// The machine lacks something; the message says what.
    pub fn new() -> Self {
        let ground = Ground::new();
        let on_wire = |number: u8| {
            let v6 = Ipv6Addr::new(0xfd00, 0x50, 0, 0, 0, 0, 0, u16::from(number));
            (Ipv4Addr::new(192, 168, 50, number), v6)
        };
        let (v4, v6) = on_wire(2);
        let client = ground.place(&ground.cgroup, "client", v4, v6);
        let nodes = [1, 2].map(|number| {
            let name = format!("node-{number}");
            // Both families' addresses end in the same two figures.
            let (v4, v6) = (on_wire(10 + number).0, on_wire(0x10 + number).1);
            let [cgroup, folder] = [&ground.cgroup, &ground.folder].map(|above| above.join(&name));
            make(&cgroup);
            make(&folder);
            let host = ground.place(&cgroup, &name, v4, v6);
            Node::new(&name, host, &cgroup, &folder, ground.manifests())
        });
        let wire = ground.netns("wire");
        overlay::wire(&wire, &[&client, &nodes[0].host, &nodes[1].host]);
        for number in [1, 2] {
            let [own, other] = [&nodes[number - 1].host, &nodes[2 - number].host];
            overlay::node(own, &client, (number, other));
        }
        let world = Self { nodes, client, pods: Vec::new(), ground };
        world.route_services_to(1);
        world
    }

    /// The node `node-1` or `node-2`.
    pub fn node(&self, number: usize) -> &Node {
        &self.nodes[number - 1]
    }

    /// The client outside.
    pub const fn client(&self) -> &Pod {
        &self.client
    }

    /// Adds a pod to a node, routed to it.
    pub fn pod(&mut self, node: usize, name: &str) -> Pod {
        let number = self.pods.len() as u16 + 10;
        let v4 = Ipv4Addr::new(10, 244, node as u8, number as u8);
        let v6 = Ipv6Addr::new(0xfd00, 0x10, 0x244, node as u16, 0, 0, 0, number);
        let pod = self.ground.place(self.node(node).cgroup(), name, v4, v6);
        overlay::pod(&self.node(node).host, &pod, self.pods.len() + 1);
        self.pods.push(pod.clone());
        pod
    }

    /// A server in a new pod, which answers with the pod's name.
    pub fn server(&mut self, node: usize, name: &str, ports: &[(u16, bool)]) -> (Pod, Peer) {
        let pod = self.pod(node, name);
        let peer = pod.serve(ports);
        (pod, peer)
    }

    /// The node that the client sends [`SERVICE_RANGES`] to.
    pub fn route_services_to(&self, node: usize) {
        let [v4, v6] = self.node(node).host.addresses();
        for range in SERVICE_RANGES {
            let via = if range.contains(':') { &v6 } else { &v4 };
            ip(&format!("-n {} route replace {range} via {via}", self.client.netns));
        }
    }

    /// A wire without Ethernet headers between two hosts, see [`Tun::new`].
    pub fn tun(&self, device: &str, network: u8, hosts: [&Pod; 2]) -> Tun {
        Tun::new(&self.ground.folder, device, network, hosts)
    }

    /// Puts a file of manifests in place for both agents, in one step.
    pub fn apply(&self, name: &str, text: &str) {
        self.nodes[0].apply(name, text);
    }
}

impl Default for TwoNodes {
    fn default() -> Self {
        Self::new()
    }
}

fn make(folder: &PathBuf) {
    std::fs::create_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
}
