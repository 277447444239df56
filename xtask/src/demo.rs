//! `cargo xtask demo`: builds everything, then becomes the demo.

use anyhow::Result;

use crate::{handover::become_program, setup::Toolchain, shell::workspace};

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

/// Does not return unless something fails.
pub fn run(toolchain: &Toolchain, args: &Args) -> Result<()> {
    become_program(toolchain, false, "sluice-demo", |demo| {
        demo.arg(workspace().join("deploy/examples/shop"));
        demo.args(args.json.then_some("--json")).args(args.keep.then_some("--keep"));
    })
}
