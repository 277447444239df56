//! ICMP errors about packets that were translated: the packet that they quote gets its first ends back, and they go to
//! whoever sent it.

use sluice_common::{
    Reason,
    layout::{FLOW_SNAT, FLOW_TUNNEL},
    packet::{Kind, checksum::Difference},
};

use super::{
    Frame, Stage, Step, Sum, Work, borrowed, narrow, read_inner,
    rewrite::{port_pair, v4_pair},
    tunnel,
};
use crate::raw::{self, flows};

/// Translates the error if what it quotes is ours.
#[inline(always)]
pub fn error<F: Frame>(frame: F, work: &mut Work) -> Result<Reason, Reason> {
    read_inner(frame, work, work.packet.l4_at + 8, true).map_err(|_| Reason::NotOurs)?;
    if matches!(work.quoted.kind, Kind::Tunnel) {
        return narrow::error(frame, work);
    }
    work.reply = work.quoted.key.reversed();
    if borrowed::may_be(&work.reply, work.hook)
        && let Ok(reason) = borrowed::steer(frame, work)
    {
        return Ok(reason);
    }
    work.flow = flows::flow(&work.reply).ok_or(Reason::NotOurs)?;
    // Its entry is another's: the route is looked up, and not remembered.
    work.flow.route_ifindex = 0;
    work.now_ns = raw::now_ns();
    if work.flow.hooks & work.hook == 0 {
        return Err(Reason::NotOurs);
    }
    work.back.src = work.flow.src;
    work.stage = Stage::Error;
    if work.flow.flags & FLOW_TUNNEL != 0 {
        // The pod's node knows what it is about.
        return tunnel::wrap(frame, work).map(|()| Reason::IcmpTranslated);
    }
    requote(frame, work).ok_or(Reason::Malformed)?;
    // From whom it comes matters less than that it comes: in the node's name where the connection goes in it.
    if work.flow.flags & FLOW_SNAT == 0 {
        work.flow.src = work.packet.key.src;
    }
    frame.enter(work, Step::Lead).map(|_| Reason::IcmpTranslated)
}

/// Gives the quoted packet the ends with which it was sent.
#[inline(never)]
fn requote<F: Frame>(frame: F, work: &Work) -> Option<()> {
    let (quoted, value, is_v6) = (&work.quoted, &work.flow, work.packet.is_v6);
    let addresses = Difference::NONE.address(&quoted.key.src, &value.dst, is_v6).address(
        &quoted.key.dst,
        &value.src,
        is_v6,
    );
    let ports = Difference::NONE
        .ports((quoted.key.src_port_be, quoted.key.dst_port_be), (value.dst_port_be, value.src_port_be));
    let ip_at = quoted.ip_at;
    let mut covered = ports;
    if is_v6 {
        frame.store::<16>(ip_at + 8, &bytemuck::must_cast(value.dst.words_be))?;
        frame.store::<16>(ip_at + 24, &bytemuck::must_cast(value.src.words_be))?;
        covered = covered.and(addresses);
    } else {
        // The quoted header's own checksum makes up for its addresses in the sum over both.
        let check: [u8; 2] = frame.load(ip_at + 10)?;
        frame.store(ip_at + 12, &v4_pair(&value.dst, &value.src))?;
        frame.store(ip_at + 10, &addresses.apply(u16::from_ne_bytes(check)).to_ne_bytes())?;
    }
    frame.store(quoted.l4_at, &port_pair(value.dst_port_be, value.src_port_be))?;
    frame.fix_transport(work.packet.l4_at + 2, covered, Sum::Header, work.packet.key.protocol, is_v6)
}
