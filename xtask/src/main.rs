//! `cargo xtask`: the only entry point for building, testing and showing Sluice.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod audit;
mod bench;
mod build;
mod chaos;
mod crds;
mod demo;
mod docs;
mod fuzz;
mod handover;
mod image;
mod kernels;
mod lint;
mod setup;
mod shell;
mod test;
mod verify;

/// Builds, tests and shows Sluice. Every command does its own set-up.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Gets what the eBPF build and the tests need, into `.toolchain/`
    Setup,
    /// Builds the eBPF programs and the `sluice` binary
    Build {
        /// Optimised, at `target/release/sluice`
        #[arg(long)]
        release: bool,
    },
    /// Runs every test: units, goldens, properties and worlds of network namespaces (needs root)
    Test(test::Args),
    /// Shows a small shop on one node whose Services only our eBPF programs translate (needs root)
    Demo(demo::Args),
    /// Measures on this machine; prints each target as met or missed (needs root)
    Bench(bench::Args),
    /// Long sessions through kills, upgrades, lost API servers; tells what was lost (needs root)
    Chaos(chaos::Args),
    /// A million random packets through the programs, and a million random dials against the reference model (needs root)
    Fuzz(fuzz::Args),
    /// What the eBPF programs cost the kernel's verifier, against `xtask/verified.json` (needs root)
    Verify(verify::Args),
    /// Writes an OCI archive with a static binary, from scratch and without a container engine
    Image(image::Args),
    /// Writes the definitions of rule objects to `deploy/crds/`, from the types that read them
    Crds,
    /// Writes the page of commands and flags to `docs/commands.md`, from the code
    Docs,
    /// Formatter and lints, as CI runs them
    Lint,
    /// Licences, sources and known weaknesses of the crates, as CI asks for them, without a network
    Audit(audit::Args),
}

fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Setup => setup::ensure().and_then(|_| setup::validator::ensure()).map(drop),
        Command::Build { release } => build::all(&setup::ensure()?, release).map(drop),
        Command::Test(args) => test::run(&setup::ensure()?, &args),
        Command::Demo(args) => demo::run(&setup::ensure()?, &args),
        Command::Bench(args) => bench::run(&setup::ensure()?, &args),
        Command::Chaos(args) => chaos::run(&setup::ensure()?, &args),
        Command::Fuzz(args) => fuzz::run(&setup::ensure()?, &args),
        Command::Verify(args) => verify::run(&setup::ensure()?, &args),
        Command::Image(args) => image::run(&setup::ensure()?, &args).map(drop),
        Command::Crds => crds::run(&setup::ensure()?),
        Command::Docs => docs::run(&setup::ensure()?),
        Command::Lint => lint::run(),
        Command::Audit(args) => audit::run(&args),
    }
}

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
