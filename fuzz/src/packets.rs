//! What a packet's headers say: only what its bytes show, the same of a packet that is cut off behind them, and where the
//! fields are that are read.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use sluice_common::packet::{Fragment, Kind, Packet, inner, parse};

/// The first byte says where the IP header begins and of which family it is.
///
/// # Panics
/// Something is read that is not there.
pub fn run(bytes: &[u8]) {
    let Some((first, bytes)) = bytes.split_first() else { return };
    let (ip_at, is_v6) = (u32::from(first >> 1 & 31), first & 1 == 1);
    let Some(packet) = read(bytes, ip_at, is_v6) else { return };
    shows(bytes, &packet);
    // What is behind the last header counts for nothing.
    for end in 0..bytes.len() {
        let cut = read(&bytes[..end], ip_at, is_v6);
        assert!(cut.is_none_or(|cut| cut == packet), "{cut:?} of {end} bytes, {packet:?} of all");
    }
    let mut carried = Packet::EMPTY;
    let found = match packet.kind {
        Kind::Error => inner(bytes, packet.l4_at + 8, packet.is_v6, true, &mut carried),
        Kind::Tunnel => inner(bytes, packet.l4_at, packet.is_v6, false, &mut carried),
        Kind::Ports | Kind::Echo | Kind::Other => return,
    };
    if found.is_ok() {
        assert!(carried.ip_at >= packet.l4_at && carried.is_v6 == packet.is_v6, "{carried:?} in {packet:?}");
        shows(bytes, &carried);
    }
}

fn read(bytes: &[u8], ip_at: u32, is_v6: bool) -> Option<Packet> {
    let mut packet = Packet::EMPTY;
    parse(bytes, ip_at, is_v6, &mut packet).ok().map(|()| packet)
}

/// Each field against the bytes that it stands for (RFC 791, RFC 8200).
fn shows(bytes: &[u8], packet: &Packet) {
    let (at, l4) = (packet.ip_at as usize, packet.l4_at as usize);
    let word = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
    let (src, dst): (IpAddr, IpAddr) = if packet.is_v6 {
        let address =
            |at: usize| Ipv6Addr::from_bits(u128::from_be_bytes(bytes[at..at + 16].try_into().expect("16")));
        assert_eq!((bytes[at] >> 4, bytes[at + 7]), (6, packet.ttl));
        assert_eq!(packet.length, 40 + u32::from(word(at + 4)));
        (address(at + 8).into(), address(at + 24).into())
    } else {
        let address = |at: usize| Ipv4Addr::new(bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]);
        assert_eq!((bytes[at] >> 4, bytes[at + 8]), (4, packet.ttl));
        assert_eq!((packet.length, packet.key.protocol), (u32::from(word(at + 2)), bytes[at + 9]));
        assert_eq!(l4, at + usize::from(bytes[at] & 15) * 4);
        assert_eq!(packet.is_whole_only, bytes[at + 6] & 0x40 != 0);
        assert_eq!(packet.fragment == Fragment::Whole, word(at + 6) & 0x3fff == 0);
        (address(at + 12).into(), address(at + 16).into())
    };
    assert_eq!((IpAddr::from(packet.key.src), IpAddr::from(packet.key.dst)), (src, dst));
    let header = if packet.is_v6 { 40 } else { 20 };
    assert!(l4 >= at + header && l4 - at <= packet.length as usize, "{packet:?}");
    let ports = if packet.kind == Kind::Ports { (word(l4), word(l4 + 2)) } else { (0, 0) };
    assert_eq!((u16::from_be(packet.key.src_port_be), u16::from_be(packet.key.dst_port_be)), ports);
    assert!(
        packet.kind == Kind::Other || packet.fragment != Fragment::Later,
        "a later piece shows {:?}",
        packet.kind
    );
}
