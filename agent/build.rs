//! Embeds the eBPF object that `cargo xtask build` left; an empty one otherwise, so that the pure parts of the
//! agent build and test with plain cargo.

use std::{env, fs, path::PathBuf};

fn main() {
    let manifest = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default());
    let object = manifest.join("../target/ebpf/sluice.o");
    println!("cargo::rerun-if-changed={}", object.display());
    let bytes = fs::read(&object).unwrap_or_default();
    let target = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default()).join("sluice.o");
    if let Err(error) = fs::write(&target, bytes) {
        println!("cargo::error=cannot write {}: {error}", target.display());
    }
}
