//! A client, a node and a backend in a line, by two wires: the shortest way through a node, for benches. IPv4 only.
//!
//! ```text
//!   client ──────── eth0  node  eth1 ──────── backend, a pod of node-2
//!   192.168.50.2    192.168.50.11             10.244.2.10
//! ```
//!
//! Everything that the client sends goes to the node. Checksums and polling are as on the wire of two nodes.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::{
    Ground, Node, Pod,
    net::{ethtool, ip, sysctl},
};

/// An MTU below any datagram that a bench sends.
const CLOSED_MTU: u32 = 68;
/// What wires have otherwise.
const OPEN_MTU: u32 = 1500;

/// See the head of this file.
#[derive(Debug)]
pub struct Line {
    /// The node in the middle.
    pub node: Node,
    /// Where packets come from.
    pub client: Pod,
    /// Where they go.
    pub backend: Pod,
    // Last, for everything above lives on it.
    _ground: Ground,
}

impl Line {
    /// Builds it.
    ///
    /// # Panics
    /// The machine lacks something; the message says what.
    pub fn new() -> Self {
        let ground = Ground::new();
        let place = |above: &std::path::Path, name: &str, v4: [u8; 4]| {
            ground.place(above, name, Ipv4Addr::from(v4), Ipv6Addr::UNSPECIFIED)
        };
        let cgroup = ground.cgroup.join("node-1");
        std::fs::create_dir(&cgroup).expect("a cgroup");
        let host = place(&cgroup, "node", [192, 168, 50, 11]);
        let client = place(&ground.cgroup, "client", [192, 168, 50, 2]);
        let backend = place(&ground.cgroup, "backend", [10, 244, 2, 10]);
        for pod in [&host, &client, &backend] {
            ip(&format!("netns add {}", pod.netns));
            ip(&format!("-n {} link set lo up", pod.netns));
        }
        wire(&host, "eth0", &client);
        wire(&host, "eth1", &backend);
        let (netns, pod) = (&host.netns, backend.v4);
        ip(&format!("-n {netns} addr add {}/24 dev eth0", host.v4));
        ip(&format!("-n {netns} addr add 192.168.60.1/24 dev eth1"));
        ip(&format!("-n {netns} route add {pod}/32 dev eth1"));
        ip(&format!("-n {netns} route add default via {}", client.v4));
        ip(&format!("-n {} addr add {}/24 dev eth0", client.netns, client.v4));
        ip(&format!("-n {} route add default via {}", client.netns, host.v4));
        ip(&format!("-n {} addr add {pod}/32 dev eth0", backend.netns));
        ip(&format!("-n {} route add 192.168.60.1 dev eth0", backend.netns));
        ip(&format!("-n {} route add default via 192.168.60.1", backend.netns));
        sysctl(netns, &[("ipv4/ip_forward", "1")]);
        let node = Node::new("node-1", host, &cgroup, &ground.folder, ground.manifests());
        Self { node, client, backend, _ground: ground }
    }

    /// Whether the backend's end of the wire takes packets. If it does not, they are dropped the moment that the node
    /// has sent them, at no cost.
    pub fn open_backend(&self, open: bool) {
        set_open(&self.backend, open);
    }

    /// The same of the node's end of the client's wire.
    pub fn open_node(&self, open: bool) {
        set_open(&self.node.host, open);
    }
}

impl Default for Line {
    fn default() -> Self {
        Self::new()
    }
}

/// A veth drops in the sender what is longer than the receiver's MTU.
fn set_open(pod: &Pod, open: bool) {
    let mtu = if open { OPEN_MTU } else { CLOSED_MTU };
    ip(&format!("-n {} link set eth0 mtu {mtu}", pod.netns));
}

fn wire(node: &Pod, device: &str, other: &Pod) {
    ip(&format!("-n {} link add {device} type veth peer name eth0 netns {}", node.netns, other.netns));
    let ends = [(&node.netns, device), (&other.netns, "eth0")];
    for (netns, device) in ends {
        ethtool(netns, &format!("-K {device} gro on"));
        ethtool(netns, &format!("-K {device} tx off"));
    }
    // A veth that comes up looks whether its other end polls: then it says that it takes what XDP sends.
    for (netns, device) in ends {
        ip(&format!("-n {netns} link set {device} up"));
    }
}
