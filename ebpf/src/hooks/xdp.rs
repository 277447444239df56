//! XDP: packets at the node's devices, as early as can be.

use aya_ebpf::{macros::xdp, programs::XdpContext};

use crate::{packet::handle_early, raw::xdp::Raw};

#[xdp]
pub fn early(ctx: XdpContext) -> u32 {
    Raw::code(handle_early(Raw::new(&ctx)))
}
