//! sk_lookup: packets for this node that belong to no connection yet.

use aya_ebpf::{macros::sk_lookup, programs::SkLookupContext};

use crate::steer::steer;

#[sk_lookup]
pub fn steer_lookup(ctx: SkLookupContext) -> u32 {
    steer(&ctx)
}
