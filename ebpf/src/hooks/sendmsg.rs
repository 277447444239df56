//! cgroup/sendmsg4 and sendmsg6: sendmsg(2) and sendto(2) of unconnected UDP sockets.

use aya_ebpf::{macros::cgroup_sock_addr, programs::SockAddrContext};

use crate::socket::{V4, V6, finish, send};

#[cgroup_sock_addr(sendmsg4)]
pub fn sendmsg4(ctx: SockAddrContext) -> i32 {
    finish(send::<V4>(&ctx))
}

#[cgroup_sock_addr(sendmsg6)]
pub fn sendmsg6(ctx: SockAddrContext) -> i32 {
    finish(send::<V6>(&ctx))
}
