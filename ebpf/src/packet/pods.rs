//! Whether any connection is remembered that programs at pods' devices must know. On most nodes none is, for sockets' hooks
//! translate what pods dial: then their packets are let go without a look into `FLOWS`.

use sluice_common::layout::{CONFIG_NO_POD_FLOWS, CONFIG_POD_FLOWS, HOOKS_OF_PODS};

use crate::{maps::CONFIG, raw};

/// Whether an entry of `FLOWS` may count at this hook.
#[inline(always)]
pub fn may_know(hook: u8) -> bool {
    let at = |index| CONFIG.get(index).copied().unwrap_or(0);
    hook & HOOKS_OF_PODS == 0 || at(CONFIG_POD_FLOWS) >= at(CONFIG_NO_POD_FLOWS)
}

/// Says that a connection begins whose entries, which are yet to be stored, count at these hooks.
#[inline(always)]
pub fn begin(hooks: u8, now_ns: u64) {
    if hooks & HOOKS_OF_PODS != 0 {
        raw::set_config(CONFIG_POD_FLOWS, now_ns);
    }
}
