//! cgroup/getpeername4 and getpeername6: getpeername(2).

use aya_ebpf::{macros::cgroup_sock_addr, programs::SockAddrContext};

use crate::{
    family::{V4, V6},
    socket::{finish, peer},
};

#[cgroup_sock_addr(getpeername4)]
pub fn getpeername4(ctx: SockAddrContext) -> i32 {
    finish(peer::<V4>(&ctx))
}

#[cgroup_sock_addr(getpeername6)]
pub fn getpeername6(ctx: SockAddrContext) -> i32 {
    finish(peer::<V6>(&ctx))
}
