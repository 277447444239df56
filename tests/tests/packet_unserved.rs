//! What is for an address of a Service and nobody can serve: other protocols, pings in pieces, pings when they are not answered.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::net::SocketAddr;

use sluice_common::{Reason, layout::OPTION_VIP_PING};
use sluice_tests::{
    packet::{Carried, Packet, icmp_error},
    reference::packets::{Kind, Sender},
    rig::{
        Rig, Verdict,
        exchange::{SENDERS, address},
        served,
    },
};

/// Dropped if `ends`, else passed as it is.
fn meet(rig: &mut Rig, sender: Sender, ip: &[u8], ends: bool, case: &str) {
    let before = rig.count(Reason::Unserved);
    let frame = rig.frame(sender.place(), ip);
    let met = rig.run(sender.place(), &frame);
    if ends {
        assert_eq!(met.verdict, Verdict::Drop, "{case}");
    } else {
        assert_eq!((met.verdict, met.frame), (Verdict::Pass, frame), "{case}");
    }
    assert_eq!(rig.count(Reason::Unserved) - before, u64::from(ends), "{case}");
}

/// The same, carrying another protocol.
fn carrying(mut ip: Vec<u8>, protocol: u8) -> Vec<u8> {
    let at = if ip[0] >> 4 == 6 { 6 } else { 9 };
    ip[at] = protocol;
    ip
}

#[test]
fn nothing_for_a_cluster_ip_leaves_the_node_unserved_and_other_addresses_are_routed_on() {
    const GRE: u8 = 47;
    let mut rig = Rig::with_services();
    let own = rig.both();
    for (sender, is_v6, kind) in SENDERS.into_iter().flat_map(|sender| {
        [false, true].into_iter().flat_map(move |is_v6| Kind::ALL.map(|kind| (sender, is_v6, kind)))
    }) {
        let row = served("UDP", Some(3));
        let to = row.at(kind, is_v6, &own);
        let src = address(&rig, sender, is_v6, 8);
        let ends = kind == Kind::ClusterIp;
        let ping = Packet::new(src, SocketAddr::new(to.ip(), 9), Carried::Echo);
        let case = format!("{sender:?} {kind:?}, IPv6 {is_v6}");
        for vip_ping in [true, false] {
            rig.set_options(if vip_ping { OPTION_VIP_PING } else { 0 });
            let pong = Packet { carried: Carried::EchoReply, ..ping.clone() };
            meet(&mut rig, sender, &pong.ip(), ends, &format!("{case}, pong"));
            meet(&mut rig, sender, &carrying(ping.ip(), GRE), ends, &format!("{case}, GRE"));
            for piece in ping.pieces(24, 5) {
                meet(&mut rig, sender, &piece, ends, &format!("{case}, ping in pieces"));
            }
            let datagram = Packet::new(src, to, Carried::Udp);
            meet(&mut rig, sender, &datagram.pieces(24, 6)[1], ends, &format!("{case}, a lone piece"));
            let quoted = Packet::new(to, src, Carried::Udp).ip()[..if is_v6 { 48 } else { 28 }].to_vec();
            let error = icmp_error(src.ip(), to.ip(), if is_v6 { (1, 4) } else { (3, 3) }, 0, &quoted);
            meet(&mut rig, sender, &error, ends, &format!("{case}, an error about nothing"));
        }
        // The option is off now.
        meet(&mut rig, sender, &ping.ip(), ends, &format!("{case}, ping"));
    }
}

#[test]
fn neighbours_may_ask_for_a_cluster_ip() {
    let mut rig = Rig::with_services();
    let to = served("UDP", Some(3)).at(Kind::ClusterIp, true, &rig.both());
    let src = address(&rig, Sender::Outside, true, 8);
    for kind in 133..=137 {
        let mut ip = Packet::new(src, to, Carried::Echo).ip();
        ip[40] = kind;
        meet(&mut rig, Sender::Outside, &ip, false, &format!("type {kind}"));
    }
}
