//! A packet to a Service and its answer, checked byte by byte.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use super::{Dialled, Met, Place, Rig, Verdict};
use crate::{
    packet::{Carried, ETHERNET, Packet, ones, read, verify},
    reference::{packets::Sender, way::Way},
};

/// All that there are.
pub const SENDERS: [Sender; 3] = [Sender::Outside, Sender::Pod(1), Sender::Node];

/// Who sends it, at that address.
///
/// # Panics
/// Never.
pub fn address(rig: &Rig, sender: Sender, is_v6: bool, port: u16) -> SocketAddr {
    let ip = match (sender, is_v6) {
        (Sender::Outside, false) => [192, 168, 50, 2].into(),
        (Sender::Outside, true) => Ipv6Addr::new(0xfd00, 0x50, 0, 0, 0, 0, 0, 2).into(),
        (Sender::Pod(pod), _) => Rig::pods(is_v6)[pod],
        (Sender::Node, _) => rig.own(is_v6),
    };
    SocketAddr::new(ip, port)
}

/// What a program says of a packet that is led on, by a route of ours or by the node's.
pub const fn routed(place: Place, is_routed: bool) -> Verdict {
    match (is_routed, place) {
        (false, _) => Verdict::Pass,
        (true, Place::Early) => Verdict::Back,
        (true, _) => Verdict::Redirect,
    }
}

/// This verdict, these bytes behind the Ethernet header.
///
/// # Panics
/// It is not so.
pub fn assert_ip(met: &Met, verdict: Verdict, want: &[u8], case: &str) {
    assert_eq!(met.verdict, verdict, "{case}: {:?}", read(&met.frame));
    assert_eq!(met.frame[ETHERNET..], *want, "{case}: {:?}", read(&met.frame));
}

/// The packet in a tunnel from the node, on its way to the pod `by` of another.
///
/// # Panics
/// Never.
pub fn tunnelled(packet: &Packet, own: IpAddr, by: SocketAddr) -> Vec<u8> {
    in_tunnel(&packet.ip(), own, by)
}

/// The same with any IP packet in it.
///
/// # Panics
/// Never.
pub fn in_tunnel(inner: &[u8], own: IpAddr, by: SocketAddr) -> Vec<u8> {
    let port = by.port().to_be_bytes();
    match (own, by.ip()) {
        (IpAddr::V4(own), IpAddr::V4(by)) => {
            let length = (20 + inner.len() as u16).to_be_bytes();
            let head = [0x45, 0, length[0], length[1], port[0], port[1], 0x40, 0, 64, 4, 0, 0];
            let mut header = [&head[..], &own.octets(), &by.octets()].concat();
            let check = ones(&header).to_be_bytes();
            header[10..12].copy_from_slice(&check);
            [&header, inner].concat()
        }
        (IpAddr::V6(own), IpAddr::V6(by)) => {
            let length = (inner.len() as u16).to_be_bytes();
            let head = [0x60, 0, port[0], port[1], length[0], length[1], 41, 64];
            [&head[..], &own.octets(), &by.octets(), inner].concat()
        }
        (own, by) => panic!("{own} and {by} are of two families"),
    }
}

/// Whom a packet was led to, in a tunnel or not.
///
/// # Panics
/// Nobody can read it.
pub fn led_to(met: &Met) -> SocketAddr {
    let ends = read(&met.frame).expect("a packet").ends;
    let port_at = match ends.protocol {
        4 => ETHERNET + 4,
        41 => ETHERNET + 2,
        _ => return ends.dst,
    };
    SocketAddr::new(ends.dst.ip(), u16::from_be_bytes([met.frame[port_at], met.frame[port_at + 1]]))
}

/// Sends a packet of a new or known connection to a Service, and its answer back; every byte must be right. Returns the
/// source that the endpoint sees.
///
/// # Panics
/// Something is not as it must be.
pub fn there_and_back(
    rig: &mut Rig,
    sender: Sender,
    place: Place,
    packet: &Packet,
    row: &Dialled,
    case: &str,
) -> SocketAddr {
    let (is_v6, by) = (packet.dst.is_ipv6(), row.endpoint(packet.dst.is_ipv6()));
    let way = Way::of(sender, packet.src.ip(), by.ip(), rig.own(is_v6));
    let frame = rig.frame(place, &packet.ip());
    let met = rig.run(place, &frame);
    let seen = read(&met.frame).expect("a packet").ends.src;
    match way.source {
        Some(own) => assert_eq!(seen.ip(), own, "{case}"),
        None => assert_eq!(seen, packet.src, "{case}"),
    }
    let seen =
        if packet.carried == Carried::Sctp { SocketAddr::new(seen.ip(), packet.src.port()) } else { seen };
    let want = packet.between(seen, by).with_ttl(packet.ttl - u8::from(way.is_routed));
    assert_ip(&met, routed(place, way.is_routed), &want.ip(), case);
    verify(&met.frame).unwrap_or_else(|error| panic!("{case}: {error}"));
    let back_place = if place == Place::Early && way.back == Place::FromNetwork { place } else { way.back };
    let back = packet.between(by, seen).with_ttl(packet.ttl);
    let frame = rig.frame(back_place, &back.ip());
    let met = rig.run(back_place, &frame);
    let want = packet.between(packet.dst, packet.src).with_ttl(packet.ttl - u8::from(way.back_is_routed));
    let verdict = routed(back_place, way.back_is_routed || way.back_to_node);
    assert_ip(&met, verdict, &want.ip(), &format!("{case}, back"));
    seen
}

/// The IP packet after these hops.
///
/// # Panics
/// It has fewer.
pub fn less_hops(mut ip: Vec<u8>, hops: u8) -> Vec<u8> {
    if ip[0] >> 4 == 6 {
        ip[7] -= hops;
        return ip;
    }
    ip[8] -= hops;
    ip[10..12].copy_from_slice(&[0, 0]);
    let check = ones(&ip[..20]).to_be_bytes();
    ip[10..12].copy_from_slice(&check);
    ip
}
