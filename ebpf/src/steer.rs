//! Steering: new connections to frontends that need rules end at one of the redirector's listeners; the rest of such
//! an address ends nowhere, so that no daemon of the node becomes reachable by it.

use aya_ebpf::programs::SkLookupContext;
use sluice_common::{
    Reason, choose,
    layout::{
        ADDRESS_LOOPBACK, ADDRESS_NODE, ADDRESS_REDIRECTED, CONFIG_WORKERS, FLAG_REDIRECTED, FrontendKey,
        FrontendValue, TCP,
    },
};

use crate::{
    events,
    maps::{ADDRESSES, CONFIG, LISTENERS},
    raw,
    socket::entry,
};

const PASS: u32 = 1;
const DROP: u32 = 0;

/// sk_lookup: a packet for this node that belongs to no connection yet.
#[inline(always)]
pub fn steer(ctx: &SkLookupContext) -> u32 {
    // The packet path on this CPU, which wants no listener: it would be counted as a connection.
    if raw::flows::asks() {
        return PASS;
    }
    let (key, is_v6) = raw::local(ctx);
    let kind = raw::get(&ADDRESSES, &key.addr).unwrap_or(0);
    let of_node = kind & (ADDRESS_NODE | ADDRESS_LOOPBACK) != 0;
    if let Some(value) = frontend(&key, of_node)
        && value.flags & FLAG_REDIRECTED != 0
    {
        if assign(ctx, is_v6) {
            raw::count(Reason::Steered);
            events::of_steering(ctx, &key, value.service_id, Reason::Steered);
            return PASS;
        }
        // Its listeners are gone: it did not live to say so. The next connect need not find out again.
        raw::stop_heartbeat();
        raw::count(Reason::NoRedirector);
        events::of_steering(ctx, &key, value.service_id, Reason::NoRedirector);
    }
    if kind & ADDRESS_REDIRECTED != 0 && !of_node {
        raw::count(Reason::UnlistedPort);
        events::of_steering(ctx, &key, 0, Reason::UnlistedPort);
        return DROP;
    }
    PASS
}

#[inline(always)]
fn frontend(key: &FrontendKey, of_node: bool) -> Option<FrontendValue> {
    if key.protocol != TCP {
        return None;
    }
    match entry(key) {
        None if of_node => entry(&key.on_any_node_address()),
        found => found,
    }
}

/// Gives the connection to a worker's listener; the same one for all packets of a handshake.
#[inline(always)]
fn assign(ctx: &SkLookupContext, is_v6: bool) -> bool {
    let workers = CONFIG.get(CONFIG_WORKERS).copied().unwrap_or(0) as u32;
    let worker = choose::scale(choose::socket_hash(raw::remote(ctx), 0), workers);
    LISTENERS.redirect_sk_lookup(ctx, worker * 2 + u32::from(is_v6), 0).is_ok()
}
