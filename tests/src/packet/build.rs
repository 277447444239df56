//! Packets from what they are to say.

use std::net::{IpAddr, SocketAddr};

use super::{
    DESTINATION, FRAGMENT, HOP_BY_HOP, ICMPV6, RST, SCTP, TCP, UDP,
    checksum::{behind_pseudo, crc32c, ones},
    icmp_of,
};

/// What a packet carries.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Carried {
    /// A segment with these flags.
    Tcp(u8),
    /// A datagram.
    Udp,
    /// A datagram whose checksum is zero, which is none.
    UdpWithoutSum,
    /// One DATA chunk or so.
    Sctp,
    /// A ping; the ports give identification and sequence number.
    Echo,
    /// The answer to one.
    EchoReply,
}

/// A packet to be built.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Packet {
    /// Where from.
    pub src: SocketAddr,
    /// Where to.
    pub dst: SocketAddr,
    /// What.
    pub carried: Carried,
    /// Hops left.
    pub ttl: u8,
    /// IPv4 identification; IPv6 flow label.
    pub id: u16,
    /// Bytes of IPv4 options, a multiple of four.
    pub options: usize,
    /// IPv6 extension headers by protocol number; neither fragment nor authentication headers.
    pub extensions: Vec<u8>,
    /// IPv4: routers may not fragment it.
    pub dont_fragment: bool,
    /// What is carried behind the transport header.
    pub payload: Vec<u8>,
    /// TCP sequence numbers: its own, acknowledged.
    pub sequence: (u32, u32),
}

impl Packet {
    /// A plain one, with a payload of a few bytes, an odd number of them.
    pub fn new(src: SocketAddr, dst: SocketAddr, carried: Carried) -> Self {
        Self {
            src,
            dst,
            carried,
            ttl: 64,
            id: 0x1234,
            options: 0,
            extensions: Vec::new(),
            dont_fragment: true,
            payload: b"what is said".iter().copied().cycle().take(37).collect(),
            sequence: (0x0102_0304, 0xa1b2_c3d4),
        }
    }

    /// The same between other ends.
    #[must_use]
    pub fn between(&self, src: SocketAddr, dst: SocketAddr) -> Self {
        Self { src, dst, ..self.clone() }
    }

    /// The same with that many hops left.
    #[must_use]
    pub fn with_ttl(&self, ttl: u8) -> Self {
        Self { ttl, ..self.clone() }
    }

    /// What is carried, from the transport header on, checksum and all.
    pub fn body(&self) -> Vec<u8> {
        let (from, to) = (self.src.port().to_be_bytes(), self.dst.port().to_be_bytes());
        let mut body = match self.carried {
            Carried::Tcp(flags) => {
                let (own, acknowledged) = (self.sequence.0.to_be_bytes(), self.sequence.1.to_be_bytes());
                // Who resets has no window.
                let window = if flags & RST == 0 { 0x20 } else { 0 };
                [&from[..], &to, &own, &acknowledged, &[0x50, flags, window, 0, 0, 0, 0, 0]].concat()
            }
            Carried::Udp | Carried::UdpWithoutSum => {
                let length = (8 + self.payload.len() as u16).to_be_bytes();
                [&from[..], &to, &length, &[0, 0]].concat()
            }
            Carried::Sctp => [&from[..], &to, &[0, 0, 0, 1, 0, 0, 0, 0]].concat(),
            Carried::Echo | Carried::EchoReply => [&[self.echo_type(), 0, 0, 0][..], &from, &to].concat(),
        };
        body.extend_from_slice(&self.payload);
        let (src, dst) = (self.src.ip(), self.dst.ip());
        let put = |body: &mut Vec<u8>, at: usize, check: u16| {
            body[at..at + 2].copy_from_slice(&check.to_be_bytes());
        };
        match self.carried {
            Carried::Tcp(_) => {
                let check = behind_pseudo(src, dst, TCP, &body);
                put(&mut body, 16, check);
            }
            Carried::Udp => {
                let check = behind_pseudo(src, dst, UDP, &body);
                put(&mut body, 6, if check == 0 { 0xffff } else { check });
            }
            Carried::UdpWithoutSum => {}
            Carried::Sctp => {
                let check = crc32c(&body).to_le_bytes();
                body[8..12].copy_from_slice(&check);
            }
            Carried::Echo | Carried::EchoReply => {
                let check = if src.is_ipv6() { behind_pseudo(src, dst, ICMPV6, &body) } else { ones(&body) };
                put(&mut body, 2, check);
            }
        }
        body
    }

    fn echo_type(&self) -> u8 {
        match (self.carried == Carried::EchoReply, self.src.is_ipv6()) {
            (false, false) => 8,
            (true, false) => 0,
            (false, true) => 128,
            (true, true) => 129,
        }
    }

    fn protocol(&self) -> u8 {
        match self.carried {
            Carried::Tcp(_) => TCP,
            Carried::Udp | Carried::UdpWithoutSum => UDP,
            Carried::Sctp => SCTP,
            Carried::Echo | Carried::EchoReply => icmp_of(self.src.ip()),
        }
    }

    /// The IP packet.
    pub fn ip(&self) -> Vec<u8> {
        self.piece(&self.body(), None)
    }

    /// The IP packets that it is cut into, with at most `size` bytes of the body each, a multiple of eight.
    pub fn pieces(&self, size: usize, id: u32) -> Vec<Vec<u8>> {
        let body = self.body();
        let last = (body.len() - 1) / size;
        let chunks = body.chunks(size).enumerate();
        chunks
            .map(|(number, chunk)| self.piece(chunk, Some(((number * size) as u16, number < last, id))))
            .collect()
    }

    /// `fragment`: offset in bytes, whether more follow, identification.
    fn piece(&self, body: &[u8], fragment: Option<(u16, bool, u32)>) -> Vec<u8> {
        match (self.src.ip(), self.dst.ip()) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                let length = (20 + self.options + body.len()) as u16;
                let (offset, more, id) = fragment.unwrap_or((0, false, u32::from(self.id)));
                let flags = (offset / 8)
                    | (if more { 0x2000 } else { 0 })
                    | (if self.dont_fragment && fragment.is_none() { 0x4000 } else { 0 });
                let words = [(0x45 + self.options as u16 / 4) << 8, length, id as u16, flags];
                let mut header: Vec<u8> = words.iter().flat_map(|word| word.to_be_bytes()).collect();
                header.extend([self.ttl, self.protocol(), 0, 0]);
                header.extend(src.octets().into_iter().chain(dst.octets()));
                // No operation, again and again (RFC 791).
                header.extend(std::iter::repeat_n(1, self.options));
                let check = ones(&header).to_be_bytes();
                header[10..12].copy_from_slice(&check);
                [&header, body].concat()
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                let mut chain = self.extensions.clone();
                chain.extend(fragment.map(|_| FRAGMENT));
                let next = |number: usize| chain.get(number).copied().unwrap_or_else(|| self.protocol());
                let mut headers = Vec::new();
                for (number, kind) in chain.iter().enumerate() {
                    headers.extend(extension(*kind, next(number + 1), fragment));
                }
                let length = ((headers.len() + body.len()) as u16).to_be_bytes();
                let label = self.id.to_be_bytes();
                let head = [0x60, 0, label[0], label[1], length[0], length[1], next(0), self.ttl];
                [&head[..], &src.octets(), &dst.octets(), &headers, body].concat()
            }
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => {
                panic!("{} and {} are of two families", self.src, self.dst)
            }
        }
    }
}

fn extension(kind: u8, next: u8, fragment: Option<(u16, bool, u32)>) -> Vec<u8> {
    match kind {
        FRAGMENT => {
            let (offset, more, id) = fragment.unwrap_or_default();
            let offset = (offset | u16::from(more)).to_be_bytes();
            [&[next, 0][..], &offset, &id.to_be_bytes()].concat()
        }
        // One option that pads (RFC 8200 §4.2); the destination's is longer.
        HOP_BY_HOP => vec![next, 0, 1, 4, 0, 0, 0, 0],
        DESTINATION => [&[next, 1, 1, 12][..], &[0; 12]].concat(),
        // A routing header of an unknown type with no segments left, which everybody ignores.
        _ => vec![next, 0, 253, 0, 0, 0, 0, 0],
    }
}

/// The IP packet of an ICMP error about `quoted`. `rest` are the four bytes behind the checksum.
pub fn icmp_error(src: IpAddr, dst: IpAddr, kind: (u8, u8), rest: u32, quoted: &[u8]) -> Vec<u8> {
    let mut body = [&[kind.0, kind.1, 0, 0][..], &rest.to_be_bytes(), quoted].concat();
    let check = if src.is_ipv6() { behind_pseudo(src, dst, ICMPV6, &body) } else { ones(&body) };
    body[2..4].copy_from_slice(&check.to_be_bytes());
    let plain = Packet::new(SocketAddr::new(src, 0), SocketAddr::new(dst, 0), Carried::Echo);
    // Without an identification, as a packet that is never cut may be (RFC 6864).
    Packet { id: 0, ..plain }.piece(&body, None)
}

/// The IP packet in an Ethernet frame; `macs` are destination and source.
pub fn on_wire(macs: [u8; 12], ip: &[u8]) -> Vec<u8> {
    let ethertype = if ip[0] >> 4 == 6 { [0x86, 0xdd] } else { [8, 0] };
    [&macs[..], &ethertype, ip].concat()
}
