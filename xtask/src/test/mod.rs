//! `cargo xtask test`: everything that can be tested on this machine's kernel.

use std::{process::Command, time::Instant};

use anyhow::{Result, bail};

use crate::{
    build, image, kernels,
    setup::{self, Toolchain},
    shell::{cargo, run as run_command, workspace},
    verify,
};

pub mod binaries;
pub mod tally;

/// Deadlines are this many times as long as on a machine that does nothing else.
const PATIENCE: &str = "2";

/// What to run.
#[derive(clap::Args)]
pub struct Args {
    /// Only tests whose name, or whose file's, contains one of these words; `image` builds the image, twice, and tests that
    /// alone; with --kernels, versions of kernels such as 6.1, and words of the rows to try
    filter: Vec<String>,
    /// The core of the tests on Debian's kernels, each in an emulated machine
    #[arg(long)]
    kernels: bool,
    /// With --kernels: puts the result into README's table, and what programs cost the verifier into `xtask/verified.json`
    #[arg(long, requires = "kernels")]
    write: bool,
    /// With --kernels: ends with one line of JSON, {"kernels": [{"kernel", "ok", "failed", ...}]}
    #[arg(long, requires = "kernels")]
    json: bool,
}

/// Builds the programs, then runs all tests; the test runner prints its own closing lines.
pub fn run(toolchain: &Toolchain, args: &Args) -> Result<()> {
    if args.kernels {
        return on_kernels(toolchain, args);
    }
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
    let validator = match setup::validator::ensure() {
        Ok(folder) => Some(folder),
        Err(error) if std::env::var_os("CI").is_some() => return Err(error),
        Err(error) => {
            eprintln!("the test of schemas will fail: {error:#}");
            None
        }
    };
    let prepare = |command: &mut Command| {
        command.env("SLUICE_BIN", &binary);
        if let Some(folder) = &validator {
            command.env("SLUICE_VALIDATOR", folder);
        }
        if std::env::var_os("SLUICE_PATIENCE").is_none() {
            command.env("SLUICE_PATIENCE", PATIENCE);
        }
        toolchain.tools.export(command);
    };
    if args.filter == ["image"] {
        return of_image(toolchain, prepare);
    }
    let tally = binaries::run(&binaries::build()?, &args.filter, prepare)?;
    println!("all tests: {} ({:.0} s)", tally.summary(), start.elapsed().as_secs_f32());
    match tally.failed() {
        _ if !tally.ran() => {
            bail!("no test, and no file of tests, has a word of {:?} in its name", args.filter)
        }
        [] => Ok(()),
        failed => bail!("{} failed:\n  {}", failed.len(), failed.join("\n  ")),
    }
}

fn of_image(toolchain: &Toolchain, prepare: impl Fn(&mut Command)) -> Result<()> {
    let image = image::run(toolchain, &image::Args::default())?;
    image::again::is_the_same(&image)?;
    let mut command = cargo();
    command
        .current_dir(workspace())
        .args(["test", "--package", "sluice-tests", "--features", "image", "--test", "image"])
        .env("SLUICE_IMAGE", image);
    prepare(&mut command);
    run_command(&mut command)
}

fn on_kernels(toolchain: &Toolchain, args: &Args) -> Result<()> {
    let is_version = |word: &&String| word.starts_with(|first: char| first.is_ascii_digit());
    let (versions, rows): (Vec<_>, Vec<_>) = args.filter.iter().partition(is_version);
    let owned = |words: Vec<&String>| words.into_iter().cloned().collect();
    let choice = kernels::Choice { versions: owned(versions), rows: owned(rows), write: args.write };
    let outcomes = kernels::run(toolchain, &choice)?;
    let counted = outcomes.iter().filter(|outcome| !outcome.verified.is_empty());
    let counted = counted.map(|outcome| (outcome.kernel.clone(), outcome.verified.clone())).collect();
    let held = if args.write { verify::write(counted) } else { verify::check(&counted) };
    // Whatever comes of it: scripts read this line.
    if args.json {
        println!("{}", serde_json::json!({ "kernels": outcomes }));
    }
    held?;
    match outcomes.iter().filter(|outcome| !outcome.ok).count() {
        0 => Ok(()),
        count => bail!("{count} of {} kernels failed", outcomes.len()),
    }
}
