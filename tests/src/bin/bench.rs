//! `cargo xtask bench`, after it has built everything.

use std::process::ExitCode;

use clap::Parser;
use sluice_tests::bench;

/// Measures on this machine; prints each target as met or missed.
#[derive(Parser)]
struct Args {
    /// What to measure: east-west
    name: String,
    /// Ends with one line of JSON
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    if args.name != "east-west" {
        eprintln!("error: there is no bench {:?}; there is east-west", args.name);
        return ExitCode::from(2);
    }
    match bench::east_west(|what| eprintln!("  … {what}")) {
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
