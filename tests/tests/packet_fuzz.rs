//! Packets as nobody ought to send them, through the real programs and through the code that reads headers: nothing is
//! changed but by a correct translation, into a correct answer, or on its way into a tunnel between nodes and out of one.
//! `SLUICE_SEED` repeats a run, `SLUICE_CASES` makes it longer.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use sluice_common::{
    layout::{OPTION_DSR_TCP, OPTION_DSR_UDP, OPTION_VIP_PING},
    packet::{self as parsed, Fragment, Kind as ParsedKind},
};
use sluice_tests::{
    packet::{
        ACK, Carried, DESTINATION, ETHERNET, FIN, HOP_BY_HOP, Packet, RST, SYN, icmp_error, mutate, on_wire,
        read,
    },
    reference::{Random, number, packets::Kind, way::Way},
    rig::{
        MOST_BYTES, Place, Rig, SERVICES,
        exchange::{SENDERS, address, in_tunnel, tunnelled},
        judge::Judge,
    },
};

const CASES: u64 = 30_000;
const PURE_CASES: u64 = 300_000;
/// As long packets go to other nodes in the same way.
const PER_FORWARDING: u64 = 512;
/// `--forwarding`: whether TCP and UDP of clients outside go to other nodes in tunnels.
const FORWARDING: [[bool; 2]; 3] = [[false, false], [true, false], [true, true]];
const PLACES: [Place; 7] = [
    Place::Early,
    Place::FromNetwork,
    Place::ToNetwork,
    Place::FromPod(0),
    Place::FromPod(1),
    Place::ToPod(0),
    Place::ToPod(1),
];

/// A packet that somebody may send, and where it would be met: to a Service, from an endpoint, or an error about either.
fn sensible(rig: &mut Rig, random: &mut Random) -> (Place, Vec<u8>) {
    let own = rig.both();
    let (row, is_v6, sender) = (random.of(&SERVICES), random.once_in(2), random.of(&SENDERS));
    let carried = match row.protocol {
        "TCP" => Carried::Tcp(random.of(&[SYN, SYN, ACK, FIN | ACK, RST, 0, 0xff])),
        "UDP" => random.of(&[Carried::Udp, Carried::Udp, Carried::UdpWithoutSum]),
        _ => Carried::Sctp,
    };
    let carried = if random.once_in(8) { Carried::Echo } else { carried };
    let src = address(rig, sender, is_v6, random.of(&[1_024, 1_025, 1_026, 53_000]));
    let mut packet = Packet::new(src, row.at(random.of(&Kind::ALL), is_v6, &own), carried);
    packet.options = random.of(&[0, 0, 4, 40]);
    packet.extensions = random.of::<&[u8]>(&[&[], &[], &[HOP_BY_HOP], &[DESTINATION; 3]]).to_vec();
    if random.once_in(8) {
        packet.payload.resize(random.below(2_000) as usize, 1);
    }
    let Some(by) = row.pod.map(|_| row.endpoint(is_v6)) else {
        return (sender.place(), packet.ip());
    };
    // What the endpoint would see, as far as it can be told without asking the programs.
    let way = Way::of(sender, src.ip(), by.ip(), rig.own(is_v6));
    let seen = match way.source {
        None => src,
        Some(own) => {
            let frame = rig.frame(sender.place(), &packet.ip());
            let port = read(&rig.run(sender.place(), &frame).frame).map_or(0, |head| head.ends.src.port());
            SocketAddr::new(own, port)
        }
    };
    let back = packet.between(by, seen);
    let led = packet.between(seen, by);
    match random.below(13) {
        0 | 1 => (way.back, back.ip()),
        2 => (sender.place(), random_piece(&packet, random)),
        8 => (sender.place(), piece_behind_first(rig, sender.place(), &packet, random)),
        3 => (way.back, random_piece(&back, random)),
        4 => (way.back, error_about(&led, random)),
        5 => (sender.place(), error_about(&packet.between(packet.dst, packet.src), random)),
        6 | 9 => (Place::FromNetwork, in_any_tunnel(rig, &packet, by, random)),
        7 => (Place::FromNetwork, error_about_tunnel(rig, &packet, by, random)),
        _ => (sender.place(), packet.ip()),
    }
}

fn random_piece(packet: &Packet, random: &mut Random) -> Vec<u8> {
    let mut pieces = packet.pieces(random.of(&[8, 16, 24]), random.below(4) as u32);
    let index = random.below(pieces.len() as u64) as usize;
    pieces.swap_remove(if random.once_in(2) { 0 } else { index })
}

/// A later piece, of which the first has come by.
fn piece_behind_first(rig: &mut Rig, place: Place, packet: &Packet, random: &mut Random) -> Vec<u8> {
    let mut pieces = packet.pieces(random.of(&[8, 16, 24]), random.below(4) as u32);
    let frame = rig.frame(place, &pieces[0]);
    rig.run(place, &frame);
    let index = random.below(pieces.len() as u64) as usize;
    pieces.swap_remove(index.max(1).min(pieces.len() - 1))
}

fn error_about(packet: &Packet, random: &mut Random) -> Vec<u8> {
    let router = if packet.src.is_ipv6() { "fd00:50::1" } else { "192.168.50.1" };
    let kinds: &[(u8, u8)] = if packet.src.is_ipv6() {
        &[(1, 4), (2, 0), (3, 0), (4, 1)]
    } else {
        &[(3, 3), (3, 4), (11, 0), (12, 0)]
    };
    let mut about = packet.ip();
    about.truncate(random.of(&[28, 48, 60, 68, 1_000]));
    icmp_error(router.parse().unwrap(), packet.src.ip(), random.of(kinds), 1_400, &about)
}

/// What comes from another node in a tunnel, or as if it did: to whom it is for or to somebody else, with whatever in it.
fn in_any_tunnel(rig: &mut Rig, packet: &Packet, by: SocketAddr, random: &mut Random) -> Vec<u8> {
    let is_v6 = by.is_ipv6();
    let node: IpAddr = if is_v6 { "fd00:50::12" } else { "192.168.50.12" }.parse().unwrap();
    // NodePorts are dialled at the node that sends it on.
    let dialled = if packet.dst.ip() == rig.own(is_v6) { node } else { packet.dst.ip() };
    let packet = &packet.between(packet.src, SocketAddr::new(dialled, packet.dst.port()));
    if !random.once_in(3) {
        let frame = rig.frame(Place::FromNetwork, &in_tunnel(&packet.ip(), node, by));
        rig.run(Place::FromNetwork, &frame);
    }
    let pods = Rig::pods(is_v6);
    let to = match random.below(4) {
        0 => {
            random.of(&[pods[0], pods[1], pods[2], pods[3], rig.own(is_v6), packet.src.ip(), packet.dst.ip()])
        }
        _ => by.ip(),
    };
    let to = SocketAddr::new(to, if random.once_in(8) { random.next() as u16 } else { by.port() });
    let inner = match random.below(8) {
        0 => random_piece(packet, random),
        1 | 2 => error_about(&packet.between(packet.dst, packet.src), random),
        3 => in_tunnel(&packet.ip(), random.of(&[node, rig.own(is_v6), packet.src.ip()]), by),
        4 => {
            let mut frame = on_wire([2; 12], &packet.ip());
            mutate(&mut frame, MOST_BYTES, random);
            frame.split_off(ETHERNET)
        }
        _ => packet.ip(),
    };
    in_tunnel(&inner, node, to)
}

/// What a router says of a packet that left here in a tunnel, or did not.
fn error_about_tunnel(rig: &mut Rig, packet: &Packet, by: SocketAddr, random: &mut Random) -> Vec<u8> {
    let is_v6 = by.is_ipv6();
    if random.once_in(2) {
        let frame = rig.frame(Place::FromNetwork, &packet.ip());
        rig.run(Place::FromNetwork, &frame);
    }
    let own = rig.own(is_v6);
    let mut about = tunnelled(packet, own, by);
    about.truncate(random.of(&[28, 48, 68, 88, 100, 1_000]));
    let router = if is_v6 { "fd00:50::1" } else { "192.168.50.1" }.parse().unwrap();
    let kind = match (random.once_in(8), is_v6) {
        (true, _) => random.of(&[(1, 0), (3, 3), (11, 0), (3, 0)]),
        (false, false) => (3, 4),
        (false, true) => (2, 0),
    };
    icmp_error(router, own, kind, random.of(&[0, 1_000, 1_400, 1_400, 1_500, u32::MAX]), &about)
}

/// Another way to other nodes, for connections that begin from now on.
fn switch(rig: &mut Rig, judge: &mut Judge, random: &mut Random) {
    let tunnels = random.of(&FORWARDING);
    let bits = [(tunnels[0], OPTION_DSR_TCP), (tunnels[1], OPTION_DSR_UDP)];
    let options: u64 = bits.into_iter().filter(|(is_on, _)| *is_on).map(|(_, bit)| bit).sum();
    rig.forget();
    rig.set_options(options | OPTION_VIP_PING);
    judge.set_tunnels(tunnels);
}

#[test]
fn whatever_comes_programs_translate_right_answer_right_or_leave_alone() {
    let seed = number("SLUICE_SEED", u64::from(std::process::id()));
    let cases = number("SLUICE_CASES", CASES);
    println!("SLUICE_SEED={seed} SLUICE_CASES={cases}");
    let mut rig = Rig::with_services();
    let mut judge = Judge::new(&rig);
    let mut random = Random::new(seed);
    let mut seen: BTreeMap<&str, u64> = BTreeMap::new();
    for case in 0..cases {
        if case.is_multiple_of(64) {
            rig.refill();
        }
        if case.is_multiple_of(PER_FORWARDING) {
            switch(&mut rig, &mut judge, &mut random);
        }
        let (place, ip) = sensible(&mut rig, &mut random);
        let place = match place {
            Place::FromNetwork if random.once_in(2) => Place::Early,
            _ if random.once_in(6) => random.of(&PLACES),
            place => place,
        };
        let mut frame = rig.frame(place, &ip);
        frame.truncate(MOST_BYTES);
        if !random.once_in(6) {
            mutate(&mut frame, MOST_BYTES, &mut random);
        }
        let Some(met) = rig.try_run(place, &frame) else {
            assert!(frame.len() < ETHERNET + 40, "case {case}: the kernel runs no program on {frame:02x?}");
            continue;
        };
        let what = judge.judge(&frame, &met).unwrap_or_else(|error| {
            panic!(
                "SLUICE_SEED={seed}, case {case}, {place:?}: {error}\n{frame:02x?}\nbecame {:?}\n{:02x?}\nread as {:?}\nand {:?}",
                met.verdict,
                met.frame,
                read(&frame),
                read(&met.frame)
            )
        });
        let from_network = [Place::Early, Place::FromNetwork].contains(&place);
        assert!(from_network || !what.contains("tunnel"), "case {case}, {place:?}: {what}: {frame:02x?}");
        *seen.entry(what).or_default() += 1;
    }
    println!("{seen:?}");
    let wanted = [
        "an error led",
        "a piece led",
        "led",
        "led back",
        "led back from the node's name",
        "pong",
        "reset",
        "told",
        "put into a tunnel",
        "a piece put into a tunnel",
        "an error put into a tunnel",
        "taken out of a tunnel",
        "an error taken out of a tunnel",
        "told of a tunnel",
    ];
    for what in wanted {
        assert!(cases < CASES || seen.contains_key(what), "{what} occurs: {seen:?}");
    }
}

#[test]
fn headers_read_as_somebody_else_reads_them() {
    let seed = number("SLUICE_SEED", u64::from(std::process::id()));
    let cases = number("SLUICE_CASES", PURE_CASES);
    println!("SLUICE_SEED={seed} SLUICE_CASES={cases}");
    let mut random = Random::new(seed);
    let mut read_both = 0_u64;
    for case in 0..cases {
        let is_v6 = random.once_in(2);
        let ends = if is_v6 { ["[fd00::1]:1000", "[fd00::2]:80"] } else { ["10.0.0.1:1000", "10.0.0.2:80"] };
        let [src, dst] = ends.map(|text| text.parse().unwrap());
        let carried = random.of(&[
            Carried::Tcp(SYN),
            Carried::Udp,
            Carried::Sctp,
            Carried::Echo,
            Carried::UdpWithoutSum,
        ]);
        let mut packet = Packet::new(src, dst, carried);
        packet.options = random.of(&[0, 8, 40]);
        packet.extensions = vec![DESTINATION; random.below(5) as usize];
        let ip = match random.below(4) {
            0 => random_piece(&packet, &mut random),
            1 => error_about(&packet, &mut random),
            _ => packet.ip(),
        };
        let mut frame = on_wire([2; 12], &ip);
        mutate(&mut frame, MOST_BYTES, &mut random);
        let is_v6 = match frame[12..14] {
            [8, 0] => false,
            [0x86, 0xdd] => true,
            _ => continue,
        };
        let mut ours = parsed::Packet::EMPTY;
        let result = parsed::parse(frame.as_slice(), ETHERNET as u32, is_v6, &mut ours);
        if ours.kind == ParsedKind::Error && result.is_ok() {
            let mut quoted = parsed::Packet::EMPTY;
            let _may_be_anything =
                parsed::inner(frame.as_slice(), ours.l4_at + 8, ours.is_v6, true, &mut quoted);
        }
        if result.is_err() || ours.kind == ParsedKind::Other {
            continue;
        }
        let case = format!("SLUICE_SEED={seed}, case {case}: {frame:02x?} {ours:?}");
        let theirs = read(&frame).unwrap_or_else(|| panic!("only one can read it: {case}"));
        let ports = |at: SocketAddr| at.port().to_be();
        assert_eq!(IpAddr::from(ours.key.src), theirs.ends.src.ip().to_canonical(), "{case}");
        assert_eq!(IpAddr::from(ours.key.dst), theirs.ends.dst.ip().to_canonical(), "{case}");
        assert_eq!(
            (ours.key.src_port_be, ours.key.dst_port_be),
            (ports(theirs.ends.src), ports(theirs.ends.dst)),
            "{case}"
        );
        assert_eq!((ours.l4_at as usize, ours.ttl), (theirs.body_at, theirs.ttl), "{case}");
        assert_eq!(ours.key.protocol, theirs.ends.protocol, "{case}");
        let piece = match theirs.piece {
            None => Fragment::Whole,
            Some((0, _)) => Fragment::First,
            Some(_) => Fragment::Later,
        };
        assert_eq!(ours.fragment, piece, "{case}");
        read_both += 1;
    }
    println!("{read_both} of {cases} could be read");
    assert!(read_both > cases / 10, "{read_both}");
}
