//! `cargo xtask build`: the eBPF object first, then the binary that embeds it.

use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::{
    setup::Toolchain,
    shell::{cargo, run, workspace},
};

/// Where the agent's build script looks for the object, relative to the workspace.
const OBJECT: &str = "target/ebpf/sluice.o";

/// Builds both; returns the path of `sluice`.
pub fn all(toolchain: &Toolchain, release: bool) -> Result<PathBuf> {
    ebpf(toolchain)?;
    let profile = if release { "release" } else { "dev" };
    run(cargo().current_dir(workspace()).args(["build", "--package", "sluice", "--profile", profile]))?;
    Ok(workspace().join("target").join(if release { "release" } else { "debug" }).join("sluice"))
}

/// Compiles `ebpf/` and puts the object where the agent embeds it from.
pub fn ebpf(toolchain: &Toolchain) -> Result<()> {
    let target = workspace().join("target/ebpf/build");
    run(toolchain
        .cargo()
        .current_dir(workspace())
        .args(["build", "--quiet", "--release", "--package", "sluice-ebpf", "--target", "bpfel-unknown-none"])
        .args(["-Z", "build-std=core"])
        .arg("--target-dir")
        .arg(&target)
        .env("RUSTFLAGS", "-C debuginfo=2 -C link-arg=--btf"))?;
    let built = target.join("bpfel-unknown-none/release/sluice");
    let object = workspace().join(OBJECT);
    let bytes = std::fs::read(&built).with_context(|| format!("cannot read {}", built.display()))?;
    // An unchanged object keeps its time stamp, so that cargo does not build the agent again.
    if std::fs::read(&object).ok().as_deref() != Some(&bytes) {
        std::fs::write(&object, bytes).with_context(|| format!("cannot write {}", object.display()))?;
    }
    Ok(())
}
