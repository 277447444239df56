//! The shop that tests of sockets dial: one Service with pods, one without, and a client.

use crate::{
    manifest,
    peer::{Answer, Outcome, Peer, address},
    world::{Agent, Pod, World},
};

const HTTP: (u16, bool) = (8080, false);
const DNS: (u16, bool) = (5353, true);

/// The Service shop/cart, dual-stack, TCP 80 and UDP 53, with this many pods; a client in a pod of its own.
pub struct Shop {
    /// Node, pods and manifests.
    pub world: World,
    /// The pods `cart-1` and so on, with their servers.
    pub pods: Vec<(Pod, Peer)>,
    /// Sockets in the pod `client`.
    pub client: Peer,
    agent: Option<Agent>,
}

/// Starts the world and its agent, with this many endpoints.
pub fn shop(count: usize) -> Shop {
    let mut world = World::new();
    let pods: Vec<(Pod, Peer)> =
        (1..=count).map(|index| world.server(&format!("cart-{index}"), &[HTTP, DNS])).collect();
    let client_pod = world.pod("client");
    let client = world.peer(&client_pod);
    world.apply(
        "shop",
        &(manifest::service("cart", &["10.96.0.1", "fd00:96::1"], &["http:80:8080", "dns:53:5353/UDP"])
            + &manifest::service(
                "empty",
                &["10.96.0.2", "fd00:96::2"],
                &["http:80:8080", "dns:53:5353/UDP"],
            )),
    );
    let shop = Shop { agent: Some(world.agent()), world, pods, client };
    shop.scale(count);
    shop
}

impl Shop {
    /// Ends the agent without warning.
    pub fn kill_agent(&mut self) {
        drop(self.agent.take());
    }

    /// Ends the agent without warning and starts another.
    pub fn restart_agent(&mut self) {
        drop(self.agent.take());
        self.agent = Some(self.world.agent());
    }

    /// Makes the first `count` pods the Service's endpoints.
    pub fn scale(&self, count: usize) {
        let pods = self.pods[..count].iter().map(|(pod, _)| {
            let addresses = pod.addresses();
            manifest::pod(&pod.name, "cart", &[&addresses[0], &addresses[1]])
        });
        self.world.apply("pods", &pods.collect::<String>());
        let verdict = if count == 0 { "reject" } else { "translate" };
        for destination in ["10.96.0.1:80", "[fd00:96::1]:80", "10.96.0.1:53/udp", "[fd00:96::1]:53/udp"] {
            self.world.wait_verdict(destination, verdict, count);
        }
    }
}

/// A way to dial.
pub type Dial = fn(&mut Peer, &str) -> Outcome;
/// See [`WAYS`].
pub const TCP: Dial = Peer::tcp;
/// See [`WAYS`].
pub const UDP: Dial = Peer::udp;
/// See [`WAYS`].
pub const UDP_CONNECTED: Dial = Peer::udp_connected;

/// Every way to dial the Service: name, how, address.
pub const WAYS: [(&str, Dial, &str); 9] = [
    ("TCP over IPv4", TCP, "10.96.0.1:80"),
    ("TCP over IPv6", TCP, "[fd00:96::1]:80"),
    ("TCP, IPv4 mapped", TCP, "[::ffff:10.96.0.1]:80"),
    ("UDP over IPv4", UDP, "10.96.0.1:53"),
    ("UDP over IPv6", UDP, "[fd00:96::1]:53"),
    ("UDP, IPv4 mapped", UDP, "[::ffff:10.96.0.1]:53"),
    ("connected UDP over IPv4", UDP_CONNECTED, "10.96.0.1:53"),
    ("connected UDP over IPv6", UDP_CONNECTED, "[fd00:96::1]:53"),
    ("connected UDP, IPv4 mapped", UDP_CONNECTED, "[::ffff:10.96.0.1]:53"),
];

/// Panics unless the client saw the address that it had dialled.
pub fn assert_peer(case: &str, answer: &Answer, dialled: &str) {
    let peer = answer.peer.expect("a peer");
    assert_eq!(peer, address(dialled), "{case}: the client sees the address it dialled");
}
