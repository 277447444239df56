//! Sessions of sockets: TCP connections and UDP sockets that each stay with one pod, from inside and outside.

use std::{net::SocketAddr, sync::Arc};

use super::{Cluster, Runner, Shared};
use crate::{
    outside::NODE_PORTS,
    peer::{Answer, Command, Peer, address},
    world::Pod,
};

const BYTES: u64 = 1 << 16;
/// Sockets of each protocol that each client has at each address.
const SOCKETS: usize = 3;

/// One socket.
struct Session {
    id: u32,
    to: SocketAddr,
    udp: bool,
    first: Answer,
}

/// Sockets of a client outside, by node port and load balancer, and of a pod, by cluster IP; both families.
pub fn start(cluster: &Cluster, shared: &Arc<Shared>) -> Vec<Runner> {
    let host = cluster.world.node(1).host.addresses();
    let other = cluster.world.node(2).host.addresses();
    let node_ports = |host: &str| {
        NODE_PORTS.map(
            |port| if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") },
        )
    };
    let services = |host: &str| [80, 53].map(|port| format!("{host}:{port}"));
    let outside = cluster.world.client();
    let ways: [(&Pod, [String; 2]); 7] = [
        (outside, node_ports(&host[0])),
        (outside, node_ports(&host[1])),
        (outside, node_ports(&other[0])),
        (outside, services("203.0.113.10")),
        (outside, services("[2001:db8:50::10]")),
        (&cluster.inside, services("10.96.0.1")),
        (&cluster.inside, services("[fd00:10:96::1]")),
    ];
    ways.into_iter().map(|(pod, to)| client(pod, &to, shared)).collect()
}

fn client(pod: &Pod, [tcp, udp]: &[String; 2], shared: &Arc<Shared>) -> Runner {
    let mut peer = pod.peer();
    let mut sessions = Vec::new();
    for _ in 0..SOCKETS {
        sessions.push(open(&mut peer, address(tcp), false));
        sessions.push(open(&mut peer, address(udp), true));
    }
    Runner::start(shared, sessions.len(), move |_| {
        let mut lost = Vec::new();
        sessions.retain(|session| match go_on(&mut peer, session) {
            Ok(()) => true,
            Err(error) => {
                lost.push(error);
                false
            }
        });
        lost
    })
}

fn open(peer: &mut Peer, to: SocketAddr, udp: bool) -> Session {
    let id = peer.id();
    if udp {
        peer.command(&Command::UdpOpen { id, v6: to.is_ipv6() }).expect("a socket");
        // Sockets that are not connected, on the node, spread anew when endpoints change: by their number.
        peer.command(&Command::UdpConnect { id, to }).expect("a peer");
    }
    let command = if udp { Command::UdpAsk { id, to: None } } else { Command::Tcp { id, to } };
    let first = peer.command(&command).unwrap_or_else(|error| panic!("{to}: {error}"));
    Session { id, to, udp, first }
}

/// Uses it once more; it is led to where it was.
fn go_on(peer: &mut Peer, session: &Session) -> Result<(), String> {
    let Session { id, to, udp, first } = session;
    let ask = if *udp {
        Command::UdpAsk { id: *id, to: None }
    } else {
        peer.command(&Command::TcpEcho { id: *id, bytes: BYTES })
            .map_err(|error| format!("{to}: {error}"))?;
        Command::AskAgain { id: *id }
    };
    match peer.command(&ask) {
        Ok(answer) if answer == *first => Ok(()),
        other => Err(format!("{to} was led to {first:?}, and now {other:?}")),
    }
}
