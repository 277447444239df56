//! The toolchain of people who build eBPF in Rust already: rustup's nightly with rust-src, and bpf-linker.

use std::{collections::BTreeMap, path::Path, process::Command};

use super::{SETUP_VERSION, Toolchain};
use crate::shell::{on_path, run_quiet};

/// That toolchain, if the machine has all three parts.
pub fn find() -> Option<Toolchain> {
    let linker = on_path("bpf-linker")?;
    let rustup = on_path("rustup")?;
    let sysroot =
        run_quiet(Command::new(&rustup).args(["run", "nightly", "rustc", "--print", "sysroot"])).ok()?;
    let library = Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library");
    if !library.is_dir() {
        return None;
    }
    Some(Toolchain {
        version: SETUP_VERSION,
        origin: "rustup nightly with rust-src, bpf-linker on the PATH".to_owned(),
        cargo: rustup.clone(),
        cargo_args: ["run", "nightly", "cargo"].map(str::to_owned).to_vec(),
        envs: BTreeMap::new(),
        files: vec![rustup, linker, library],
        bin: None,
        tools: Default::default(),
    })
}
