//! Direct server return, packet by packet: what does not go in a tunnel, and what is said where a tunnel cannot be taken.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::net::SocketAddr;

use sluice_common::layout::{FLOW_CUT, FLOW_SNAT, FLOW_TUNNEL, OPTION_DSR_TCP, OPTION_DSR_UDP};
use sluice_tests::{
    packet::{ACK, Carried, ETHERNET, Packet, SYN, icmp_error, read, verify},
    reference::packets::{Kind, Sender},
    rig::{
        Met, Place, Rig, Verdict,
        exchange::{address, assert_ip, tunnelled},
        served,
    },
};

/// The pod of the other node behind a router: all links are 1,500 wide.
const POD: usize = 3;

/// A rig that forwards in tunnels, and a packet from a client to a Service whose pod is on the other node.
fn dial(is_v6: bool, carried: Carried) -> (Rig, Packet, SocketAddr) {
    let mut rig = Rig::with_services();
    rig.set_options(OPTION_DSR_TCP | OPTION_DSR_UDP);
    let row = served(if matches!(carried, Carried::Tcp(_)) { "TCP" } else { "UDP" }, Some(POD));
    let to = row.at(Kind::LoadBalancer, is_v6, &rig.both());
    let packet = Packet::new(address(&rig, Sender::Outside, is_v6, 6_200), to, carried);
    (rig, packet, row.endpoint(is_v6))
}

fn run(rig: &mut Rig, packet: &Packet) -> Met {
    rig.refill();
    rig.run(Place::FromNetwork, &rig.frame(Place::FromNetwork, &packet.ip()))
}

/// In a tunnel to the pod, one hop shorter.
fn assert_tunnelled(rig: &mut Rig, packet: &Packet, by: SocketAddr, case: &str) {
    let met = run(rig, packet);
    let own = rig.own(by.is_ipv6());
    assert_ip(&met, Verdict::Redirect, &tunnelled(&packet.with_ttl(packet.ttl - 1), own, by), case);
}

/// In the node's name; returns the source that the pod sees.
fn assert_in_our_name(rig: &Rig, met: &Met, packet: &Packet, by: SocketAddr, case: &str) -> SocketAddr {
    let seen = read(&met.frame).unwrap().ends.src;
    assert_eq!(seen.ip(), rig.own(false), "{case}");
    assert_ip(met, Verdict::Redirect, &packet.between(seen, by).with_ttl(packet.ttl - 1).ip(), case);
    verify(&met.frame).unwrap_or_else(|error| panic!("{case}: {error}"));
    seen
}

#[test]
fn packets_without_hops_left_are_answered_before_they_enter_a_tunnel() {
    for (is_v6, carried) in [false, true]
        .into_iter()
        .flat_map(|is_v6| [Carried::Udp, Carried::Tcp(SYN)].map(|carried| (is_v6, carried)))
    {
        let (mut rig, packet, by) = dial(is_v6, carried);
        let case = format!("IPv6 {is_v6}, {carried:?}");
        for (ttl, known) in [(1, false), (0, false), (2, false), (1, true)] {
            let packet = packet.with_ttl(ttl);
            if ttl == 2 {
                assert_tunnelled(&mut rig, &packet, by, &case);
                continue;
            }
            let frame = rig.frame(Place::FromNetwork, &packet.ip());
            let early = rig.run(Place::Early, &frame);
            assert_eq!((early.verdict, &early.frame), (Verdict::Pass, &frame), "{case}: XDP leaves it");
            let met = run(&mut rig, &packet);
            let (kind, header) = if is_v6 { ((3, 0), 40) } else { ((11, 0), 20) };
            let quoted = &frame[ETHERNET..ETHERNET + header + 8];
            let want = icmp_error(rig.own(is_v6), packet.src.ip(), kind, 0, quoted);
            assert_ip(&met, Verdict::Redirect, &want, &format!("{case}, {ttl} hops, known {known}"));
        }
    }
}

#[test]
fn a_datagram_that_fits_a_tunnel_only_in_pieces_goes_in_the_nodes_name_and_so_does_what_follows() {
    let (mut rig, mut packet, by) = dial(false, Carried::Udp);
    packet.dont_fragment = false;
    assert_tunnelled(&mut rig, &packet, by, "small");
    // As long as the link, longer than a tunnel's inside.
    let big = Packet { payload: vec![7; 1_500 - 28], ..packet.clone() };
    let frame = rig.frame(Place::FromNetwork, &big.ip());
    let early = rig.run(Place::Early, &frame);
    assert_eq!((early.verdict, &early.frame), (Verdict::Pass, &frame), "XDP leaves it");
    let met = run(&mut rig, &big);
    let seen = assert_in_our_name(&rig, &met, &big, by, "big");
    let met = run(&mut rig, &packet);
    assert_eq!(assert_in_our_name(&rig, &met, &packet, by, "small again"), seen);
    // The answer comes by here now.
    let back = packet.between(by, seen);
    let met = run(&mut rig, &back);
    let want = packet.between(packet.dst, packet.src).with_ttl(packet.ttl - 1);
    assert_ip(&met, Verdict::Redirect, &want.ip(), "back");
    // What does not even fit the link is cut up by the stack.
    let huge = Packet { payload: vec![7; 1_600], ..packet.clone() };
    let met = run(&mut rig, &huge);
    assert_ip(&met, Verdict::Pass, &huge.between(packet.src, by).ip(), "huge");
    let half = rig.flow(&read(&met.frame).unwrap().ends).unwrap();
    assert_eq!(half.flags & (FLOW_CUT | FLOW_SNAT | FLOW_TUNNEL), FLOW_CUT | FLOW_SNAT);
}

#[test]
fn tcp_that_may_be_cut_up_never_enters_a_tunnel() {
    let (mut rig, mut packet, by) = dial(false, Carried::Tcp(SYN));
    packet.dont_fragment = false;
    let met = run(&mut rig, &packet);
    let seen = assert_in_our_name(&rig, &met, &packet, by, "SYN");
    let full = Packet { carried: Carried::Tcp(ACK), payload: vec![7; 1_460], ..packet };
    let met = run(&mut rig, &full);
    assert_eq!(assert_in_our_name(&rig, &met, &full, by, "as long as the link"), seen);
}

#[test]
fn what_must_not_be_cut_up_is_answered_with_the_room_in_the_tunnel() {
    for (is_v6, carried) in [false, true]
        .into_iter()
        .flat_map(|is_v6| [Carried::Udp, Carried::Tcp(ACK)].map(|carried| (is_v6, carried)))
    {
        let (mut rig, mut packet, by) = dial(is_v6, carried);
        let header = if is_v6 { 40 } else { 20 };
        let own = if carried == Carried::Udp { 8 } else { 20 };
        let room = 1_500 - header;
        let case = format!("IPv6 {is_v6}, {carried:?}");
        packet.payload = vec![7; room - header - own];
        assert_tunnelled(&mut rig, &packet, by, &case);
        packet.payload.push(7);
        let met = run(&mut rig, &packet);
        let (kind, quoted) = if is_v6 { ((2, 0), 48) } else { ((3, 4), 28) };
        let want = icmp_error(packet.dst.ip(), packet.src.ip(), kind, room as u32, &packet.ip()[..quoted]);
        assert_ip(&met, Verdict::Redirect, &want, &format!("{case}, one too many"));
    }
}
