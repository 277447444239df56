//! `cargo xtask chaos`, after it has built everything.

use std::{path::PathBuf, process::ExitCode};

use clap::Parser;
use sluice_tests::chaos;

/// Long sessions through everything that happens to a node.
#[derive(Parser)]
struct Args {
    /// Ends with one line of JSON
    #[arg(long)]
    json: bool,
    /// The `sluice` to upgrade to and downgrade from, such as an earlier release
    #[arg(long)]
    other: Option<PathBuf>,
}

fn main() -> ExitCode {
    let args = Args::parse();
    match chaos::run(args.other, |what| eprintln!("  … {what}")) {
        Ok(report) => {
            print!("{}", report.text());
            if args.json {
                println!("{}", report.json());
            }
            if report.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
