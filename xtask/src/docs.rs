//! `cargo xtask docs`: the page of commands and flags, made anew.

use std::{fs, process::Command};

use anyhow::{Context as _, Result};

use crate::{
    build,
    setup::Toolchain,
    shell::{run_quiet, workspace},
};

/// Writes it; a test of the agent says when it is stale.
pub fn run(toolchain: &Toolchain) -> Result<()> {
    let sluice = build::all(toolchain, false)?;
    // Variables of this shell are not what the page is about.
    let text = run_quiet(Command::new(&sluice).arg("reference").env_clear())?;
    let file = workspace().join("docs/commands.md");
    fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))?;
    println!("{}", file.display());
    Ok(())
}
