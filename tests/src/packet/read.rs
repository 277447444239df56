//! What a frame says, and whether its checksums are right.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::{
    DESTINATION, ETHERNET, FRAGMENT, HOP_BY_HOP, ICMP, ICMPV6, ROUTING, SCTP, TCP, UDP,
    checksum::{crc32c, residue},
};

/// A packet's ends; ports are 0 where it shows none.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Ends {
    /// Where from.
    pub src: SocketAddr,
    /// Where to.
    pub dst: SocketAddr,
    /// IANA number of what is carried.
    pub protocol: u8,
}

/// A packet, read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Head {
    /// Its ends.
    pub ends: Ends,
    /// Hops left.
    pub ttl: u8,
    /// Where what it carries begins, in the frame.
    pub body_at: usize,
    /// Where the packet ends, in the frame; the frame's end where it is cut short.
    pub end: usize,
    /// A piece of a larger datagram: offset in bytes, whether more follow.
    pub piece: Option<(u16, bool)>,
}

/// Reads a frame; `None` where it is cut before the end of its headers, or is not IP.
pub fn read(frame: &[u8]) -> Option<Head> {
    let ethertype = u16::from_be_bytes([*frame.get(12)?, *frame.get(13)?]);
    let is_v6 = match ethertype {
        0x0800 => false,
        0x86dd => true,
        _ => return None,
    };
    read_quoted(frame, ETHERNET, is_v6)
}

fn word(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]))
}

/// Reads the packet whose IP header begins at `at`, such as one that an ICMP error quotes.
pub fn read_quoted(frame: &[u8], at: usize, is_v6: bool) -> Option<Head> {
    let (src, dst, protocol, ttl, body_at, length, piece);
    if is_v6 {
        let address = |at: usize| Some(IpAddr::from(Ipv6Addr::from(*frame.get(at..)?.first_chunk::<16>()?)));
        (src, dst, ttl) = (address(at + 8)?, address(at + 24)?, *frame.get(at + 7)?);
        length = 40 + usize::from(word(frame, at + 4)?);
        let (mut next, mut place, mut found) = (*frame.get(at + 6)?, at + 40, None);
        while matches!(next, HOP_BY_HOP | ROUTING | FRAGMENT | DESTINATION | 51)
            && found.is_none_or(|(offset, _)| offset == 0)
        {
            let (kind, units) = (next, usize::from(*frame.get(place + 1)?));
            next = *frame.get(place)?;
            if kind == FRAGMENT {
                let offset = word(frame, place + 2)?;
                found = Some((offset & 0xfff8, offset & 1 == 1));
            }
            place += match kind {
                FRAGMENT => 8,
                51 => (units + 2) * 4,
                _ => (units + 1) * 8,
            };
        }
        (protocol, body_at) = (next, place);
        piece = found.filter(|piece| *piece != (0, false));
    } else {
        let address = |at: usize| Some(IpAddr::from(Ipv4Addr::from(*frame.get(at..)?.first_chunk::<4>()?)));
        (src, dst, ttl) = (address(at + 12)?, address(at + 16)?, *frame.get(at + 8)?);
        (protocol, length) = (*frame.get(at + 9)?, usize::from(word(frame, at + 2)?));
        body_at = at + usize::from(*frame.get(at)? & 0x0f) * 4;
        let flags = word(frame, at + 6)?;
        piece = (flags & 0x3fff != 0).then_some(((flags & 0x1fff) * 8, flags & 0x2000 != 0));
    }
    let later = piece.is_some_and(|(offset, _)| offset != 0);
    let has_ports = matches!(protocol, TCP | UDP | SCTP) && !later;
    let port = |at: usize| if has_ports { word(frame, at) } else { Some(0) };
    let ends = Ends {
        src: SocketAddr::new(src, port(body_at)?),
        dst: SocketAddr::new(dst, port(body_at + 2)?),
        protocol,
    };
    Some(Head { ends, ttl, body_at, end: (at + length).min(frame.len()), piece })
}

impl Head {
    /// What the checksum of what is carried comes to with all it covers: 0xffff if it is right. `None` if it has none.
    pub fn residue(&self, frame: &[u8]) -> Option<u16> {
        let (src, dst) = (self.ends.src.ip(), self.ends.dst.ip());
        let body = frame.get(self.body_at..self.end)?;
        match self.ends.protocol {
            UDP if body.get(6..8)? == [0, 0] => None,
            TCP | UDP | ICMPV6 => Some(residue(Some((src, dst, self.ends.protocol)), body)),
            ICMP => Some(residue(None, body)),
            _ => None,
        }
    }
}

/// Whether every checksum of a frame that is not a piece is right.
///
/// # Errors
/// Which one is not.
pub fn verify(frame: &[u8]) -> Result<Head, String> {
    let head = read(frame).ok_or("it cannot be read")?;
    if frame[ETHERNET] >> 4 == 4 {
        let length = usize::from(frame[ETHERNET] & 0x0f) * 4;
        let header = frame.get(ETHERNET..ETHERNET + length).ok_or("it is cut short")?;
        if residue(None, header) != 0xffff {
            return Err("the checksum of the IPv4 header is wrong".to_owned());
        }
    }
    if head.piece.is_none() && head.residue(frame).is_some_and(|residue| residue != 0xffff) {
        return Err(format!("the checksum of protocol {} is wrong", head.ends.protocol));
    }
    if head.piece.is_none() && head.ends.protocol == SCTP {
        let mut body = frame[head.body_at..head.end].to_vec();
        let was: [u8; 4] =
            body.splice(8..12, [0; 4]).collect::<Vec<_>>().try_into().map_err(|_| "cut short")?;
        if crc32c(&body).to_le_bytes() != was {
            return Err("the checksum of SCTP is wrong".to_owned());
        }
    }
    Ok(head)
}
