//! `cargo xtask chaos`: builds everything, then becomes chaos.

use std::path::PathBuf;

use anyhow::Result;

use crate::{handover::become_program, setup::Toolchain};

/// What happens.
#[derive(clap::Args)]
pub struct Args {
    /// Ends with one line of JSON: {"sessions", "lost", "lostInFlight", "events": [...]}
    #[arg(long)]
    json: bool,
    /// The `sluice` to upgrade to and downgrade from, such as an earlier release
    #[arg(long)]
    other: Option<PathBuf>,
}

/// Does not return unless something fails.
pub fn run(toolchain: &Toolchain, args: &Args) -> Result<()> {
    become_program(toolchain, false, "sluice-chaos", |chaos| {
        // All that goes on meanwhile is load.
        if std::env::var_os("SLUICE_PATIENCE").is_none() {
            chaos.env("SLUICE_PATIENCE", "3");
        }
        chaos.args(args.json.then_some("--json"));
        if let Some(other) = &args.other {
            chaos.arg("--other").arg(other);
        }
    })
}
