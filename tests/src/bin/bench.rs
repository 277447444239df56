//! `cargo xtask bench`, after it has built everything.

use std::process::ExitCode;

use clap::Parser;
use sluice_tests::bench;

/// Measures on this machine; prints each target as met or missed.
#[derive(Parser)]
struct Args {
    /// What to measure: east-west, l7, north-south, packet, scale
    name: String,
    /// Of north-south, only these: plain, empty-xdp, iptables, nftables, tc, xdp; of l7: memory, http1, http2
    ways: Vec<String>,
    /// Ends with one line of JSON
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    // This program again, in a pod, as one of its clients.
    if args.name == "hold" {
        return match bench::hold(&args.ways) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                println!("{error:#}");
                ExitCode::FAILURE
            }
        };
    }
    let say = |what: &str| eprintln!("  … {what}");
    let results = match args.name.as_str() {
        "east-west" => bench::east_west(say),
        "l7" => bench::l7(&args.ways, say),
        "north-south" => bench::north_south(&args.ways, say),
        "packet" => bench::packet(say),
        "scale" => bench::scale(say),
        other => {
            eprintln!(
                "error: there is no bench {other:?}; there are east-west, l7, north-south, packet and scale"
            );
            return ExitCode::from(2);
        }
    };
    match results {
        Ok(results) => {
            print!("{}", results.table());
            if args.json {
                println!("{}", results.json());
            }
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
