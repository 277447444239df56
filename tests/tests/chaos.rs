//! `cargo xtask chaos` says how many sessions were lost; that it would say so.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use sluice_tests::chaos;

#[test]
fn chaos_finds_sessions_of_every_kind_that_are_lost() {
    chaos::sabotage(|what| eprintln!("  … {what}")).unwrap();
}
