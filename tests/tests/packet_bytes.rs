//! Single packets through the real programs, byte by byte: what goes in, what must come out. Of a redirect the target is
//! not to be seen here, only that there is one; worlds see where packets end.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::net::{IpAddr, SocketAddr};

use sluice_tests::{
    packet::{ACK, Carried, DESTINATION, ETHERNET, HOP_BY_HOP, Packet, ROUTING, SYN, at, icmp_error, read},
    reference::{
        packets::{Kind, Sender},
        way::Way,
    },
    rig::{
        Place, Rig, SERVICES, Verdict,
        exchange::{SENDERS, address, assert_ip, routed, there_and_back},
        served,
    },
};

#[test]
fn ends_change_and_nothing_else_whatever_the_headers() {
    let mut rig = Rig::with_services();
    let own = rig.both();
    let chains: [&[u8]; 6] =
        [&[], &[HOP_BY_HOP], &[DESTINATION], &[ROUTING, DESTINATION], &[HOP_BY_HOP; 5], &[DESTINATION; 6]];
    let mut port = 1_024;
    for (number, chain) in chains.iter().enumerate() {
        for carried in
            [Carried::Tcp(SYN), Carried::Tcp(ACK), Carried::Udp, Carried::UdpWithoutSum, Carried::Sctp]
        {
            let protocol = match carried {
                Carried::Tcp(_) => "TCP",
                Carried::Udp | Carried::UdpWithoutSum => "UDP",
                Carried::Sctp | Carried::Echo | Carried::EchoReply => "SCTP",
            };
            for (pod, is_v6, sender, kind) in [0, 3].into_iter().flat_map(|pod| {
                let families = [false, true].into_iter();
                families.flat_map(move |is_v6| {
                    let senders = SENDERS.into_iter();
                    senders.flat_map(move |sender| Kind::ALL.map(|kind| (pod, is_v6, sender, kind)))
                })
            }) {
                if carried == Carried::Sctp && kind == Kind::NodePort {
                    // Its number is never the endpoint's.
                    continue;
                }
                port += 1;
                let row = served(protocol, Some(pod));
                let src = address(&rig, sender, is_v6, port);
                let mut packet = Packet::new(src, row.at(kind, is_v6, &own), carried);
                (packet.options, packet.extensions) = ([0, 4, 8, 20, 36, 40][number], chain.to_vec());
                packet.payload = b"abc".iter().copied().cycle().take(usize::from(port) % 7 * 5).collect();
                let case = format!("{sender:?} -> {kind:?} {packet:?}");
                there_and_back(&mut rig, sender, sender.place(), &packet, &row, &case);
                there_and_back(&mut rig, sender, sender.place(), &packet, &row, &format!("{case}, again"));
            }
        }
    }
}

#[test]
fn xdp_leads_to_other_nodes_and_leaves_the_rest_alone() {
    let mut rig = Rig::with_services();
    let own = rig.both();
    let mut port = 1_024;
    for carried in [Carried::Tcp(SYN), Carried::Udp, Carried::UdpWithoutSum, Carried::Sctp] {
        let protocol = match carried {
            Carried::Tcp(_) => "TCP",
            Carried::Udp | Carried::UdpWithoutSum => "UDP",
            Carried::Sctp | Carried::Echo | Carried::EchoReply => "SCTP",
        };
        for (is_v6, options) in [(false, 0), (false, 40), (true, 0), (true, 3)] {
            for kind in Kind::ALL {
                if carried == Carried::Sctp && kind == Kind::NodePort {
                    continue;
                }
                port += 1;
                let src = address(&rig, Sender::Outside, is_v6, port);
                let row = served(protocol, Some(3));
                let mut packet = Packet::new(src, row.at(kind, is_v6, &own), carried);
                (packet.options, packet.extensions) =
                    if is_v6 { (0, vec![DESTINATION; options]) } else { (options, Vec::new()) };
                let case = format!("{kind:?} {packet:?}");
                there_and_back(&mut rig, Sender::Outside, Place::Early, &packet, &row, &case);
                // Known to both programs.
                there_and_back(&mut rig, Sender::Outside, Place::FromNetwork, &packet, &row, &case);
                for (what, pod) in [("a pod of this node", Some(0)), ("no endpoint", None)] {
                    let to = served(protocol, pod).at(kind, is_v6, &own);
                    let frame = rig.frame(Place::Early, &packet.between(src, to).ip());
                    let met = rig.run(Place::Early, &frame);
                    assert_eq!((met.verdict, met.frame), (Verdict::Pass, frame), "{what}, {case}");
                }
            }
        }
    }
}

#[test]
fn sctp_keeps_its_ports_and_ends_where_they_would_have_to_change() {
    let mut rig = Rig::with_services();
    let own = rig.both();
    for is_v6 in [false, true] {
        let src = address(&rig, Sender::Outside, is_v6, 5_000);
        for to in [
            SERVICES[8].at(Kind::ClusterIp, is_v6, &own),
            served("SCTP", Some(0)).at(Kind::NodePort, is_v6, &own),
        ] {
            let frame = rig.frame(Place::FromNetwork, &Packet::new(src, to, Carried::Sctp).ip());
            assert_eq!(rig.run(Place::FromNetwork, &frame).verdict, Verdict::Drop, "{to}");
            let met = rig.run(Place::Early, &frame);
            assert_eq!((met.verdict, met.frame), (Verdict::Pass, frame), "{to}");
        }
        let row = served("SCTP", Some(3));
        let packet = Packet::new(src, row.at(Kind::ClusterIp, is_v6, &own), Carried::Sctp);
        let case = format!("{packet:?}");
        let seen = there_and_back(&mut rig, Sender::Outside, Place::FromNetwork, &packet, &row, &case);
        assert_eq!(seen.port(), 5_000);
    }
}

#[test]
fn datagrams_in_pieces_go_where_the_first_piece_goes() {
    let mut rig = Rig::with_services();
    let own = rig.both();
    let mut id = 100;
    for (pod, is_v6, sender) in [0, 3].into_iter().flat_map(|pod| {
        [false, true].into_iter().flat_map(move |is_v6| SENDERS.map(|sender| (pod, is_v6, sender)))
    }) {
        id += 1;
        let (row, place) = (served("UDP", Some(pod)), sender.place());
        let src = address(&rig, sender, is_v6, 2_000 + id as u16);
        let mut packet = Packet::new(src, row.at(Kind::ClusterIp, is_v6, &own), Carried::Udp);
        packet.payload = (0..1_001).map(|number| (number * 7) as u8).collect();
        let case = format!("{sender:?} to pod {pod}: {src}");
        let pieces = packet.pieces(400, id);
        assert_eq!(pieces.len(), 3);
        // Nobody knows whose these are; no machine has the address.
        let met = rig.run(place, &rig.frame(place, &pieces[1]));
        assert_eq!(met.verdict, Verdict::Drop, "{case}: before the first");
        let way = Way::of(sender, src.ip(), row.endpoint(is_v6).ip(), rig.own(is_v6));
        let mut seen = None;
        for number in [0, 2, 1] {
            let frame = rig.frame(place, &pieces[number]);
            if place == Place::FromNetwork {
                let met = rig.run(Place::Early, &frame);
                assert_eq!((met.verdict, &met.frame), (Verdict::Pass, &frame), "{case}: XDP, piece {number}");
            }
            let met = rig.run(place, &frame);
            let seen = *seen.get_or_insert_with(|| read(&met.frame).unwrap().ends.src);
            let led = packet.between(seen, row.endpoint(is_v6)).with_ttl(64 - u8::from(way.is_routed));
            let verdict = routed(place, way.is_routed);
            assert_ip(&met, verdict, &led.pieces(400, id)[number], &format!("{case}: piece {number}"));
        }
    }
}

#[test]
fn the_last_hop_ends_a_packet_that_is_routed_and_no_other_and_the_node_says_so() {
    let mut rig = Rig::with_services();
    let own = rig.both();
    for (is_v6, place) in [false, true]
        .into_iter()
        .flat_map(|is_v6| [Place::FromNetwork, Place::Early].map(|place| (is_v6, place)))
    {
        for (port, ttl, pod) in [(3_000, 0, 3), (3_001, 1, 3), (3_002, 1, 0)] {
            let row = served("TCP", Some(pod));
            let src = address(&rig, Sender::Outside, is_v6, port);
            let packet = Packet::new(src, row.at(Kind::LoadBalancer, is_v6, &own), Carried::Tcp(SYN));
            let frame = rig.frame(place, &packet.with_ttl(ttl).ip());
            let met = rig.run(place, &frame);
            let case = format!("{place:?}, ttl {ttl}, pod {pod}");
            match (pod, place) {
                (3, Place::FromNetwork) => {
                    let (kind, quoted) = if is_v6 { ((3, 0), 48) } else { ((11, 0), 28) };
                    let quoted = &frame[ETHERNET..ETHERNET + quoted];
                    let want = icmp_error(rig.own(is_v6), src.ip(), kind, 0, quoted);
                    assert_ip(&met, Verdict::Redirect, &want, &case);
                }
                (_, Place::Early) => assert_eq!((met.verdict, met.frame), (Verdict::Pass, frame), "{case}"),
                (_, _) => {
                    let want = packet.between(src, row.endpoint(is_v6)).with_ttl(1);
                    assert_ip(&met, Verdict::Pass, &want.ip(), &case);
                }
            }
        }
    }
}

#[test]
fn ipv6_packets_with_ipv4_addresses_in_them_are_left_alone() {
    let mut rig = Rig::with_services();
    let own = rig.both();
    let to = served("TCP", Some(3)).at(Kind::ClusterIp, false, &own);
    for (src, dst) in [("[fd00:50::2]:80", to), ("[::ffff:192.168.50.2]:80", to)] {
        let mapped = match dst.ip() {
            IpAddr::V4(v4) => SocketAddr::new(v4.to_ipv6_mapped().into(), dst.port()),
            IpAddr::V6(_) => dst,
        };
        let packet = Packet::new(at(src), mapped, Carried::Tcp(SYN));
        for place in [Place::FromNetwork, Place::Early, Place::FromPod(0), Place::ToNetwork] {
            let frame = rig.frame(place, &packet.ip());
            let met = rig.run(place, &frame);
            assert_eq!((met.verdict, met.frame), (Verdict::Pass, frame), "{place:?} {packet:?}");
        }
    }
}
