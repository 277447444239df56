//! Answers of the real programs, byte by byte: to what nobody serves, to what does not fit, to pings; and errors of others
//! about what was translated.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::net::{IpAddr, SocketAddr};

use sluice_tests::{
    packet::{ACK, Carried, DESTINATION, ETHERNET, FIN, Packet, RST, SYN, at, icmp_error, read, verify},
    reference::{
        packets::{Kind, Sender},
        way::Way,
    },
    rig::{
        MOST_BYTES, Met, Place, Rig, Verdict,
        exchange::{SENDERS, address, assert_ip, less_hops, routed, there_and_back},
        served,
    },
};

#[test]
fn whoever_dials_what_nobody_serves_hears_so_from_whom_he_dialled() {
    let mut rig = Rig::with_services();
    let own = rig.both();
    for is_v6 in [false, true] {
        for sender in SENDERS {
            for protocol in ["TCP", "UDP", "SCTP"] {
                let none = served(protocol, None).at(Kind::ClusterIp, is_v6, &own);
                let mut unknown = none;
                unknown.set_port(81);
                for to in [none, unknown] {
                    for flags in [SYN, SYN | ACK, ACK, FIN, FIN | ACK, 0, RST, RST | ACK] {
                        let carried = match protocol {
                            "TCP" => Carried::Tcp(flags),
                            "UDP" => Carried::Udp,
                            _ => Carried::Sctp,
                        };
                        let src = address(&rig, sender, is_v6, 4_000);
                        for (options, extensions) in [(0, 0), (4, 1), (40, 4)] {
                            let mut packet = Packet::new(src, to, carried);
                            packet.options = if is_v6 { 0 } else { options };
                            packet.extensions = vec![DESTINATION; if is_v6 { extensions } else { 0 }];
                            refusal(&mut rig, sender, &packet);
                        }
                    }
                }
            }
        }
    }
}

fn refusal(rig: &mut Rig, sender: Sender, packet: &Packet) {
    rig.refill();
    let (place, is_v6) = (sender.place(), packet.dst.is_ipv6());
    let sent = rig.frame(place, &packet.ip());
    let met = rig.run(place, &sent);
    let case = format!("{sender:?} {packet:?}");
    let want = match packet.carried {
        Carried::Tcp(flags) if flags & RST != 0 => {
            return assert_eq!(met.verdict, Verdict::Drop, "{case}: nobody answers a reset");
        }
        Carried::Tcp(flags) => {
            let taken =
                packet.payload.len() as u32 + u32::from(flags & SYN != 0) + u32::from(flags & FIN != 0);
            let (flags, sequence) = if flags & ACK != 0 {
                (RST, (packet.sequence.1, 0))
            } else {
                (RST | ACK, (0, packet.sequence.0 + taken))
            };
            let answer = packet.between(packet.dst, packet.src);
            let carried = Carried::Tcp(flags);
            let (payload, extensions) = (Vec::new(), Vec::new());
            Packet { carried, sequence, id: 0, payload, options: 0, extensions, ..answer }.ip()
        }
        _ => {
            // The headers, whatever is in them, and the ports.
            let quoted = &sent[ETHERNET..read(&sent).unwrap().body_at + 8];
            let kind = if is_v6 { (1, 4) } else { (3, 3) };
            icmp_error(packet.dst.ip(), packet.src.ip(), kind, 0, quoted)
        }
    };
    assert_ip(&met, Verdict::Redirect, &want, &case);
    assert_eq!(met.frame[..6], sent[6..12], "{case}: back to the sender's hardware");
    assert_eq!(met.frame[6..12], sent[..6], "{case}: from ours");
    verify(&met.frame).unwrap_or_else(|error| panic!("{case}: {error}"));
}

#[test]
fn answers_run_out_within_the_second() {
    let mut rig = Rig::with_services();
    let own = rig.both();
    let to = served("UDP", None).at(Kind::ClusterIp, false, &own);
    let packet = Packet::new(at("192.168.50.2:4000"), to, Carried::Udp);
    let frame = rig.frame(Place::FromNetwork, &packet.ip());
    rig.refill();
    let mut run = || rig.run(Place::FromNetwork, &frame).verdict;
    let verdicts: Vec<Verdict> = (0..1_500).map(|_| run()).collect();
    let answered = verdicts.iter().filter(|verdict| **verdict == Verdict::Redirect).count();
    assert!(verdicts.iter().all(|verdict| matches!(verdict, Verdict::Redirect | Verdict::Drop)));
    // As many as were saved up, and one for each ten milliseconds that this took.
    assert!((1_000..1_400).contains(&answered), "{answered}");
    assert_eq!(verdicts[1_499], Verdict::Drop);
}

#[test]
fn refusals_use_up_no_answer_that_others_wait_for() {
    let mut rig = Rig::with_services();
    let own = rig.both();
    let client = at("192.168.50.2:4001");
    let closed = Packet::new(client, served("UDP", None).at(Kind::ClusterIp, false, &own), Carried::Udp);
    let open = Packet::new(client, served("UDP", Some(3)).at(Kind::ClusterIp, false, &own), Carried::Udp);
    let too_big = Packet { payload: vec![7; 2_000], ..open.clone() };
    let rows = [("refused", closed), ("too big", too_big), ("no hops", open.with_ttl(1))];
    for (flood, packet) in &rows {
        rig.refill();
        // However slow the machine is: until one is not answered.
        let flooded = rig.frame(Place::FromNetwork, &packet.ip());
        let mut sent = 0;
        while rig.run(Place::FromNetwork, &flooded).verdict == Verdict::Redirect {
            sent += 1;
            assert!(sent < 1_000_000, "{flood}: there is a limit");
        }
        for (other, packet) in rows.iter().filter(|(other, _)| other != flood) {
            let met = rig.run(Place::FromNetwork, &rig.frame(Place::FromNetwork, &packet.ip()));
            assert_eq!(met.verdict, Verdict::Redirect, "{other}, after many {flood}");
            assert_eq!(read(&met.frame).unwrap().ends.dst.ip(), client.ip(), "{other}, after many {flood}");
        }
    }
}

#[test]
fn what_does_not_fit_is_answered_with_the_mtu_of_the_link() {
    let mut rig = Rig::with_services();
    let own = rig.both();
    for (is_v6, header) in [(false, 20), (true, 40)] {
        for (pod, mtu) in [(2, 1_450_u32), (3, 1_500)] {
            for (carried, own_header) in [(Carried::Udp, 8), (Carried::Tcp(ACK), 20)] {
                let row = served(if carried == Carried::Udp { "UDP" } else { "TCP" }, Some(pod));
                let src = address(&rig, Sender::Outside, is_v6, 6_000);
                let mut packet = Packet::new(src, row.at(Kind::ClusterIp, is_v6, &own), carried);
                packet.payload = vec![7; mtu as usize - header - own_header];
                let case = format!("IPv6 {is_v6}, pod {pod}, {carried:?}");
                there_and_back(&mut rig, Sender::Outside, Place::FromNetwork, &packet, &row, &case);
                for more in [1, 100, MOST_BYTES - mtu as usize - ETHERNET] {
                    rig.refill();
                    packet.payload = vec![7; mtu as usize - header - own_header + more];
                    let frame = rig.frame(Place::FromNetwork, &packet.ip());
                    let early = rig.run(Place::Early, &frame);
                    assert_eq!((early.verdict, &early.frame), (Verdict::Pass, &frame), "{case}: XDP");
                    let met = rig.run(Place::FromNetwork, &frame);
                    let (kind, quoted) = if is_v6 { ((2, 0), 48) } else { ((3, 4), 28) };
                    let quoted = &frame[ETHERNET..ETHERNET + quoted];
                    let want = icmp_error(packet.dst.ip(), src.ip(), kind, mtu, quoted);
                    assert_ip(&met, Verdict::Redirect, &want, &format!("{case}, {more} too many"));
                }
                if carried == Carried::Udp && is_v6 {
                    // Of one in pieces the first is answered.
                    packet.payload = vec![7; 3_000];
                    for (number, piece) in packet.pieces((mtu as usize + 100) & !7, 9).iter().enumerate() {
                        rig.refill();
                        let met = rig.run(Place::FromNetwork, &rig.frame(Place::FromNetwork, piece));
                        let answered = number == 0 || piece.len() < mtu as usize;
                        let want = if answered { Verdict::Redirect } else { Verdict::Drop };
                        assert_eq!(met.verdict, want, "{case}: {number}");
                    }
                }
            }
        }
    }
}

#[test]
fn what_does_not_fit_and_may_be_cut_is_left_to_the_stack_and_translated_by_halves() {
    let mut rig = Rig::with_services();
    let own = rig.both();
    for (pod, mtu) in [(2, 1_450), (3, 1_500)] {
        let (row, src) = (served("UDP", Some(pod)), address(&rig, Sender::Outside, false, 6_100));
        let mut packet = Packet::new(src, row.at(Kind::ClusterIp, false, &own), Carried::Udp);
        packet.dont_fragment = false;
        let case = format!("pod {pod}");
        let seen = there_and_back(&mut rig, Sender::Outside, Place::FromNetwork, &packet, &row, &case);
        let by = row.endpoint(false);
        for (way, whole, half, done) in [
            ("there", packet.clone(), (src, by), (seen, by)),
            ("back", packet.between(by, seen), (by, src), (packet.dst, src)),
        ] {
            // Back to the client all links are 1,500 wide.
            let size = if way == "back" { 1_600 } else { mtu + 100 };
            let whole = Packet { payload: vec![9; 3_000], ..whole };
            let halfway = whole.between(half.0, half.1);
            let last = whole.between(done.0, done.1);
            let big = Packet { payload: vec![9; size - 28], ..whole.clone() };
            let frame = rig.frame(Place::FromNetwork, &big.ip());
            let early = rig.run(Place::Early, &frame);
            assert_eq!((early.verdict, &early.frame), (Verdict::Pass, &frame), "{case} {way}: XDP");
            let met = rig.run(Place::FromNetwork, &frame);
            let want = big.between(half.0, half.1).ip();
            assert_ip(&met, Verdict::Pass, &want, &format!("{case} {way}, whole"));
            let cut = size & !7;
            let pieces = whole.pieces(cut, 9).into_iter().zip(halfway.pieces(cut, 9));
            for (number, (piece, want)) in pieces.enumerate().filter(|(_, (piece, _))| piece.len() > size) {
                let met = rig.run(Place::FromNetwork, &rig.frame(Place::FromNetwork, &piece));
                assert_ip(&met, Verdict::Pass, &want, &format!("{case} {way}, piece {number}"));
            }
            // The stack's pieces.
            for (number, (piece, want)) in
                halfway.pieces(1_400, 9).into_iter().zip(last.pieces(1_400, 9)).enumerate()
            {
                let met = rig.run(Place::ToNetwork, &rig.frame(Place::ToNetwork, &piece));
                assert_ip(&met, Verdict::Pass, &want, &format!("{case} {way}, cut piece {number}"));
            }
        }
    }
}

#[test]
fn errors_about_translated_packets_reach_whoever_sent_them_with_his_own_packet_in_them() {
    let mut rig = Rig::with_services();
    let own = rig.both();
    let router = ["192.168.50.1", "fd00:50::1"];
    for (is_v6, pod, carried) in [false, true].into_iter().flat_map(|is_v6| {
        [0, 3]
            .into_iter()
            .flat_map(move |pod| [Carried::Udp, Carried::Tcp(ACK)].map(|carried| (is_v6, pod, carried)))
    }) {
        let row = served(if carried == Carried::Udp { "UDP" } else { "TCP" }, Some(pod));
        let client = address(&rig, Sender::Outside, is_v6, 7_000 + pod as u16);
        let vip = row.at(Kind::LoadBalancer, is_v6, &own);
        let packet = Packet::new(client, vip, carried);
        let case = format!("{packet:?} to pod {pod}");
        let seen = there_and_back(&mut rig, Sender::Outside, Place::FromNetwork, &packet, &row, &case);
        let by = row.endpoint(is_v6);
        let way = Way::of(Sender::Outside, client.ip(), by.ip(), rig.own(is_v6));
        let router: IpAddr = router[usize::from(is_v6)].parse().unwrap();
        let (kind, header) = if is_v6 { ((2, 0), 40) } else { ((3, 4), 20) };
        for (quoted, options) in [(8, 0), (28, 0), (8, 12)] {
            let options = if is_v6 { 0 } else { options };
            let cut = |packet: &Packet| {
                let packet = Packet { options, ..packet.clone() };
                packet.ip()[..header + options + quoted].to_vec()
            };
            // Somebody on the way to the endpoint cannot pass the client's packet on.
            let about = cut(&packet.between(seen, by).with_ttl(9));
            let error = icmp_error(router, seen.ip(), kind, 1_400, &about);
            let met = rig.run(way.back, &rig.frame(way.back, &error));
            let from = if way.source.is_some() { vip.ip() } else { router };
            let hops = u8::from(way.back_is_routed);
            let want = icmp_error(from, client.ip(), kind, 1_400, &cut(&packet.with_ttl(9)));
            assert_error(
                &met,
                way.back_is_routed,
                &less_hops(want, hops),
                &format!("{case}, on the way there"),
            );
            // The client, or somebody on the way to it, cannot take the answer.
            let about = cut(&packet.between(vip, client).with_ttl(9));
            let error = icmp_error(router, vip.ip(), kind, 1_400, &about);
            let met = rig.run(Place::FromNetwork, &rig.frame(Place::FromNetwork, &error));
            let from = if way.source.is_some() { seen.ip() } else { router };
            let want = icmp_error(from, by.ip(), kind, 1_400, &cut(&packet.between(by, seen).with_ttl(9)));
            let hops = u8::from(way.is_routed);
            assert_error(&met, way.is_routed, &less_hops(want, hops), &format!("{case}, on the way back"));
        }
    }
}

/// A TCP checksum behind the first eight bytes of a quoted header is not there to be brought up to date, or need not be:
/// nobody looks at it.
fn assert_error(met: &Met, is_routed: bool, want: &[u8], case: &str) {
    assert_eq!(met.verdict, routed(Place::FromNetwork, is_routed), "{case}");
    let (got, ends) = (&met.frame[ETHERNET..], read(&met.frame));
    verify(&met.frame).unwrap_or_else(|error| panic!("{case}: {error}"));
    let header = if want[0] >> 4 == 6 { 40 } else { 20 };
    let quoted = header + 8;
    assert_eq!(got.len(), want.len(), "{case}");
    assert_eq!(got[..header], want[..header], "{case}: {ends:?}");
    assert_eq!(got[header..header + 2], want[header..header + 2], "{case}: type and code");
    assert_eq!(got[header + 4..quoted], want[header + 4..quoted], "{case}: MTU");
    let inner = if header == 40 { 40 } else { usize::from(want[quoted] & 15) * 4 };
    assert_eq!(got[quoted..quoted + inner + 4], want[quoted..quoted + inner + 4], "{case}: quoted");
}

#[test]
fn addresses_of_services_answer_ping_and_nobody_else_does() {
    let mut rig = Rig::with_services();
    let own = rig.both();
    for (sender, is_v6, kind) in SENDERS.into_iter().flat_map(|sender| {
        [false, true].into_iter().flat_map(move |is_v6| Kind::ALL.map(|kind| (sender, is_v6, kind)))
    }) {
        let to = SocketAddr::new(served("TCP", Some(3)).at(kind, is_v6, &own).ip(), 9);
        let mut packet = Packet::new(address(&rig, sender, is_v6, 8), to, Carried::Echo);
        // Identification and sequence number stay what they were.
        packet.dst.set_port(9);
        let place = sender.place();
        let frame = rig.frame(place, &packet.ip());
        let met = rig.run(place, &frame);
        let case = format!("{sender:?} {kind:?}");
        if kind == Kind::NodePort {
            assert_eq!(
                (met.verdict, met.frame),
                (Verdict::Pass, frame),
                "{case}: the node answers by itself"
            );
            continue;
        }
        let mut want = packet.between(packet.dst, packet.src);
        (want.carried, want.src, want.dst) =
            (Carried::EchoReply, SocketAddr::new(to.ip(), 8), SocketAddr::new(packet.src.ip(), 9));
        assert_ip(&met, Verdict::Redirect, &want.ip(), &case);
    }
}
