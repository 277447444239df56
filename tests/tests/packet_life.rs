//! What is remembered, packet by packet: connections that end or seem to, pieces of datagrams, source ports.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::net::{SocketAddr, UdpSocket};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::json;
use sluice_common::{
    Reason,
    layout::{FlowValue, OPTION_DSR_TCP, STATE_RESET},
    packet::flow,
};
use sluice_tests::{
    packet::{ACK, Carried, Ends, Packet, RST, SYN, TCP, UDP, read},
    reference::packets::{Kind, Sender},
    rig::{
        Met, Place, Rig, Verdict,
        exchange::{address, tunnelled},
        served,
    },
};

const NANOS_PER_SEC: u64 = 1_000_000_000;

/// A TCP connection from a client outside to a pod of another node.
struct Open {
    rig: Rig,
    packet: Packet,
    /// What the pod sees of the client, and the pod.
    pair: (SocketAddr, SocketAddr),
}

impl Open {
    fn new(is_v6: bool) -> Self {
        let mut rig = Rig::with_services();
        let row = served("TCP", Some(3));
        let to = row.at(Kind::LoadBalancer, is_v6, &rig.both());
        let src = address(&rig, Sender::Outside, is_v6, 5_300);
        let packet = Packet::new(src, to, Carried::Tcp(SYN));
        let met = rig.run(Place::FromNetwork, &rig.frame(Place::FromNetwork, &packet.ip()));
        let seen = read(&met.frame).unwrap().ends.src;
        let mut open = Self { rig, packet, pair: (seen, row.endpoint(is_v6)) };
        open.backend(SYN | ACK);
        open.client(ACK);
        open
    }

    fn send(&mut self, packet: &Packet) -> Met {
        self.rig.run(Place::FromNetwork, &self.rig.frame(Place::FromNetwork, &packet.ip()))
    }

    fn client(&mut self, flags: u8) -> Met {
        self.send(&Packet { carried: Carried::Tcp(flags), ..self.packet.clone() })
    }

    fn backend(&mut self, flags: u8) -> Met {
        let (seen, by) = self.pair;
        self.send(&Packet { carried: Carried::Tcp(flags), ..self.packet.between(by, seen) })
    }

    /// Both entries.
    fn flows(&self) -> [FlowValue; 2] {
        let (seen, by) = self.pair;
        [(self.packet.src, self.packet.dst), (by, seen)]
            .map(|(src, dst)| self.rig.flow(&Ends { src, dst, protocol: TCP }).unwrap())
    }

    fn timeouts(&self) -> [u64; 2] {
        self.flows().map(|flow| flow::timeout_s(TCP, flow.state))
    }
}

#[test]
fn a_forged_reset_ends_no_connection_whose_ends_go_on() {
    for is_v6 in [false, true] {
        let mut open = Open::new(is_v6);
        assert_eq!(open.timeouts(), [86_400; 2], "established");
        for of_backend in [false, true] {
            let case = format!("IPv6 {is_v6}, of the backend {of_backend}");
            let reset = if of_backend { open.backend(RST) } else { open.client(RST) };
            assert_eq!(reset.verdict, Verdict::Redirect, "{case}: it is led on, for it may be true");
            assert_eq!(open.timeouts(), [10; 2], "{case}: and believed for now");
            open.client(ACK);
            open.client(ACK);
            assert_eq!(open.timeouts(), [10; 2], "{case}: that may have been under way");
            open.backend(ACK);
            assert_eq!(open.timeouts(), [86_400; 2], "{case}: nobody believed it");
        }
        open.backend(RST | ACK);
        open.backend(ACK);
        // The next connection by the same port needs another's entries.
        let before = open.flows()[0];
        assert_ne!(before.state & STATE_RESET, 0);
        open.client(SYN);
        assert_eq!(open.flows()[0].state, 0, "it begins anew");
    }
}

#[test]
fn behind_a_tunnel_the_client_alone_shows_that_it_goes_on() {
    for is_v6 in [false, true] {
        let mut rig = Rig::with_services();
        rig.set_options(OPTION_DSR_TCP);
        let row = served("TCP", Some(3));
        let to = row.at(Kind::LoadBalancer, is_v6, &rig.both());
        let src = address(&rig, Sender::Outside, is_v6, 5_400);
        let mut timeout = |flags: u8| {
            let packet = Packet::new(src, to, Carried::Tcp(flags));
            let met = rig.run(Place::FromNetwork, &rig.frame(Place::FromNetwork, &packet.ip()));
            let want = tunnelled(&packet.with_ttl(63), rig.own(is_v6), row.endpoint(is_v6));
            assert_eq!(met.frame[14..], want);
            let ends = Ends { src, dst: to, protocol: TCP };
            flow::timeout_s(TCP, rig.flow(&ends).unwrap().state)
        };
        let got = [SYN, ACK, RST, ACK, RST].map(|flags| (flags, timeout(flags)));
        assert_eq!(got, [(SYN, 120), (ACK, 86_400), (RST, 10), (ACK, 86_400), (RST, 10)], "IPv6 {is_v6}");
    }
}

#[test]
fn a_piece_is_not_led_by_a_datagram_of_long_ago_with_the_same_number() {
    let mut rig = Rig::with_services();
    let own = rig.both();
    for is_v6 in [false, true] {
        let row = served("UDP", Some(0));
        let src = address(&rig, Sender::Outside, is_v6, 2_300);
        let mut packet = Packet::new(src, row.at(Kind::ClusterIp, is_v6, &own), Carried::Udp);
        packet.payload = vec![3; 1_000];
        let pieces = packet.pieces(400, 77);
        let led = |number: usize, rig: &mut Rig| {
            let frame = rig.frame(Place::FromNetwork, &pieces[number]);
            rig.run(Place::FromNetwork, &frame).frame != frame
        };
        assert!(led(0, &mut rig) && led(1, &mut rig), "IPv6 {is_v6}");
        rig.age_pieces(29 * NANOS_PER_SEC);
        assert!(led(2, &mut rig), "IPv6 {is_v6}: it may still be under way");
        rig.age_pieces(NANOS_PER_SEC);
        assert!(!led(2, &mut rig), "IPv6 {is_v6}: of the next datagram, before its first piece");
        assert!(led(0, &mut rig) && led(2, &mut rig), "IPv6 {is_v6}: which is there now");
    }
}

/// Source ports that this many new connections from outside are led by to a pod of another node.
fn source_ports(rig: &mut Rig, carried: Carried, is_v6: bool, first: u16, count: u16) -> Vec<u16> {
    let row = served(if carried == Carried::Udp { "UDP" } else { "TCP" }, Some(3));
    let to = row.at(Kind::ClusterIp, is_v6, &rig.both());
    (first..first + count)
        .map(|port| {
            let packet = Packet::new(address(rig, Sender::Outside, is_v6, port), to, carried);
            let met = rig.run(Place::FromNetwork, &rig.frame(Place::FromNetwork, &packet.ip()));
            assert_eq!(met.verdict, Verdict::Redirect, "{packet:?}");
            let src = read(&met.frame).unwrap().ends.src;
            assert_eq!(src.ip(), rig.own(is_v6));
            src.port()
        })
        .collect()
}

#[test]
fn source_ports_avoid_those_of_the_nodes_sockets_and_end_when_all_are_taken() {
    let most = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: most, maximum: most }).unwrap();
    for is_v6 in [false, true] {
        let mut rig = Rig::with_services();
        let apart = |ports: &[u16]| ports.iter().all(|port| *port >= 61_000);
        assert!(apart(&source_ports(&mut rig, Carried::Udp, is_v6, 1_000, 40)), "free ones");
        // Sockets of this thread live in the rig's network.
        let bind = |port| UdpSocket::bind((rig.own(is_v6), port)).unwrap();
        let sockets: Vec<UdpSocket> = (61_000..=65_535).map(bind).collect();
        let ports = source_ports(&mut rig, Carried::Udp, is_v6, 2_000, 40);
        assert!(ports.iter().all(|port| (32_768..61_000).contains(port)), "IPv6 {is_v6}: {ports:?}");
        // The rest have connections of others with the same endpoint.
        let (by, own) = (served("UDP", Some(3)).endpoint(is_v6), rig.own(is_v6));
        for port in 32_768..61_000 {
            rig.remember(&Ends { src: by, dst: SocketAddr::new(own, port), protocol: UDP });
        }
        let before = rig.count(Reason::SourcePortsTaken);
        let to = served("UDP", Some(3)).at(Kind::ClusterIp, is_v6, &rig.both());
        let packet = Packet::new(address(&rig, Sender::Outside, is_v6, 3_000), to, Carried::Udp);
        let frame = rig.frame(Place::FromNetwork, &packet.ip());
        assert_eq!(rig.run(Place::FromNetwork, &frame).verdict, Verdict::Drop, "IPv6 {is_v6}");
        assert_eq!(rig.count(Reason::SourcePortsTaken), before + 1, "IPv6 {is_v6}");
        // Those of the other transport are other ports.
        assert!(apart(&source_ports(&mut rig, Carried::Tcp(SYN), is_v6, 4_000, 40)), "IPv6 {is_v6}");
        drop(sockets);
        assert!(apart(&source_ports(&mut rig, Carried::Udp, is_v6, 3_000, 40)), "IPv6 {is_v6}: free again");
    }
}

#[test]
fn source_ports_avoid_node_ports_wherever_the_cluster_has_them() {
    let mut rig = Rig::with_services();
    let port = |number: u16| json!({"name": format!("p{number}"), "port": number, "protocol": "UDP", "nodePort": number});
    let ports: Vec<_> = (61_000..=65_535).map(port).collect();
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "wide", "namespace": "random"},
        "spec": {
            "type": "NodePort", "clusterIP": "10.96.200.1", "clusterIPs": ["10.96.200.1", "fd00:10:96::c801"],
            "ipFamilies": ["IPv4", "IPv6"], "ports": ports,
        },
    });
    rig.node.apply_objects(Some(service), "wide", Vec::new());
    rig.node.program();
    for is_v6 in [false, true] {
        let ports = source_ports(&mut rig, Carried::Udp, is_v6, 1_000, 40);
        assert!(ports.iter().all(|port| (32_768..61_000).contains(port)), "IPv6 {is_v6}: {ports:?}");
        let ports = source_ports(&mut rig, Carried::Tcp(SYN), is_v6, 1_000, 40);
        assert!(ports.iter().all(|port| *port >= 61_000), "IPv6 {is_v6}: no NodePorts of TCP: {ports:?}");
    }
}
