//! `cargo xtask demo`: builds everything, then becomes the demo.

use std::{os::unix::process::CommandExt as _, process::Command};

use anyhow::{Context as _, Result, bail};

use crate::{
    build,
    setup::Toolchain,
    shell::{cargo, run as run_command, workspace},
};

/// How to show it.
#[derive(clap::Args)]
pub struct Args {
    /// Ends with one line of JSON: {"rows": [...], "ok"}
    #[arg(long)]
    json: bool,
    /// Leaves everything running until Ctrl-C, and prints commands to look around
    #[arg(long)]
    keep: bool,
}

/// Does not return unless something fails: this process turns into the demo, so that Ctrl-C reaches it alone.
pub fn run(toolchain: &Toolchain, args: &Args) -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        bail!("the demo loads eBPF programs and makes network namespaces: run it as root");
    }
    let sluice = build::all(toolchain, false)?;
    run_command(cargo().current_dir(workspace()).args([
        "build",
        "--quiet",
        "--package",
        "sluice-tests",
        "--bins",
    ]))?;
    let mut demo = Command::new(sluice.with_file_name("sluice-demo"));
    demo.env("SLUICE_BIN", &sluice).arg(workspace().join("deploy/examples/shop"));
    demo.args(["--json"].iter().filter(|_| args.json)).args(["--keep"].iter().filter(|_| args.keep));
    let error = toolchain.tools.export(&mut demo).exec();
    Err(error).context("cannot start the demo")
}
