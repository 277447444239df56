//! Tunnels between nodes, packet by packet: what is taken out of one and what is not, and the errors about what is in them.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::net::{IpAddr, SocketAddr};

use sluice_common::{
    Reason,
    layout::{OPTION_DSR_TCP, OPTION_DSR_UDP},
};
use sluice_tests::{
    packet::{ACK, Carried, Ends, Packet, SYN, TCP, icmp_error, read},
    reference::packets::{Kind, Sender},
    rig::{
        Met, Place, Rig, Verdict,
        exchange::{address, assert_ip, in_tunnel, less_hops, tunnelled},
        served,
    },
};

/// The pod of the other node behind a router: all links are 1,500 wide.
const FAR: usize = 3;
/// One of this node that serves, and one that does not.
const NEAR: usize = 0;
const IDLE: usize = 1;

fn the_other_node(is_v6: bool) -> IpAddr {
    if is_v6 { "fd00:50::12" } else { "192.168.50.12" }.parse().unwrap()
}

fn router(is_v6: bool) -> IpAddr {
    if is_v6 { "fd00:50::1" } else { "192.168.50.1" }.parse().unwrap()
}

const fn header(is_v6: bool) -> usize {
    if is_v6 { 40 } else { 20 }
}

/// Type and code of an error that tells of an MTU.
const fn too_big(is_v6: bool) -> (u8, u8) {
    if is_v6 { (2, 0) } else { (3, 4) }
}

fn run(rig: &mut Rig, ip: &[u8]) -> Met {
    rig.run(Place::FromNetwork, &rig.frame(Place::FromNetwork, ip))
}

fn assert_left_alone(rig: &mut Rig, ip: &[u8], case: &str) {
    assert_ip(&run(rig, ip), Verdict::Pass, ip, case);
}

/// A rig, the first packet of a client to a Service served by that pod, and what serves it.
fn dial(rig: &Rig, is_v6: bool, carried: Carried, pod: usize, port: u16) -> (Packet, SocketAddr) {
    let row = served(if matches!(carried, Carried::Tcp(_)) { "TCP" } else { "UDP" }, Some(pod));
    let to = row.at(Kind::LoadBalancer, is_v6, &rig.both());
    let mut packet = Packet::new(address(rig, Sender::Outside, is_v6, port), to, carried);
    packet.id = 7;
    (packet, row.endpoint(is_v6))
}

#[test]
fn only_endpoints_of_this_node_get_what_comes_in_tunnels() {
    let mut rig = Rig::with_services();
    for is_v6 in [false, true] {
        let (packet, by) = dial(&rig, is_v6, Carried::Tcp(SYN), NEAR, 6_300);
        let (pods, node) = (Rig::pods(is_v6), the_other_node(is_v6));
        let forged = [
            ("a pod that serves nothing", pods[IDLE]),
            ("an endpoint of another node", pods[FAR]),
            ("the client", packet.src.ip()),
            ("the node", rig.own(is_v6)),
            ("what was dialled", packet.dst.ip()),
        ];
        let ends = Ends { src: packet.src, dst: packet.dst, protocol: TCP };
        for (case, to) in forged {
            assert_left_alone(&mut rig, &tunnelled(&packet, node, SocketAddr::new(to, by.port())), case);
            assert_eq!(rig.flow(&ends), None, "{case}");
        }
        let nobody = Packet { dst: SocketAddr::new(packet.dst.ip(), 9), ..packet.clone() };
        assert_left_alone(&mut rig, &tunnelled(&nobody, node, by), "no Service");
        assert_left_alone(&mut rig, &tunnelled(&packet, node, SocketAddr::new(by.ip(), 0)), "no port");
        // Whatever this node itself does with packets for others: nodes change one by one.
        let met = run(&mut rig, &tunnelled(&packet, node, by));
        assert_ip(&met, Verdict::Pass, &packet.between(packet.src, by).ip(), "the endpoint");
        let next = Packet { carried: Carried::Tcp(ACK), ..packet.clone() };
        for (case, to) in forged {
            let to = SocketAddr::new(to, by.port());
            assert_left_alone(&mut rig, &tunnelled(&next, node, to), &format!("{case}, known"));
        }
        let met = run(&mut rig, &tunnelled(&next, node, by));
        assert_ip(&met, Verdict::Pass, &next.between(packet.src, by).ip(), "the endpoint, known");
        // Connections that lead from here to another node, known by their own packets.
        for (case, sender) in [("a client's", Sender::Outside), ("the node's", Sender::Node)] {
            let (mut packet, far) = dial(&rig, is_v6, Carried::Tcp(SYN), FAR, 6_310);
            packet.src = address(&rig, sender, is_v6, 6_310);
            rig.run(sender.place(), &rig.frame(sender.place(), &packet.ip()));
            assert_left_alone(&mut rig, &tunnelled(&packet, node, far), &format!("{case} to another node"));
            let answer = packet.between(packet.dst, packet.src).ip();
            let error = icmp_error(router(is_v6), packet.dst.ip(), too_big(is_v6), 1_300, &answer);
            assert_left_alone(&mut rig, &in_tunnel(&error, node, far), &format!("an error, {case}"));
        }
        let row = served("SCTP", Some(NEAR));
        let src = address(&rig, Sender::Outside, is_v6, 6_320);
        let packet = Packet::new(src, row.at(Kind::LoadBalancer, is_v6, &rig.both()), Carried::Sctp);
        assert_left_alone(&mut rig, &tunnelled(&packet, node, by), "SCTP, which goes in no tunnels");
    }
}

#[test]
fn a_router_between_nodes_that_has_less_room_is_heard_by_the_client() {
    let room = |is_v6: bool| 1_400 - header(is_v6);
    for (is_v6, carried, quotes) in [false, true].into_iter().flat_map(|is_v6| {
        [Carried::Udp, Carried::Tcp(ACK)]
            .into_iter()
            .flat_map(move |carried| [true, false].map(|quotes| (is_v6, carried, quotes)))
    }) {
        let mut rig = Rig::with_services();
        rig.set_options(OPTION_DSR_TCP | OPTION_DSR_UDP);
        let (mut packet, by) = dial(&rig, is_v6, carried, FAR, 6_400);
        let (own, case) = (rig.own(is_v6), format!("IPv6 {is_v6}, {carried:?}, whole quote {quotes}"));
        let transport = if carried == Carried::Udp { 8 } else { 20 };
        packet.payload = vec![7; 1_500 - 2 * header(is_v6) - transport];
        let sent = tunnelled(&packet.with_ttl(63), own, by);
        assert_ip(&run(&mut rig, &packet.ip()), Verdict::Redirect, &sent, &case);
        // Not about what left here.
        let others = tunnelled(&packet.with_ttl(63), the_other_node(is_v6), by);
        let error = icmp_error(router(is_v6), own, too_big(is_v6), 1_400, &others[..100]);
        assert_left_alone(&mut rig, &error, &format!("{case}: another node's"));
        assert_ip(&run(&mut rig, &packet.ip()), Verdict::Redirect, &sent, &format!("{case}: still"));
        let before = rig.count(Reason::PathNarrowed);
        let quoted = if quotes { 2 * header(is_v6) + 24 } else { header(is_v6) + 8 };
        let error = icmp_error(router(is_v6), own, too_big(is_v6), 1_400, &sent[..quoted]);
        if quotes {
            let inner = &sent[header(is_v6)..2 * header(is_v6) + 8];
            let told = room(is_v6) as u32;
            let want = icmp_error(packet.dst.ip(), packet.src.ip(), too_big(is_v6), told, inner);
            assert_ip(&run(&mut rig, &error), Verdict::Redirect, &want, &case);
        } else {
            assert_left_alone(&mut rig, &error, &case);
        }
        assert_eq!(rig.count(Reason::PathNarrowed), before + 1, "{case}");
        // What comes next is answered here.
        let quoted = &packet.ip()[..header(is_v6) + 8];
        let want = icmp_error(packet.dst.ip(), packet.src.ip(), too_big(is_v6), room(is_v6) as u32, quoted);
        rig.refill();
        assert_ip(&run(&mut rig, &packet.ip()), Verdict::Redirect, &want, &format!("{case}: again"));
        packet.payload.truncate(room(is_v6) - header(is_v6) - transport);
        let want = tunnelled(&packet.with_ttl(63), own, by);
        assert_ip(&run(&mut rig, &packet.ip()), Verdict::Redirect, &want, &format!("{case}: what fits"));
        packet.payload.push(7);
        let met = run(&mut rig, &packet.ip());
        assert_eq!(read(&met.frame).unwrap().ends.dst.ip(), packet.src.ip(), "{case}: one too many");
        if !is_v6 && carried == Carried::Udp {
            packet.dont_fragment = false;
            let met = run(&mut rig, &packet.ip());
            let seen = read(&met.frame).unwrap().ends.src;
            assert_eq!(seen.ip(), own, "{case}: what may be cut up leaves the tunnel");
            assert_ip(&met, Verdict::Redirect, &packet.between(seen, by).with_ttl(63).ip(), &case);
        }
    }
}

#[test]
fn errors_about_what_a_pod_answered_follow_the_tunnel_to_the_pod() {
    for is_v6 in [false, true] {
        let mut rig = Rig::with_services();
        rig.set_options(OPTION_DSR_TCP);
        let cut = |packet: &Packet| packet.ip()[..header(is_v6) + 8].to_vec();
        let about = |packet: &Packet, from: SocketAddr, to: IpAddr| {
            let answer = packet.between(from, packet.src).with_ttl(9);
            icmp_error(router(is_v6), to, too_big(is_v6), 1_300, &cut(&answer))
        };
        // Where the client's packets come in: the pod's node knows whose connection it is.
        let (packet, by) = dial(&rig, is_v6, Carried::Tcp(SYN), FAR, 6_500);
        let error = about(&packet, packet.dst, packet.dst.ip());
        assert_left_alone(&mut rig, &error, "before there is a connection");
        run(&mut rig, &packet.ip());
        let want = in_tunnel(&less_hops(error.clone(), 1), rig.own(is_v6), by);
        assert_ip(&run(&mut rig, &error), Verdict::Redirect, &want, &format!("IPv6 {is_v6}: sent on"));
        // Where the pod is.
        let (packet, by) = dial(&rig, is_v6, Carried::Tcp(SYN), NEAR, 6_600);
        let error = about(&packet, packet.dst, packet.dst.ip());
        let sent = in_tunnel(&error, the_other_node(is_v6), by);
        assert_left_alone(&mut rig, &sent, "in a tunnel, before there is a connection");
        run(&mut rig, &tunnelled(&packet, the_other_node(is_v6), by));
        let want = about(&packet, by, by.ip());
        assert_ip(&run(&mut rig, &sent), Verdict::Pass, &want, &format!("IPv6 {is_v6}: the pod hears it"));
        let elsewhere = SocketAddr::new(Rig::pods(is_v6)[IDLE], by.port());
        let sent = in_tunnel(&error, the_other_node(is_v6), elsewhere);
        assert_left_alone(&mut rig, &sent, "in a tunnel to somebody else");
    }
}
