//! What is sent back to whoever sends a packet that goes nowhere: the headers of resets, ICMP errors and echo replies.

use super::{
    ICMP, ICMPV6, Packet,
    checksum::{fold, sum},
    flow::{ACK, FIN, RST, SYN},
};
use crate::{
    Addr,
    layout::{FlowKey, TCP},
};

/// An ICMP error, by type and code of either family.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Trouble {
    /// Nobody serves this port.
    PortUnreachable,
    /// It does not fit through the next link, whose MTU, in bytes, is here.
    TooBig(u32),
    /// It has no hops left.
    HopsExceeded,
}

impl Trouble {
    /// Type, code and the four bytes behind the checksum, network byte order.
    #[inline(always)]
    pub const fn header(self, is_v6: bool) -> [u8; 8] {
        let (kind, code, rest) = match (self, is_v6) {
            (Self::PortUnreachable, false) => (3, 3, 0),
            (Self::PortUnreachable, true) => (1, 4, 0),
            (Self::TooBig(mtu), false) => (3, 4, mtu & 0xffff),
            (Self::TooBig(mtu), true) => (2, 0, mtu),
            (Self::HopsExceeded, false) => (11, 0, 0),
            (Self::HopsExceeded, true) => (3, 0, 0),
        };
        let rest = rest.to_be_bytes();
        [kind, code, 0, 0, rest[0], rest[1], rest[2], rest[3]]
    }
}

/// The MTU that an ICMP error of this type and code tells of, from its first eight bytes; `None` if it tells of none. No less
/// than every link has room for that Linux takes part in: forged errors are to do no more harm than they must.
#[inline(always)]
pub const fn told_mtu(head: &[u8; 8], is_v6: bool) -> Option<u32> {
    let (told, least) = match (is_v6, head[0], head[1]) {
        // RFC 1191 §4; routers that know nothing of it say 0.
        (false, 3, 4) => (u16::from_be_bytes([head[6], head[7]]) as u32, 552),
        (true, 2, _) => (u32::from_be_bytes([head[4], head[5], head[6], head[7]]), 1_280),
        _ => return None,
    };
    Some(if told < least { least } else { told })
}

/// How much of a packet an error quotes at the most: enough for headers, options and some of what they carry, and in sum
/// less than the smallest MTU of IPv4 (RFC 1812 §4.3.2.3).
pub const MOST_QUOTED: u32 = 128;

/// An IPv4 header without options, from source to destination, its checksum set. `length` is that of the whole packet, in
/// bytes; `id_be` its identification.
#[inline(always)]
pub fn ipv4_header((src, dst): (&Addr, &Addr), protocol: u8, length: u16, id_be: u16) -> [u8; 20] {
    let (src, dst, length) = (src.v4_be().to_ne_bytes(), dst.v4_be().to_ne_bytes(), length.to_be_bytes());
    let id = id_be.to_ne_bytes();
    let mut header = [
        0x45, 0, length[0], length[1], id[0], id[1], 0x40, 0, 64, protocol, 0, 0, src[0], src[1], src[2],
        src[3], dst[0], dst[1], dst[2], dst[3],
    ];
    let check = (!fold(sum(0, &header))).to_ne_bytes();
    (header[10], header[11]) = (check[0], check[1]);
    header
}

/// The eight bytes before the addresses of an IPv6 header. `length` is that of what follows the header, in bytes; `label_be`
/// the lower 16 bits of the flow label.
#[inline(always)]
pub const fn ipv6_head(protocol: u8, length: u16, label_be: u16) -> [u8; 8] {
    let (length, label) = (length.to_be_bytes(), label_be.to_ne_bytes());
    [0x60, 0, label[0], label[1], length[0], length[1], protocol, 64]
}

/// The sum of the pseudo header (RFC 9293 §3.1, RFC 8200 §8.1). `length` is that of what it stands before.
#[inline(always)]
pub fn pseudo(key: &FlowKey, is_v6: bool, length: u32) -> u32 {
    let mut total = u32::from(u16::from(key.protocol).to_be()) + u32::from((length as u16).to_be());
    total = address(total, &key.src, is_v6);
    address(total, &key.dst, is_v6)
}

#[inline(always)]
fn address(start: u32, address: &Addr, is_v6: bool) -> u32 {
    let halves = |word: u32| (word & 0xffff) + (word >> 16);
    let last = start + halves(address.words_be[3]);
    if !is_v6 {
        return last;
    }
    last + halves(address.words_be[0]) + halves(address.words_be[1]) + halves(address.words_be[2])
}

/// The TCP header of a reset that answers `packet`, whose own header begins with `head` and carries `payload` bytes.
///
/// `None` if the packet is a reset itself. Source: RFC 9293 §3.10.7.1.
#[inline(always)]
pub fn reset(packet: &Packet, head: &[u8; 16], payload: u32) -> Option<[u8; 20]> {
    let flags = packet.tcp_flags;
    if flags & RST != 0 {
        return None;
    }
    let word = |at: usize| u32::from_be_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
    let (sequence, acknowledged, answer) = if flags & ACK != 0 {
        (word(8), 0, RST)
    } else {
        let taken = payload + (flags & SYN != 0) as u32 + (flags & FIN != 0) as u32;
        (0, word(4).wrapping_add(taken), RST | ACK)
    };
    let key = packet.key.reversed();
    let (from, to) = (key.src_port_be.to_ne_bytes(), key.dst_port_be.to_ne_bytes());
    let (sequence, acknowledged) = (sequence.to_be_bytes(), acknowledged.to_be_bytes());
    let mut header = [
        from[0],
        from[1],
        to[0],
        to[1],
        sequence[0],
        sequence[1],
        sequence[2],
        sequence[3],
        acknowledged[0],
        acknowledged[1],
        acknowledged[2],
        acknowledged[3],
        0x50,
        answer,
        0,
        0,
        0,
        0,
        0,
        0,
    ];
    let start = pseudo(&FlowKey { protocol: TCP, ..key }, packet.is_v6, 20);
    let check = (!fold(sum(start, &header))).to_ne_bytes();
    (header[16], header[17]) = (check[0], check[1]);
    Some(header)
}

/// Protocol number of IPv4 in IPv4 (RFC 2003).
pub const TUNNEL_V4: u8 = 4;
/// Protocol number of IPv6 in IPv6 (RFC 2473).
pub const TUNNEL_V6: u8 = 41;

/// The protocol number of ICMP errors of that family.
#[inline(always)]
pub const fn icmp(is_v6: bool) -> u8 {
    if is_v6 { ICMPV6 } else { ICMP }
}

#[cfg(test)]
mod tests {
    use core::net::IpAddr;

    use super::*;
    use crate::packet::{Kind, parse};

    fn addr(text: &str) -> Addr {
        Addr::from(text.parse::<IpAddr>().unwrap())
    }

    #[test]
    fn a_reset_answers_as_the_rfc_says() {
        let key = FlowKey {
            src: addr("10.0.0.1"),
            dst: addr("10.0.0.2"),
            src_port_be: 1000_u16.to_be(),
            dst_port_be: 80_u16.to_be(),
            protocol: TCP,
            pad: [0; 3],
        };
        let packet = |tcp_flags| Packet {
            key,
            ip_at: 14,
            l4_at: 34,
            length: 40,
            kind: Kind::Ports,
            tcp_flags,
            ..Packet::EMPTY
        };
        let mut head = [0; 16];
        head[4..8].copy_from_slice(&100_u32.to_be_bytes());
        head[8..12].copy_from_slice(&900_u32.to_be_bytes());
        for (case, flags, payload, want) in [
            ("SYN", SYN, 0, Some((0, 101, RST | ACK))),
            ("SYN with data", SYN, 5, Some((0, 106, RST | ACK))),
            ("FIN", FIN, 0, Some((0, 101, RST | ACK))),
            ("ACK", ACK, 7, Some((900, 0, RST))),
            ("reset", RST | ACK, 0, None),
        ] {
            let header = reset(&packet(flags), &head, payload);
            let got = header.map(|header| {
                let word = |at: usize| u32::from_be_bytes(header[at..at + 4].try_into().unwrap());
                assert_eq!(header[..4], [0, 80, 3, 232], "{case}: ports");
                let total = sum(pseudo(&key.reversed(), false, 20), &header);
                assert_eq!(fold(total), 0xffff, "{case}: checksum");
                (word(4), word(8), header[13])
            });
            assert_eq!(got, want, "{case}");
        }
    }

    #[test]
    fn errors_tell_of_an_mtu_or_of_none() {
        for (case, head, is_v6, want) in [
            ("too big", [3, 4, 0, 0, 0, 0, 0x05, 0x78], false, Some(1_400)),
            ("from an old router", [3, 4, 0, 0, 0, 0, 0, 0], false, Some(552)),
            ("port unreachable", [3, 3, 0, 0, 0, 0, 0x05, 0x78], false, None),
            ("no hops", [11, 0, 0, 0, 0, 0, 0, 0], false, None),
            ("too big", [2, 0, 0, 0, 0, 0, 0x05, 0x78], true, Some(1_400)),
            ("less than there may be", [2, 0, 0, 0, 0, 0, 0x04, 0xff], true, Some(1_280)),
            ("more than IPv4 has", [2, 0, 0, 0, 0, 1, 0x05, 0x78], true, Some(66_936)),
            ("unreachable", [1, 4, 0, 0, 0, 0, 0x05, 0x78], true, None),
        ] {
            assert_eq!(told_mtu(&head, is_v6), want, "{case}, IPv6 {is_v6}");
        }
    }

    #[test]
    fn headers_made_here_can_be_read() {
        let (src, dst) = (addr("192.0.2.1"), addr("192.0.2.2"));
        let header = ipv4_header((&src, &dst), ICMP, 20 + 8, 0);
        assert_eq!(fold(sum(0, &header)), 0xffff);
        let mut bytes = [0; 28];
        bytes[..20].copy_from_slice(&header);
        bytes[20] = 8;
        let mut packet = Packet::EMPTY;
        parse(bytes.as_slice(), 0, false, &mut packet).unwrap();
        assert_eq!((packet.key.src, packet.key.dst, packet.kind), (src, dst, Kind::Echo));
    }
}
