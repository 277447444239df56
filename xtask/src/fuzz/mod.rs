//! `cargo xtask fuzz`: the random tests of the packet path, for long; and the targets that coverage guides.

use std::{
    path::PathBuf,
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::{Result, bail};

use crate::{
    build,
    setup::Toolchain,
    shell::{cargo, run as run_command, workspace},
};

mod targets;

/// Dials of the packet model in each state of the cluster.
const DIALS: u64 = 20;

/// What, and how long.
#[derive(clap::Args)]
pub struct Args {
    /// Packets, and dials of the model
    #[arg(long, default_value_t = 1_000_000)]
    cases: u64,
    /// Repeats a run [default: the time]
    #[arg(long)]
    seed: Option<u64>,
    /// Instead of packets the parsers and the compiler of rules, under the guidance of coverage (libFuzzer; needs no root)
    #[arg(long, conflicts_with = "cases")]
    targets: bool,
    /// With --targets, only these: folders of `fuzz/corpus`
    #[arg(requires = "targets")]
    names: Vec<String>,
    /// With --targets, how long each runs
    #[arg(long, requires = "targets", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..))]
    seconds: u32,
    /// With --targets and one name: this input alone, as a failure wrote it
    #[arg(long, requires = "names", value_name = "FILE", conflicts_with = "seconds")]
    input: Option<PathBuf>,
}

/// What was asked for.
pub fn run(toolchain: &Toolchain, args: &Args) -> Result<()> {
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |since| since.as_secs());
    let seed = args.seed.unwrap_or_else(now);
    if args.targets { targets::run(toolchain, args, seed) } else { packets(toolchain, args.cases, seed) }
}

/// Packets as nobody ought to send them, then random clusters against the reference model. Each prints its seed and what it
/// met how often; the first difference ends it, with the case.
fn packets(toolchain: &Toolchain, cases: u64, seed: u64) -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        bail!("this loads eBPF programs and makes network namespaces: run it as root");
    }
    let binary = build::all(toolchain, false)?;
    for (test, variable, count) in
        [("packet_fuzz", "SLUICE_CASES", cases), ("packet_model", "SLUICE_STATES", cases.div_ceil(DIALS))]
    {
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
        command.env("SLUICE_SEED", seed.to_string()).env(variable, count.to_string());
        run_command(toolchain.tools.export(&mut command))?;
    }
    eprintln!("{cases} cases of each, seed {seed}: no difference");
    Ok(())
}
