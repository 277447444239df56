//! cgroup/sendmsg4 and sendmsg6: sendmsg(2) and sendto(2) of unconnected UDP sockets.

use aya_ebpf::{macros::cgroup_sock_addr, programs::SockAddrContext};
use sluice_common::layout::EventHook;

use crate::{
    family::{V4, V6},
    socket::{run, send},
};

#[cgroup_sock_addr(sendmsg4)]
pub fn sendmsg4(ctx: SockAddrContext) -> i32 {
    run(&ctx, EventHook::Sendmsg4, send::<V4>)
}

#[cgroup_sock_addr(sendmsg6)]
pub fn sendmsg6(ctx: SockAddrContext) -> i32 {
    run(&ctx, EventHook::Sendmsg6, send::<V6>)
}
