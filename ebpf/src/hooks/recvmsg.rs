//! cgroup/recvmsg4 and recvmsg6: recvmsg(2) and recvfrom(2) of UDP sockets, after the datagram came.

use aya_ebpf::{macros::cgroup_sock_addr, programs::SockAddrContext};
use sluice_common::layout::EventHook;

use crate::{
    family::{V4, V6},
    socket::{receive, run},
};

#[cgroup_sock_addr(recvmsg4)]
pub fn recvmsg4(ctx: SockAddrContext) -> i32 {
    run(&ctx, EventHook::Recvmsg4, receive::<V4>)
}

#[cgroup_sock_addr(recvmsg6)]
pub fn recvmsg6(ctx: SockAddrContext) -> i32 {
    run(&ctx, EventHook::Recvmsg6, receive::<V6>)
}
