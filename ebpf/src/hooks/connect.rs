//! cgroup/connect4 and connect6: every connect(2) of a socket in the cgroup.

use aya_ebpf::{macros::cgroup_sock_addr, programs::SockAddrContext};

use crate::socket::{V4, V6, connect, finish};

#[cgroup_sock_addr(connect4)]
pub fn connect4(ctx: SockAddrContext) -> i32 {
    finish(connect::<V4>(&ctx))
}

#[cgroup_sock_addr(connect6)]
pub fn connect6(ctx: SockAddrContext) -> i32 {
    finish(connect::<V6>(&ctx))
}
