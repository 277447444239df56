//! `cargo xtask bench NAME`: builds everything optimised, then becomes the bench.

use anyhow::Result;

use crate::{handover::become_program, setup::Toolchain};

/// What to measure.
#[derive(clap::Args)]
pub struct Args {
    /// east-west, l7, north-south, packet, scale
    name: String,
    /// Of north-south, only these: plain, empty-xdp, iptables, nftables, tc, xdp; of l7: memory, http1, http2
    ways: Vec<String>,
    /// Ends with one line of JSON: {"bench", "targets": [...], "runs": [...]}
    #[arg(long)]
    json: bool,
}

/// Does not return unless something fails.
pub fn run(toolchain: &Toolchain, args: &Args) -> Result<()> {
    become_program(toolchain, true, "sluice-bench", |bench| {
        bench.arg(&args.name).args(&args.ways).args(args.json.then_some("--json"));
    })
}
