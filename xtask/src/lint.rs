//! `cargo xtask lint`: formatter and clippy over everything that compiles for this machine.

use anyhow::Result;

use crate::shell::{cargo, run as run_command, workspace};

/// Fails on the first difference in format and on every lint.
pub fn run() -> Result<()> {
    run_cargo(&["fmt", "--all", "--check"])?;
    run_cargo(&[
        "clippy",
        "--quiet",
        "--workspace",
        "--exclude",
        "sluice-ebpf",
        "--all-targets",
        "--",
        "-D",
        "warnings",
    ])
}

fn run_cargo(words: &[&str]) -> Result<()> {
    run_command(cargo().current_dir(workspace()).args(words))
}
