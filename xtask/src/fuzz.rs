//! `cargo xtask fuzz`: the random tests of the packet path, for long.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Result, bail};

use crate::{
    build,
    setup::Toolchain,
    shell::{cargo, run as run_command, workspace},
};

/// Dials of the packet model in each state of the cluster.
const DIALS: u64 = 20;

/// How long.
#[derive(clap::Args)]
pub struct Args {
    /// Packets, and dials of the model
    #[arg(long, default_value_t = 1_000_000)]
    cases: u64,
    /// Repeats a run [default: the time]
    #[arg(long)]
    seed: Option<u64>,
}

/// Packets as nobody ought to send them, then random clusters against the reference model. Each prints its seed and what it
/// met how often; the first difference ends it, with the case.
pub fn run(toolchain: &Toolchain, args: &Args) -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        bail!("this loads eBPF programs and makes network namespaces: run it as root");
    }
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |since| since.as_secs());
    let seed = args.seed.unwrap_or_else(now).to_string();
    let binary = build::all(toolchain, false)?;
    for (test, variable, count) in [
        ("packet_fuzz", "SLUICE_CASES", args.cases),
        ("packet_model", "SLUICE_STATES", args.cases.div_ceil(DIALS)),
    ] {
        let mut command = cargo();
        command.current_dir(workspace()).args([
            "test",
            "--quiet",
            "--package",
            "sluice-tests",
            "--test",
            test,
        ]);
        command.args(["--", "--nocapture"]).env("SLUICE_BIN", &binary);
        command.env("SLUICE_SEED", &seed).env(variable, count.to_string());
        run_command(toolchain.tools.export(&mut command))?;
    }
    eprintln!("{} cases of each, seed {seed}: no difference", args.cases);
    Ok(())
}
