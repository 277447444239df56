//! A node with pods: network namespaces on a bridge, child cgroups, a folder of manifests, the real agent.
//! [`TwoNodes`] is the larger world. Everything goes away with the value, and what a crashed run left goes away at the
//! next start.

use std::{
    net::{Ipv4Addr, Ipv6Addr},
    ops::Deref,
    path::PathBuf,
    process::Child,
};

use crate::peer::Peer;

mod agent;
mod ground;
mod line;
mod net;
mod node;
mod overlay;
mod pod;
mod sweep;
mod tun;
mod two_nodes;

pub use agent::{Agent, text};
use ground::Ground;
pub use ground::remove_all;
pub use line::Line;
pub use net::{ip, sysctl, tool, tool_path};
pub use node::Node;
pub use pod::Pod;
pub use tun::Tun;
pub use two_nodes::TwoNodes;

/// A node and its pods. What can be done with a [`Node`] can be done with its world.
#[derive(Debug)]
pub struct World {
    node: Node,
    pods: Vec<Pod>,
    // Last, for everything above lives on it.
    ground: Ground,
}

impl Deref for World {
    type Target = Node;

    fn deref(&self) -> &Node {
        &self.node
    }
}

impl World {
    /// A node without pods.
    ///
    /// # Panics
    /// The machine lacks something; the message says what.
    pub fn new() -> Self {
        let ground = Ground::new();
        let host = place(&ground, "node", 1);
        net::node(&host);
        let node = Node::new("node-1", host.clone(), &ground.cgroup, &ground.folder, ground.manifests());
        Self { node, pods: vec![host], ground }
    }

    /// Adds a pod, on the node's bridge.
    pub fn pod(&mut self, name: &str) -> Pod {
        self.pod_at(name, None, None)
    }

    /// Adds a pod with these addresses, as far as they are given.
    pub fn pod_at(&mut self, name: &str, v4: Option<Ipv4Addr>, v6: Option<Ipv6Addr>) -> Pod {
        let mut pod = place(&self.ground, name, self.pods.len() as u16 + 1);
        pod.v4 = v4.unwrap_or(pod.v4);
        pod.v6 = v6.unwrap_or(pod.v6);
        net::pod(self.node(), &pod, self.pods.len());
        self.pods.push(pod.clone());
        pod
    }

    /// Adds a pod that reaches the others through the node's routing, as on most nodes; IPv4 only.
    pub fn routed_pod(&mut self, name: &str) -> Pod {
        let mut pod = place(&self.ground, name, self.pods.len() as u16 + 1);
        pod.v4 = Ipv4Addr::new(10, 245, self.pods.len() as u8, 2);
        net::routed_pod(self.node(), &pod, self.pods.len());
        self.pods.push(pod.clone());
        pod
    }

    /// The node itself: processes in its host network.
    pub fn node(&self) -> &Pod {
        &self.node.host
    }

    /// All pods, the node first.
    pub fn pods(&self) -> &[Pod] {
        &self.pods
    }

    /// The pod of that name.
    ///
    /// # Panics
    /// There is none.
    pub fn find(&self, name: &str) -> &Pod {
        self.pods.iter().find(|pod| pod.name == name).unwrap_or_else(|| panic!("no pod {name}"))
    }

    /// Starts a process that opens sockets in `pod` on command.
    pub fn peer(&self, pod: &Pod) -> Peer {
        pod.peer()
    }

    /// A server in a new pod, which answers with the pod's name.
    pub fn server(&mut self, name: &str, ports: &[(u16, bool)]) -> (Pod, Peer) {
        let pod = self.pod(name);
        let peer = pod.serve(ports);
        (pod, peer)
    }
}

impl Default for World {
    fn default() -> Self {
        Self::new()
    }
}

fn place(ground: &Ground, name: &str, number: u16) -> Pod {
    let v4 = Ipv4Addr::new(10, 244, (number >> 8) as u8, number as u8);
    ground.place(&ground.cgroup, name, v4, Ipv6Addr::new(0xfd00, 0x10, 0x244, 0, 0, 0, 0, number))
}

/// The `sluice` under test.
///
/// # Panics
/// Nobody said where it is.
pub fn sluice_binary() -> PathBuf {
    let path = std::env::var_os("SLUICE_BIN");
    PathBuf::from(path.expect("SLUICE_BIN is not set: run these tests by `cargo xtask test`"))
}

/// Ends a child for good.
pub fn kill(child: &mut Child) {
    let _ended_already = child.kill();
    let _reaped = child.wait();
}
