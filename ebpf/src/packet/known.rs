//! Packets of connections that are known: one lookup gives their new ends.

use sluice_common::{
    Reason,
    layout::{FLOW_REDIRECT, FLOW_REPLY, FLOW_TO_NODE, FLOW_TUNNEL, HOOK_TO_NETWORK, TCP},
    packet::flow,
};

use super::{
    Frame, Stage, Step, Verdict, Work, answer, cut, pods, remember::leave_tunnel, rewrite::rewrite, tunnel,
};
use crate::{
    maps::FLOWS,
    raw::{
        self,
        fib::{self, Unroutable},
        flows,
    },
};

/// Leads the packet on if its connection is known at this hook; else [`Reason::NotOurs`].
#[inline(always)]
pub fn known<F: Frame>(frame: F, work: &mut Work) -> Result<Reason, Reason> {
    if !pods::may_know(work.hook) {
        return Err(Reason::NotOurs);
    }
    work.flow = flows::flow(&work.packet.key).ok_or(Reason::NotOurs)?;
    work.now_ns = raw::now_ns();
    let flow = &work.flow;
    let of_backend = flow.flags & FLOW_REPLY != 0;
    if flow.hooks & work.hook == 0
        || !flow::is_live(flow, work.packet.key.protocol, work.now_ns)
        || flow::starts_anew(flow.state, of_backend, work.packet.tcp_flags)
    {
        return Err(Reason::NotOurs);
    }
    if !F::ANSWERS && flow.flags & FLOW_REDIRECT == 0 {
        // Not even looked at: the hook that leads it on will see it.
        work.verdict = Verdict::Pass;
        return Ok(Reason::NotOurs);
    }
    work.stage = Stage::Known;
    refresh(work);
    if F::ANSWERS && work.flow.flags & FLOW_TUNNEL != 0 && tunnel::is_too_narrow(frame, work) {
        leave_tunnel(frame, work)?;
    }
    frame.enter(work, Step::Lead)?;
    Ok(if of_backend { Reason::PacketReply } else { Reason::PacketKnown })
}

/// Notes what the packet says of the connection's state, in both of its entries.
#[inline(always)]
fn refresh(work: &mut Work) {
    let flow = &work.flow;
    let flags = if work.packet.key.protocol == TCP { work.packet.tcp_flags } else { 0 };
    // The backend's answers to packets in a tunnel do not pass here: the client's own show that it got them.
    let answered = flow.flags & FLOW_TUNNEL != 0 && flags & (flow::SYN | flow::ACK) != flow::SYN;
    let mut state = flow::after(flow.state, flow.flags & FLOW_REPLY != 0, flags);
    if answered && flags & flow::RST == 0 {
        state = flow::after(state, true, 0);
    }
    if state != flow.state || work.now_ns.saturating_sub(flow.last_seen_ns) > flow::REFRESH_NS {
        work.flow.state = state;
        // Routes and neighbours change: both are asked again.
        work.flow.route_ifindex = 0;
        touch_both(work);
    }
}

#[inline(never)]
fn touch_both(work: &mut Work) {
    work.reply = work.flow.peer(work.packet.key.protocol);
    let whole = flows::touch(&work.reply, work.flow.state, work.now_ns) || work.flow.flags & FLOW_TUNNEL != 0;
    flows::touch(&work.packet.key, work.flow.state, work.now_ns);
    if !whole {
        // The map made room by forgetting the other direction. Half a connection leads nowhere: the next packet begins anew.
        let _gone_already = FLOWS.remove(&work.packet.key);
    }
}

/// Gives the packet its new ends, those of `work.flow`, and sends it where the flow says.
#[inline(always)]
pub fn lead<F: Frame>(frame: F, work: &mut Work) -> Result<(), Reason> {
    work.verdict = Verdict::Pass;
    let flags = work.flow.flags;
    if flags & FLOW_TUNNEL != 0 {
        return tunnel::wrap(frame, work);
    }
    if flags & FLOW_TO_NODE != 0 {
        rewrite(frame, work, 0)?;
        return answer::to_node(frame, work);
    }
    if flags & FLOW_REDIRECT == 0 {
        return rewrite(frame, work, 0);
    }
    if work.packet.ttl <= 1 {
        return if F::ANSWERS { frame.enter(work, Step::HopsExceeded).map(drop) } else { Ok(()) };
    }
    if work.flow.route_ifindex != 0 && frame.segment_length(&work.packet) <= u32::from(work.flow.route_mtu) {
        return lead_as_before(frame, work);
    }
    match fib::route(frame, work) {
        Ok(()) => {}
        Err(Unroutable::NoRoute) => return Err(Reason::NoRoute),
        Err(Unroutable::TooBig(_)) if !F::ANSWERS => return Ok(()),
        Err(Unroutable::TooBig(_)) if cut::may_be_cut(work) => return cut::leave_to_stack(frame, work),
        Err(Unroutable::TooBig(mtu)) => {
            work.told_mtu = mtu;
            return frame.enter(work, Step::TooBig).map(drop);
        }
    }
    if !frame.can_forward(&work.route) {
        return Ok(());
    }
    if work.route.is_resolved {
        flows::set_route(&work.packet.key, &work.route);
    }
    rewrite(frame, work, 1)?;
    dress(frame, work)?;
    work.verdict = frame.forward(&work.route, work.hook == HOOK_TO_NETWORK);
    Ok(())
}

/// Sends the packet where the last one went.
#[inline(always)]
fn lead_as_before<F: Frame>(frame: F, work: &mut Work) -> Result<(), Reason> {
    if !frame.can_send_out(work.flow.route_ifindex) {
        return Ok(());
    }
    rewrite(frame, work, 1)?;
    dress(frame, work)?;
    work.verdict = frame.send_out(work.flow.route_ifindex, &work.flow.route_macs);
    Ok(())
}

/// Makes a packet ready to be sent by any device.
#[inline(always)]
pub fn dress<F: Frame>(frame: F, work: &Work) -> Result<(), Reason> {
    if work.packet.is_bare() { frame.dress(work.packet.is_v6).ok_or(Reason::Malformed) } else { Ok(()) }
}
