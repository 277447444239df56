//! What a packet's headers say. Nothing is taken from a packet that its bytes do not show.

use super::{
    Bytes, ICMP, ICMPV6,
    reply::{TUNNEL_V4, TUNNEL_V6},
};
use crate::{
    Addr, Reason,
    layout::{FlowKey, SCTP, TCP, UDP},
};

/// Extension headers that are looked behind: more than any sender has a use for.
const MOST_EXTENSIONS: u32 = 6;
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION: u8 = 60;

/// What kind of packet it is, as far as it matters to a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Kind {
    /// TCP, UDP or SCTP: has ports, and belongs to a connection.
    Ports,
    /// An echo request (ping).
    Echo,
    /// An ICMP error, about a packet that it quotes.
    Error,
    /// An IP packet of the same family in an IP packet.
    Tunnel,
    /// Anything else.
    Other,
}

/// Whether it is a piece of a larger datagram.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Fragment {
    /// It is whole.
    Whole,
    /// The first piece, with the ports.
    First,
    /// A later piece, without ports.
    Later,
}

/// A packet, read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Packet {
    /// Its ends; without ports where it has none.
    pub key: FlowKey,
    /// Where the IP header begins, in bytes.
    pub ip_at: u32,
    /// Where what follows the IP header and its extensions begins.
    pub l4_at: u32,
    /// Length by the IP header, that header included.
    pub length: u32,
    /// Identification, of a fragment; network byte order.
    pub fragment_id_be: u32,
    /// Checksum of the IPv4 header, as it stands there.
    pub check: u16,
    /// What kind it is.
    pub kind: Kind,
    /// Whether it is whole.
    pub fragment: Fragment,
    /// TCP flags; 0 elsewhere.
    pub tcp_flags: u8,
    /// Hops left.
    pub ttl: u8,
    /// IPv6.
    pub is_v6: bool,
    /// IPv4 forbids routers to fragment it; so does IPv6 always.
    pub is_whole_only: bool,
}

impl Packet {
    /// One that says nothing.
    pub const EMPTY: Self = Self {
        key: FlowKey {
            src: Addr::UNSPECIFIED,
            dst: Addr::UNSPECIFIED,
            src_port_be: 0,
            dst_port_be: 0,
            protocol: 0,
            pad: [0; 3],
        },
        ip_at: 0,
        l4_at: 0,
        length: 0,
        fragment_id_be: 0,
        check: 0,
        kind: Kind::Other,
        fragment: Fragment::Whole,
        tcp_flags: 0,
        ttl: 0,
        is_v6: false,
        is_whole_only: false,
    };

    /// Whether no Ethernet header stands before it.
    #[inline(always)]
    pub const fn is_bare(&self) -> bool {
        self.ip_at == 0
    }
}

/// Reads the headers from `ip_at` on into `packet`. [`Reason::Malformed`] when they are cut short or contradict
/// themselves; then `packet` is not to be used.
#[inline(always)]
pub fn parse<B: Bytes + ?Sized>(
    bytes: &B,
    ip_at: u32,
    is_v6: bool,
    packet: &mut Packet,
) -> Result<(), Reason> {
    inner(bytes, ip_at, is_v6, false, packet)
}

/// Reads the packet that stands in another from `at` on: in a tunnel, or in an ICMP error that quotes it (`is_quoted`), where no
/// more of it than its addresses and ports need be there.
#[inline(always)]
pub fn inner<B: Bytes + ?Sized>(
    bytes: &B,
    at: u32,
    is_v6: bool,
    is_quoted: bool,
    packet: &mut Packet,
) -> Result<(), Reason> {
    network(bytes, at, is_v6, packet)?;
    if matches!(packet.fragment, Fragment::Later) {
        return if is_quoted { Err(Reason::Malformed) } else { Ok(()) };
    }
    transport(bytes, packet, is_quoted)
}

#[inline(always)]
fn network<B: Bytes + ?Sized>(bytes: &B, ip_at: u32, is_v6: bool, packet: &mut Packet) -> Result<(), Reason> {
    packet.ip_at = ip_at;
    packet.is_v6 = is_v6;
    packet.fragment_id_be = 0;
    packet.kind = Kind::Other;
    packet.tcp_flags = 0;
    packet.key.src_port_be = 0;
    packet.key.dst_port_be = 0;
    packet.key.pad = [0; 3];
    if is_v6 { parse_v6(bytes, packet) } else { parse_v4(bytes, packet) }
}

#[inline(always)]
fn parse_v4<B: Bytes + ?Sized>(bytes: &B, packet: &mut Packet) -> Result<(), Reason> {
    let header: [u8; 20] = bytes.peek(packet.ip_at).ok_or(Reason::Malformed)?;
    let header_length = u32::from(header[0] & 0x0f) * 4;
    packet.length = u32::from(u16::from_be_bytes([header[2], header[3]]));
    if header[0] >> 4 != 4 || header_length < 20 || packet.length < header_length {
        return Err(Reason::Malformed);
    }
    let word = |at: usize| u32::from_ne_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    let offset = u16::from_be_bytes([header[6], header[7]]);
    packet.fragment = match (offset & 0x1fff, offset & 0x2000) {
        (0, 0) => Fragment::Whole,
        (0, _) => Fragment::First,
        _ => Fragment::Later,
    };
    packet.key.src = Addr::from_v4_be(word(12));
    packet.key.dst = Addr::from_v4_be(word(16));
    packet.key.protocol = header[9];
    packet.l4_at = packet.ip_at + header_length;
    packet.fragment_id_be = u32::from(u16::from_ne_bytes([header[4], header[5]]));
    packet.ttl = header[8];
    packet.check = u16::from_ne_bytes([header[10], header[11]]);
    packet.is_whole_only = offset & 0x4000 != 0;
    Ok(())
}

#[inline(always)]
fn parse_v6<B: Bytes + ?Sized>(bytes: &B, packet: &mut Packet) -> Result<(), Reason> {
    let ip_at = packet.ip_at;
    let header: [u8; 8] = bytes.peek(ip_at).ok_or(Reason::Malformed)?;
    if header[0] >> 4 != 6 {
        return Err(Reason::Malformed);
    }
    packet.key.src = address(bytes, ip_at + 8)?;
    packet.key.dst = address(bytes, ip_at + 24)?;
    if packet.key.src.is_v4() || packet.key.dst.is_v4() {
        // Nobody may send such a packet (draft-itojun-v6ops-v4mapped-harmful); it would pass for IPv4 in our maps.
        return Err(Reason::Malformed);
    }
    packet.key.protocol = header[6];
    packet.l4_at = ip_at + 40;
    packet.length = 40 + u32::from(u16::from_be_bytes([header[4], header[5]]));
    packet.fragment = Fragment::Whole;
    packet.ttl = header[7];
    packet.is_whole_only = true;
    extensions(bytes, packet)?;
    if packet.l4_at - ip_at > packet.length {
        return Err(Reason::Malformed);
    }
    Ok(())
}

/// Goes past the extension headers to what is carried.
#[inline(always)]
fn extensions<B: Bytes + ?Sized>(bytes: &B, packet: &mut Packet) -> Result<(), Reason> {
    for _ in 0..MOST_EXTENSIONS {
        let next = packet.key.protocol;
        if !is_extension(next) {
            return Ok(());
        }
        let header: [u8; 8] = bytes.load(packet.l4_at).ok_or(Reason::Malformed)?;
        packet.key.protocol = header[0];
        packet.l4_at += match next {
            FRAGMENT => {
                let offset = u16::from_be_bytes([header[2], header[3]]);
                packet.fragment_id_be = u32::from_ne_bytes([header[4], header[5], header[6], header[7]]);
                packet.fragment = match (offset >> 3, offset & 1) {
                    (0, 0) => Fragment::Whole,
                    (0, _) => Fragment::First,
                    _ => Fragment::Later,
                };
                8
            }
            AUTHENTICATION => (u32::from(header[1]) + 2) * 4,
            _ => (u32::from(header[1]) + 1) * 8,
        };
        if matches!(packet.fragment, Fragment::Later) {
            return Ok(());
        }
    }
    // What hides behind more of them is nobody's connection.
    if is_extension(packet.key.protocol) {
        packet.key.protocol = HOP_BY_HOP;
    }
    Ok(())
}

#[inline(always)]
const fn is_extension(next: u8) -> bool {
    matches!(next, HOP_BY_HOP | ROUTING | FRAGMENT | AUTHENTICATION | DESTINATION)
}

#[inline(always)]
fn transport<B: Bytes + ?Sized>(bytes: &B, packet: &mut Packet, quoted: bool) -> Result<(), Reason> {
    match packet.key.protocol {
        TCP | UDP | SCTP => {
            let head: [u8; 8] = bytes.peek(packet.l4_at).ok_or(Reason::Malformed)?;
            packet.key.src_port_be = u16::from_ne_bytes([head[0], head[1]]);
            packet.key.dst_port_be = u16::from_ne_bytes([head[2], head[3]]);
            packet.kind = Kind::Ports;
            if packet.key.protocol == TCP && !quoted {
                // Up to the checksum: whoever rewrites a packet may count on it.
                let rest: [u8; 10] = bytes.peek(packet.l4_at + 8).ok_or(Reason::Malformed)?;
                packet.tcp_flags = rest[5];
            }
        }
        ICMP if !packet.is_v6 => {
            let head: [u8; 8] = bytes.load(packet.l4_at).ok_or(Reason::Malformed)?;
            packet.kind = match head[0] {
                8 => Kind::Echo,
                3 | 11 | 12 => Kind::Error,
                _ => Kind::Other,
            };
        }
        ICMPV6 if packet.is_v6 => {
            let head: [u8; 8] = bytes.load(packet.l4_at).ok_or(Reason::Malformed)?;
            packet.kind = match head[0] {
                128 => Kind::Echo,
                1..=4 => Kind::Error,
                _ => Kind::Other,
            };
        }
        TUNNEL_V4 if !packet.is_v6 => packet.kind = Kind::Tunnel,
        TUNNEL_V6 if packet.is_v6 => packet.kind = Kind::Tunnel,
        _ => {}
    }
    Ok(())
}

#[inline(always)]
fn address<B: Bytes + ?Sized>(bytes: &B, at: u32) -> Result<Addr, Reason> {
    let octets: [u8; 16] = bytes.peek(at).ok_or(Reason::Malformed)?;
    Ok(Addr { words_be: bytemuck::must_cast(octets) })
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use super::*;

    /// An IPv6 packet from `src` (its first twelve bytes) with these extension headers and a UDP header.
    fn v6(src: [u8; 12], extensions: &[u8]) -> Vec<u8> {
        let mut next: Vec<u8> = extensions.to_vec();
        next.push(UDP);
        let length = (extensions.len() as u8 + 1) * 8;
        let mut bytes: Vec<u8> =
            [&[0x60, 0, 0, 0, 0, length, next[0], 64][..], &src, &[10, 0, 0, 1]].concat();
        bytes.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]);
        next[1..].iter().for_each(|next| bytes.extend([*next, 0, 1, 4, 0, 0, 0, 0]));
        bytes.extend([0, 7, 0, 53, 0, 8, 0, 0]);
        bytes
    }

    #[test]
    fn as_many_extension_headers_as_there_may_be_are_looked_behind() {
        for count in 0..=MOST_EXTENSIONS as usize + 1 {
            let bytes = v6([0xfd; 12], &[DESTINATION; 7][..count]);
            let mut packet = Packet::EMPTY;
            parse(bytes.as_slice(), 0, true, &mut packet).unwrap();
            let want = if count <= MOST_EXTENSIONS as usize {
                (Kind::Ports, UDP)
            } else {
                (Kind::Other, HOP_BY_HOP)
            };
            assert_eq!((packet.kind, packet.key.protocol), want, "{count}");
        }
    }

    #[test]
    fn ipv4_addresses_in_ipv6_headers_are_no_packet() {
        let bytes = v6([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff], &[]);
        let mut packet = Packet::EMPTY;
        assert_eq!(parse(bytes.as_slice(), 0, true, &mut packet), Err(Reason::Malformed));
    }
}
