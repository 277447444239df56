//! `cargo xtask test`: everything that can be tested on this machine's kernel.

use std::time::Instant;

use anyhow::{Result, bail};

use crate::{
    build,
    setup::Toolchain,
    shell::{cargo, run as run_command, workspace},
};

/// What to run.
#[derive(clap::Args)]
pub struct Args {
    /// Only tests whose name contains this
    filter: Option<String>,
}

/// Builds the programs, then runs all tests; the test runner prints its own closing lines.
pub fn run(toolchain: &Toolchain, args: &Args) -> Result<()> {
    let start = Instant::now();
    if !rustix::process::geteuid().is_root() {
        bail!("the tests load eBPF programs and make network namespaces: run them as root");
    }
    if std::env::var_os("KUBEBUILDER_ASSETS").is_none() {
        eprintln!(
            "KUBEBUILDER_ASSETS names no folder with kube-apiserver and etcd: only the test API server is used"
        );
    }
    let binary = build::all(toolchain, false)?;
    let mut command = cargo();
    command
        .current_dir(workspace())
        .args(["test", "--workspace", "--exclude", "sluice-ebpf", "--no-fail-fast"])
        .args(args.filter.as_ref())
        .env("SLUICE_BIN", binary);
    run_command(toolchain.tools.export(&mut command))?;
    eprintln!("all tests passed in {:.0} s", start.elapsed().as_secs_f32());
    Ok(())
}
