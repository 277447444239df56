//! Replies to connections that the redirector made under a pod's address: the node takes them, though the address is not its
//! own. The mark makes the node's rules route them to itself.

use sluice_common::{
    Reason,
    layout::{
        CONFIG_OPTIONS, FIRST_BORROWED_PORT, FlowKey, HOOK_FROM_NETWORK, HOOK_FROM_POD, OPTION_KEEP_CLIENTS,
        TCP,
    },
};

use super::{Frame, Verdict, Work};
use crate::{
    maps::{CONFIG, DEVICES},
    raw::{self, fib},
};

/// Whether a packet with these ends may be such a reply: cheap, and false for nearly all others.
#[inline(always)]
pub fn may_be(reply: &FlowKey, hook: u8) -> bool {
    reply.protocol == TCP
        && u16::from_be(reply.dst_port_be) >= FIRST_BORROWED_PORT
        && hook & (HOOK_FROM_NETWORK | HOOK_FROM_POD) != 0
        && CONFIG.get(CONFIG_OPTIONS).is_some_and(|options| options & OPTION_KEEP_CLIENTS != 0)
}

/// Hands the packet to the node if a socket of the node takes packets with the ends of `work.reply`; else
/// [`Reason::NotOurs`].
#[inline(never)]
pub fn steer<F: Frame>(frame: F, work: &mut Work) -> Result<Reason, Reason> {
    if !fib::is_connected(frame, work) {
        return Err(Reason::NotOurs);
    }
    // On a bridge it is addressed to the pod's device: only what is addressed to this one goes up.
    let device = raw::get(&DEVICES, &frame.ifindex()).ok_or(Reason::NotOurs)?;
    frame.take_in(&device.mac).ok_or(Reason::NotOurs)?;
    work.verdict = Verdict::Pass;
    Ok(Reason::ReplySteered)
}
