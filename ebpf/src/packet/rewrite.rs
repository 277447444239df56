//! Gives a packet other ends, and its checksums with them.

use sluice_common::{
    Addr, Reason,
    layout::{FlowValue, TCP, UDP},
    packet::{Fragment, ICMPV6, Packet, checksum::Difference},
};

use super::{Frame, Sum, Work};

/// Addresses as IPv4 headers have them.
#[inline(always)]
pub fn v4_pair(src: &Addr, dst: &Addr) -> [u8; 8] {
    let (src, dst) = (src.v4_be().to_ne_bytes(), dst.v4_be().to_ne_bytes());
    [src[0], src[1], src[2], src[3], dst[0], dst[1], dst[2], dst[3]]
}

/// Ports as they stand in headers.
#[inline(always)]
pub fn port_pair(src_be: u16, dst_be: u16) -> [u8; 4] {
    let (src, dst) = (src_be.to_ne_bytes(), dst_be.to_ne_bytes());
    [src[0], src[1], dst[0], dst[1]]
}

/// Gives the packet the ends of `work.flow`; `hops` is how many hops it loses.
#[inline(never)]
pub fn rewrite<F: Frame>(frame: F, work: &Work, hops: u8) -> Result<(), Reason> {
    change(frame, &work.packet, &work.flow, hops).ok_or(Reason::Malformed)
}

#[inline(always)]
fn change<F: Frame>(frame: F, packet: &Packet, flow: &FlowValue, hops: u8) -> Option<()> {
    let (is_v6, ip_at) = (packet.is_v6, packet.ip_at);
    let addresses = Difference::NONE.address(&packet.key.src, &flow.src, is_v6).address(
        &packet.key.dst,
        &flow.dst,
        is_v6,
    );
    let left = packet.ttl.wrapping_sub(hops);
    if is_v6 {
        let [next, _]: [u8; 2] = frame.load(ip_at + 6)?;
        frame.store(ip_at + 6, &[next, left])?;
        frame.store::<16>(ip_at + 8, &bytemuck::must_cast(flow.src.words_be))?;
        frame.store::<16>(ip_at + 24, &bytemuck::must_cast(flow.dst.words_be))?;
    } else {
        let protocol = packet.key.protocol;
        let word = |ttl: u8| u32::from(u16::from_ne_bytes([ttl, protocol]));
        let [a, b] = addresses.word(word(packet.ttl), word(left)).apply(packet.check).to_ne_bytes();
        let [s0, s1, s2, s3, d0, d1, d2, d3] = v4_pair(&flow.src, &flow.dst);
        frame.store(ip_at + 8, &[left, protocol, a, b, s0, s1, s2, s3, d0, d1, d2, d3])?;
    }
    if matches!(packet.fragment, Fragment::Later) {
        return Some(());
    }
    let check_at = match packet.key.protocol {
        TCP => packet.l4_at + 16,
        UDP => packet.l4_at + 6,
        ICMPV6 => {
            let check_at = packet.l4_at + 2;
            return frame.fix_transport(check_at, addresses, Sum::Addresses, ICMPV6, is_v6);
        }
        // SCTP's checksum knows nothing of addresses, and its ports stay.
        _ => return Some(()),
    };
    frame.fix_transport(check_at, addresses, Sum::Addresses, packet.key.protocol, is_v6)?;
    if (packet.key.src_port_be, packet.key.dst_port_be) == (flow.src_port_be, flow.dst_port_be) {
        return Some(());
    }
    let ports = Difference::NONE
        .ports((packet.key.src_port_be, packet.key.dst_port_be), (flow.src_port_be, flow.dst_port_be));
    frame.fix_transport(check_at, ports, Sum::Header, packet.key.protocol, is_v6)?;
    frame.store(packet.l4_at, &port_pair(flow.src_port_be, flow.dst_port_be))
}
