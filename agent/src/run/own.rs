//! This program, to be started once more.

use std::{os::unix::process::CommandExt as _, process::Command};

/// Starts this very program. Not by its path, at which an upgrade may have put another one meanwhile, or nothing.
pub fn program() -> Command {
    let mut command = Command::new("/proc/self/exe");
    command.arg0("sluice");
    command
}
