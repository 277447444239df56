//! libFuzzer around the target that `SLUICE_FUZZ` names.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use sluice_fuzz::{Target, chosen};

static TARGET: LazyLock<Target> = LazyLock::new(chosen);

fuzz_target!(|bytes: &[u8]| (TARGET.run)(bytes));
