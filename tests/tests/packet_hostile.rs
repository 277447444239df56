//! Packets of somebody outside who lies: about who he is, and about what pieces of datagrams are. Whatever becomes of them, they
//! reach nobody but those that serve what was dialled.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
};

use sluice_tests::{
    packet::{ACK, Carried, ETHERNET, Packet, SYN, read},
    reference::packets::{Kind, Sender},
    rig::{
        Place, Rig, Verdict,
        exchange::{address, assert_ip},
        judge::Judge,
        served,
    },
};

#[test]
fn whoever_a_packet_says_that_it_comes_from_it_goes_to_an_endpoint_or_nowhere() {
    let mut rig = Rig::with_services();
    let (judge, own) = (Judge::new(&rig), rig.both());
    let mut seen = BTreeSet::new();
    for (is_v6, kind) in [false, true].into_iter().flat_map(|is_v6| Kind::ALL.map(|kind| (is_v6, kind))) {
        let pods = Rig::pods(is_v6);
        let vip = |kind| served("TCP", Some(0)).at(kind, is_v6, &own).ip();
        let nobodys = if is_v6 { ["::1", "::", "ff02::1"] } else { ["127.0.0.1", "0.0.0.0", "224.0.0.1"] };
        let nobodys = nobodys.map(|text| text.parse::<IpAddr>().unwrap());
        let liars = [
            own[usize::from(is_v6)],
            pods[0],
            pods[1],
            pods[3],
            vip(Kind::ClusterIp),
            vip(Kind::LoadBalancer),
        ];
        for (src, pod) in
            liars.into_iter().chain(nobodys).flat_map(|src| [Some(0), Some(3), None].map(|pod| (src, pod)))
        {
            for (protocol, carried) in
                [("TCP", Carried::Tcp(SYN)), ("TCP", Carried::Tcp(ACK)), ("UDP", Carried::Udp)]
            {
                rig.refill();
                let row = served(protocol, pod);
                let packet = Packet::new(SocketAddr::new(src, 7_000), row.at(kind, is_v6, &own), carried);
                for place in [Place::Early, Place::FromNetwork] {
                    let case = format!("{place:?} {packet:?}");
                    let frame = rig.frame(place, &packet.ip());
                    let met = rig.run(place, &frame);
                    let judged = judge.judge(&frame, &met).unwrap_or_else(|why| panic!("{case}: {why}"));
                    seen.insert(judged);
                    let Some(ends) = read(&met.frame).map(|head| head.ends).filter(|_| met.frame != frame)
                    else {
                        continue;
                    };
                    // An endpoint that answers whoever it takes for its client.
                    let answer = packet.between(ends.dst, ends.src);
                    for place in [Place::FromNetwork, Place::ToNetwork] {
                        let frame = rig.frame(place, &answer.ip());
                        let met = rig.run(place, &frame);
                        let judged = judge.judge(&frame, &met);
                        seen.insert(judged.unwrap_or_else(|why| panic!("{case}, answered: {why}")));
                    }
                }
            }
        }
    }
    assert!(seen.contains("led") && seen.contains("passed"), "{seen:?}");
}

#[test]
fn pieces_that_lie_over_each_other_go_to_one_endpoint_each() {
    let mut rig = Rig::with_services();
    let own = rig.both();
    for is_v6 in [false, true] {
        let to = |pod| served("UDP", Some(pod)).at(Kind::NodePort, is_v6, &own);
        let src = address(&rig, Sender::Outside, is_v6, 7_100);
        let by = |pod: usize| served("UDP", Some(pod)).endpoint(is_v6);
        let datagram =
            |pod| Packet { payload: vec![pod as u8; 200], ..Packet::new(src, to(pod), Carried::Udp) };
        let (one, other) = (datagram(0).pieces(64, 9), datagram(2).pieces(64, 9));
        let led = |rig: &mut Rig, piece: &[u8]| {
            let frame = rig.frame(Place::FromNetwork, piece);
            let met = rig.run(Place::FromNetwork, &frame);
            assert_eq!(met.frame[ETHERNET..].len(), piece.len());
            (met.verdict, read(&met.frame).unwrap().ends.dst.ip())
        };
        let near = (Verdict::Pass, by(0).ip());
        assert_eq!(led(&mut rig, &one[0]), near);
        // The same bytes again, and others over the end of the first piece: all the same way.
        assert_eq!(led(&mut rig, &one[0]), near, "again");
        let mut over = one[1].clone();
        let at = if is_v6 { 42 } else { 6 };
        let word = u16::from_be_bytes([over[at], over[at + 1]]);
        // Eight bytes further to the front: 1 in IPv4, 8 in IPv6.
        over[at..at + 2].copy_from_slice(&(word - if is_v6 { 8 } else { 1 }).to_be_bytes());
        assert_eq!(led(&mut rig, &over), near, "over its end");
        // A first piece of the same number that dials another Service: what follows is its own.
        let far = (Verdict::Redirect, by(2).ip());
        assert_eq!(led(&mut rig, &other[0]), far, "another first piece");
        assert_eq!(led(&mut rig, &one[1]), far, "what follows it");
        // Without a first piece of its number it is nobody's.
        let lone = datagram(0).pieces(64, 10);
        let frame = rig.frame(Place::FromNetwork, &lone[1]);
        assert_ip(&rig.run(Place::FromNetwork, &frame), Verdict::Pass, &lone[1], "of another number");
    }
}
