//! cgroup/post_bind4 and post_bind6: bind(2), once the port is known.

use aya_ebpf::{macros::cgroup_sock, programs::SockContext};

use crate::{
    bind::protect,
    family::{V4, V6},
};

#[cgroup_sock(post_bind4)]
pub fn post_bind4(ctx: SockContext) -> i32 {
    protect::<V4>(&ctx)
}

#[cgroup_sock(post_bind6)]
pub fn post_bind6(ctx: SockContext) -> i32 {
    protect::<V6>(&ctx)
}
