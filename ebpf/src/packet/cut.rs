//! IPv4 packets without DF that are too big for the next link: the node's stack cuts them up, as that of any router.
//!
//! The stack takes no packet from outside that bears the node's own address as its source (`fib_validate_source`). So such a
//! packet gets its new destination where it comes in and its new source where its pieces go out, by an entry of its own.

use sluice_common::{
    Reason,
    layout::{FLOW_CUT, FLOW_REPLY, FLOW_SNAT, FlowKey, FlowValue, HOOK_FROM_NETWORK, HOOK_TO_NETWORK},
    packet::Kind,
};

use super::{Frame, Work, rewrite::rewrite};
use crate::{maps::FLOWS, raw};

/// Whether the stack may cut the packet up, and is still to come.
#[inline(always)]
pub const fn may_be_cut(work: &Work) -> bool {
    !work.packet.is_whole_only && work.hook == HOOK_FROM_NETWORK && matches!(work.packet.kind, Kind::Ports)
}

/// Gives the packet the destination of `work.flow`, and what goes out of it the rest.
#[inline(never)]
pub fn leave_to_stack<F: Frame>(frame: F, work: &mut Work) -> Result<(), Reason> {
    let (packet, flow) = (&work.packet.key, &work.flow);
    work.reply = FlowKey {
        src: packet.src,
        dst: flow.dst,
        src_port_be: packet.src_port_be,
        dst_port_be: flow.dst_port_be,
        protocol: packet.protocol,
        pad: [0; 3],
    };
    work.back = FlowValue {
        hooks: HOOK_TO_NETWORK,
        flags: flow.flags & (FLOW_REPLY | FLOW_SNAT) | FLOW_CUT,
        last_seen_ns: work.now_ns,
        route_ifindex: 0,
        ..*flow
    };
    FLOWS.insert(&work.reply, &work.back, 0).map_err(|_| Reason::SourcePortsTaken)?;
    (work.flow.src, work.flow.src_port_be) = (work.reply.src, work.reply.src_port_be);
    raw::count(Reason::LeftToStack);
    rewrite(frame, work, 0)
}
