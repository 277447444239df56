//! cgroup/connect4 and connect6: every connect(2) of a socket in the cgroup.

use aya_ebpf::{macros::cgroup_sock_addr, programs::SockAddrContext};
use sluice_common::layout::EventHook;

use crate::{
    family::{V4, V6},
    socket::{connect, run},
};

#[cgroup_sock_addr(connect4)]
pub fn connect4(ctx: SockAddrContext) -> i32 {
    run(&ctx, EventHook::Connect4, connect::<V4>)
}

#[cgroup_sock_addr(connect6)]
pub fn connect6(ctx: SockAddrContext) -> i32 {
    run(&ctx, EventHook::Connect6, connect::<V6>)
}
