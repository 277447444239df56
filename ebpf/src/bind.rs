//! Port protection: a process on the node that binds a NodePort would wait for connections that never come.

use aya_ebpf::programs::SockContext;
use sluice_common::{
    Addr, Reason,
    layout::{CONFIG_HOST_NETNS, EventHook, FrontendKey, TCP, UDP},
};

use crate::{events, family::Family, maps::CONFIG, raw, socket::entry};

/// Lets the bind stand, or fails it with EADDRINUSE; a cgroup program's return code.
#[inline(always)]
pub fn protect<F: Family>(ctx: &SockContext) -> i32 {
    if !clashes::<F>(ctx) {
        return 1;
    }
    raw::count(Reason::NodePortInUse);
    let hook = if F::IS_V6 { EventHook::PostBind6 } else { EventHook::PostBind4 };
    events::of_bind(ctx, hook, raw::bound(ctx), Reason::NodePortInUse);
    raw::fail(raw::EADDRINUSE);
    0
}

/// Whether the socket is one of the node's own and its port a NodePort of its family. An IPv6 socket takes IPv4 too.
#[inline(always)]
fn clashes<F: Family>(ctx: &SockContext) -> bool {
    let (protocol, port_be) = raw::bound(ctx);
    if (protocol != TCP && protocol != UDP)
        || CONFIG.get(CONFIG_HOST_NETNS).copied() != Some(raw::netns_cookie_of(ctx))
    {
        return false;
    }
    let key = |addr: Addr| FrontendKey { addr, port_be, protocol, scope: 0 }.on_any_node_address();
    let v4 = entry(&key(Addr::from_v4_be(0))).is_some();
    v4 || (F::IS_V6 && entry(&key(Addr::UNSPECIFIED)).is_some())
}
