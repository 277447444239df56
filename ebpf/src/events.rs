//! Telling whoever watches: one record for each outcome that is worth it. While nobody watches, an outcome costs one read of
//! `CONFIG`, and packets of known connections not even that.

use aya_ebpf::programs::{SkLookupContext, SockAddrContext, SockContext};
use bytemuck::Zeroable as _;
use sluice_common::{
    Addr, Reason,
    layout::{
        BackendValue, CONFIG_WATCHED, CONFIG_WATCHED_EACH, EventHook, EventValue, EventVerdict, FLOW_REPLY,
        FrontendKey,
    },
};

use crate::{
    maps::{CONFIG, EVENTS},
    packet::{Stage, Verdict as PacketVerdict, Work},
    raw,
    socket::{Outcome, Verdict},
};

/// Whether somebody watches, by one of `CONFIG_WATCHED*`.
#[inline(always)]
pub fn is_watched(slot: u32) -> bool {
    let until_ns = CONFIG.get(slot).copied().unwrap_or(0);
    until_ns != 0 && is_in_time(slot, until_ns)
}

/// Whether the watcher's last word still counts; forgets it if not, for the clock costs more than the read.
#[inline(never)]
fn is_in_time(slot: u32, until_ns: u64) -> bool {
    let is = raw::now_ns() < until_ns;
    if !is {
        raw::forget_watcher(slot);
    }
    is
}

/// Writes one record; counts it if there is no room.
#[inline(always)]
fn tell(make: impl FnOnce(&mut EventValue)) {
    let Some(mut record) = EVENTS.reserve(0) else {
        return raw::count(Reason::EventLost);
    };
    let event = record.write(EventValue::zeroed());
    event.at_ns = raw::now_ns();
    make(event);
    record.submit(0);
}

/// What a socket's hook finds out on its way.
pub struct Story {
    /// What is dialled.
    pub dialled: FrontendKey,
    /// The service, once it is found.
    pub service_id: u32,
    /// The backend's id, once it is chosen.
    pub backend_id: u32,
    /// Where that is.
    pub backend: BackendValue,
    /// Reasons counted besides, a bit for each.
    pub besides: u64,
    /// Whether the exchange is known, and was told of when it began.
    pub again: bool,
    /// Whether somebody watches, if that was asked already.
    pub watched: Option<bool>,
}

impl Story {
    /// Nothing yet.
    #[inline(always)]
    pub fn new() -> Self {
        Self {
            dialled: FrontendKey::zeroed(),
            service_id: 0,
            backend_id: 0,
            backend: BackendValue::zeroed(),
            besides: 0,
            again: false,
            watched: None,
        }
    }

    /// Counts a reason that is not the outcome.
    #[inline(always)]
    pub fn count_besides(&mut self, reason: Reason) {
        raw::count(reason);
        self.besides |= reason.bit();
    }

    /// Whether somebody watches who wants to hear of this outcome.
    #[inline(always)]
    fn is_wanted(&self, reason: Reason) -> bool {
        if matches!(reason, Reason::ReplyTranslated) {
            return is_watched(CONFIG_WATCHED_EACH);
        }
        reason.is_told()
            && self.watched.unwrap_or_else(|| is_watched(CONFIG_WATCHED))
            && (!self.again || is_watched(CONFIG_WATCHED_EACH))
    }
}

/// Tells what a socket's hook decided.
#[inline(always)]
pub fn of_socket(ctx: &SockAddrContext, hook: EventHook, outcome: &Outcome, story: &Story) {
    let (verdict, reason) = outcome;
    if !story.is_wanted(*reason) {
        return;
    }
    tell(|event| {
        event.netns = raw::netns_cookie(ctx);
        event.dialled = story.dialled.addr;
        event.dialled_port_be = story.dialled.port_be;
        event.protocol = story.dialled.protocol;
        event.backend = story.backend.addr;
        event.backend_port_be = story.backend.port_be;
        event.service_id = story.service_id;
        event.backend_id = story.backend_id;
        event.reason = *reason as u8;
        event.besides = story.besides;
        event.hook = hook as u8;
        event.verdict = match verdict {
            Verdict::Pass => EventVerdict::Pass,
            Verdict::Refuse => EventVerdict::Refuse,
        } as u8;
    });
}

/// Tells that a socket was not allowed to bind.
#[inline(always)]
pub fn of_bind(ctx: &SockContext, hook: EventHook, (protocol, port_be): (u8, u16), reason: Reason) {
    if !is_watched(CONFIG_WATCHED) {
        return;
    }
    tell(|event| {
        event.netns = raw::netns_cookie_of(ctx);
        event.dialled_port_be = port_be;
        event.protocol = protocol;
        event.reason = reason as u8;
        event.hook = hook as u8;
        event.verdict = EventVerdict::Refuse as u8;
    });
}

/// Tells what became of a packet that a socket was looked up for.
#[inline(always)]
pub fn of_steering(ctx: &SkLookupContext, key: &FrontendKey, service_id: u32, reason: Reason) {
    if !is_watched(CONFIG_WATCHED) {
        return;
    }
    tell(|event| {
        (event.client, event.client_port_be) = raw::remote_end(ctx);
        event.ifindex = raw::ifindex(ctx);
        event.dialled = key.addr;
        event.dialled_port_be = key.port_be;
        event.protocol = key.protocol;
        event.service_id = service_id;
        event.reason = reason as u8;
        event.hook = EventHook::SteerLookup as u8;
        let is_dropped = matches!(reason, Reason::UnlistedPort);
        event.verdict = if is_dropped { EventVerdict::Drop } else { EventVerdict::Pass } as u8;
    });
}

/// Tells what became of a packet.
#[inline(always)]
pub fn of_packet(work: &Work, hook: EventHook, ifindex: u32, reason: Reason) {
    // Who sent it is told of that, whatever else came of the packet.
    let is_too_big = work.besides & Reason::TooBig.bit() != 0;
    let reason = if is_too_big { Reason::TooBig } else { reason };
    if reason.is_told() && is_watched(CONFIG_WATCHED) {
        tell_packet(work, hook, ifindex, reason);
    }
}

#[inline(never)]
fn tell_packet(work: &Work, hook: EventHook, ifindex: u32, reason: Reason) {
    tell(|event| {
        event.ifindex = ifindex;
        event.reason = reason as u8;
        event.besides = work.besides & !reason.bit();
        event.hook = hook as u8;
        event.verdict = match work.verdict {
            PacketVerdict::Pass => EventVerdict::Pass,
            PacketVerdict::Drop => EventVerdict::Drop,
            PacketVerdict::Sent(_) => EventVerdict::Send,
        } as u8;
        give_ends(work, event);
    });
}

/// Who, what and where, as far as it was found out: what else is in `work` is another packet's.
#[inline(always)]
fn give_ends(work: &Work, event: &mut EventValue) {
    let stage = work.stage;
    if matches!(stage, Stage::Unread) {
        return;
    }
    let is_error = matches!(stage, Stage::Error);
    let key = if is_error { &work.reply } else { &work.packet.key };
    event.protocol = key.protocol;
    put(&mut event.client, &mut event.client_port_be, &key.src, key.src_port_be);
    put(&mut event.dialled, &mut event.dialled_port_be, &key.dst, key.dst_port_be);
    match stage {
        Stage::Unread | Stage::Read => {}
        Stage::Found => event.service_id = work.frontend.service_id,
        Stage::Chosen | Stage::Remembered => {
            event.service_id = work.frontend.service_id;
            event.backend_id = work.slot.backend_id;
            put(&mut event.backend, &mut event.backend_port_be, &work.backend.addr, work.backend.port_be);
        }
        Stage::Known | Stage::Error => {
            let flow = &work.flow;
            event.service_id = flow.service_id;
            event.backend_id = flow.backend_id;
            if flow.flags & FLOW_REPLY == 0 {
                put(&mut event.backend, &mut event.backend_port_be, &flow.dst, flow.dst_port_be);
                return;
            }
            let dialled = if is_error { &work.back.src } else { &flow.src };
            put(&mut event.backend, &mut event.backend_port_be, &key.src, key.src_port_be);
            put(&mut event.client, &mut event.client_port_be, &flow.dst, flow.dst_port_be);
            put(&mut event.dialled, &mut event.dialled_port_be, dialled, flow.src_port_be);
        }
    }
}

#[inline(always)]
fn put(addr: &mut Addr, port_be: &mut u16, from: &Addr, from_port_be: u16) {
    *addr = *from;
    *port_be = from_port_be;
}
