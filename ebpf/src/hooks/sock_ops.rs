//! cgroup/sock_ops: what happens to TCP connections. Attached only where bytes are to be counted.

use aya_ebpf::{macros::sock_ops, programs::SockOpsContext};

use crate::bytes;

#[sock_ops]
pub fn count_bytes(ctx: SockOpsContext) -> u32 {
    bytes::follow(&ctx);
    // Others at this hook say what they want.
    1
}
