//! The `sluice` binary; everything is in the library.

fn main() -> std::process::ExitCode {
    sluice::cli::main()
}
