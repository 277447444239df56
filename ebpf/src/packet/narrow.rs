//! Paths to pods of other nodes on which tunnels have less room than on their first link: what routers on the way say of it, in
//! ICMP errors about what left here in a tunnel, is remembered, and told to clients.

use sluice_common::{
    Reason,
    layout::{CONFIG_PATHS_UNTIL, FLOW_TUNNEL, HOOK_FROM_NETWORK, PathValue},
    packet::{Kind, reply},
};

use super::{Frame, Stage, Verdict, Work, answer, known, read_inner, remember::is_node, tunnel::overhead};
use crate::{
    maps::{CONFIG, PATHS},
    raw::{self, fib, flows},
};

/// How long a router is believed: paths change, and nobody says when they become wider. Source: RFC 1191 §6.3.
const BELIEVED_NS: u64 = 600_000_000_000;

/// The longest IP packet that reaches the pod `work.flow.dst`, as far as somebody has said.
#[inline(always)]
pub fn mtu(work: &Work) -> u32 {
    // Nobody has, on nearly every node: an array is read at next to no cost.
    if CONFIG.get(CONFIG_PATHS_UNTIL).copied().unwrap_or(0) <= work.now_ns {
        return u32::MAX;
    }
    remembered(work)
}

#[inline(never)]
fn remembered(work: &Work) -> u32 {
    let path = raw::get_lru(&PATHS, &work.flow.dst).filter(|path| path.until_ns > work.now_ns);
    path.map_or(u32::MAX, |path| path.mtu)
}

/// Learns from an error about a packet in a tunnel, `work.quoted`, and hands it on to the client if it quotes enough.
#[inline(never)]
pub fn error<F: Frame>(frame: F, work: &mut Work) -> Result<Reason, Reason> {
    if work.hook != HOOK_FROM_NETWORK || !F::ANSWERS || !is_node(&work.quoted.key.src) {
        return Err(Reason::NotOurs);
    }
    let head: [u8; 8] = frame.load(work.packet.l4_at).ok_or(Reason::NotOurs)?;
    // Other errors are not the client's: that the pod's node is away shows in the pod's being away.
    let mtu = reply::told_mtu(&head, work.packet.is_v6).ok_or(Reason::NotOurs)?;
    work.now_ns = raw::now_ns();
    work.backend.addr = work.quoted.key.dst;
    remember(work, mtu);
    work.verdict = Verdict::Pass;
    if find(frame, work).is_some() {
        tell(frame, work, mtu)?;
    }
    Ok(Reason::PathNarrowed)
}

#[inline(never)]
fn remember(work: &Work, mtu: u32) {
    let until_ns = work.now_ns + BELIEVED_NS;
    raw::set_config(CONFIG_PATHS_UNTIL, until_ns);
    // An LRU map always finds room; should it not, the next packet that does not fit has the router say so again.
    let _said_again = PATHS.insert(&work.backend.addr, PathValue { until_ns, mtu, pad: 0 }, 0);
}

/// The client's packet that was in the tunnel, into `work.quoted`. Many routers quote no more than eight bytes of it.
#[inline(never)]
fn find<F: Frame>(frame: F, work: &mut Work) -> Option<()> {
    read_inner(frame, work, work.quoted.l4_at, true).ok()?;
    if !matches!(work.quoted.kind, Kind::Ports) {
        return None;
    }
    work.flow = flows::flow(&work.quoted.key)?;
    (work.flow.flags & FLOW_TUNNEL != 0 && work.flow.dst == work.backend.addr).then_some(())
}

/// Makes of the error one about the client's packet, from whom it was for, and sends it to the client.
#[inline(never)]
fn tell<F: Frame>(frame: F, work: &mut Work, mtu: u32) -> Result<(), Reason> {
    let at = work.packet.ip_at;
    let before = work.quoted.ip_at - at;
    work.packet = work.quoted;
    frame.remove(before).ok_or(Reason::Malformed)?;
    (work.packet.ip_at, work.packet.l4_at) = (at, work.packet.l4_at - before);
    work.stage = Stage::Read;
    work.speaker = work.packet.key.dst;
    answer::make_too_big(frame, work, mtu.saturating_sub(overhead(work.packet.is_v6)))
        .ok_or(Reason::Malformed)?;
    (work.flow.src, work.flow.dst) = (work.packet.key.dst, work.packet.key.src);
    fib::route(frame, work).map_err(|_| Reason::NoRoute)?;
    known::dress(frame, work)?;
    work.verdict = frame.forward(&work.route, false);
    Ok(())
}
