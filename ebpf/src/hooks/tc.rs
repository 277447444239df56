//! tc: packets at the node's devices and at those of its pods.

use aya_ebpf::{macros::classifier, programs::TcContext};
use sluice_common::layout::{HOOK_FROM_NETWORK, HOOK_FROM_POD, HOOK_TO_NETWORK, HOOK_TO_POD};

use crate::{packet::handle, raw::skb::Skb};

/// What comes in by a device of the node.
#[classifier]
pub fn from_network(ctx: TcContext) -> i32 {
    let skb = Skb::new(&ctx);
    let ethertype = if skb.is_for_us() { skb.ethertype() } else { None };
    Skb::code(handle(skb, ethertype.unwrap_or(0), HOOK_FROM_NETWORK))
}

/// What goes out by a device of the node.
#[classifier]
pub fn to_network(ctx: TcContext) -> i32 {
    let skb = Skb::new(&ctx);
    let ethertype = if skb.is_done() { None } else { skb.ethertype() };
    Skb::code(handle(skb, ethertype.unwrap_or(0), HOOK_TO_NETWORK))
}

/// What a pod sends.
#[classifier]
pub fn from_pod(ctx: TcContext) -> i32 {
    let skb = Skb::new(&ctx);
    Skb::code(handle(skb, skb.ethertype().unwrap_or(0), HOOK_FROM_POD))
}

/// What a pod gets.
#[classifier]
pub fn to_pod(ctx: TcContext) -> i32 {
    let skb = Skb::new(&ctx);
    Skb::code(handle(skb, skb.ethertype().unwrap_or(0), HOOK_TO_POD))
}
