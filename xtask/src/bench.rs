//! `cargo xtask bench NAME`: builds everything optimised, then becomes the bench.

use std::{os::unix::process::CommandExt as _, process::Command};

use anyhow::{Context as _, Result, bail};

use crate::{
    build,
    setup::Toolchain,
    shell::{cargo, run as run_command, workspace},
};

/// What to measure.
#[derive(clap::Args)]
pub struct Args {
    /// east-west
    name: String,
    /// Ends with one line of JSON: {"bench", "targets": [...], "runs": [...]}
    #[arg(long)]
    json: bool,
}

/// Does not return unless something fails: this process turns into the bench.
pub fn run(toolchain: &Toolchain, args: &Args) -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        bail!("the benches load eBPF programs and make network namespaces: run them as root");
    }
    let sluice = build::all(toolchain, true)?;
    run_command(cargo().current_dir(workspace()).args([
        "build",
        "--quiet",
        "--release",
        "--package",
        "sluice-tests",
        "--bins",
    ]))?;
    let mut bench = Command::new(sluice.with_file_name("sluice-bench"));
    bench.env("SLUICE_BIN", &sluice).arg(&args.name).args(["--json"].iter().filter(|_| args.json));
    let error = toolchain.tools.export(&mut bench).exec();
    Err(error).context("cannot start the bench")
}
