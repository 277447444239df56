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
        chaos.args(args.json.then_some("--json"));
        if let Some(other) = &args.other {
            chaos.arg("--other").arg(other);
        }
    })
}
