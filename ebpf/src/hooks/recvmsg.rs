//! cgroup/recvmsg4 and recvmsg6: recvmsg(2) and recvfrom(2) of UDP sockets, after the datagram came.

use aya_ebpf::{macros::cgroup_sock_addr, programs::SockAddrContext};

use crate::socket::{V4, V6, finish, receive};

#[cgroup_sock_addr(recvmsg4)]
pub fn recvmsg4(ctx: SockAddrContext) -> i32 {
    finish(receive::<V4>(&ctx))
}

#[cgroup_sock_addr(recvmsg6)]
pub fn recvmsg6(ctx: SockAddrContext) -> i32 {
    finish(receive::<V6>(&ctx))
}
