//! `cargo xtask crds`: the committed definitions of rule objects, made anew.

use std::{fs, process::Command};

use anyhow::{Context as _, Result};

use crate::{
    build,
    setup::Toolchain,
    shell::{run_quiet, workspace},
};

/// Goes before each, in place of what a person would ask first.
const HEAD: &str = "# Written by `cargo xtask crds` from the types that read these objects. Do not edit.\n";

/// Writes one file for each; a test of the agent says when they are stale.
pub fn run(toolchain: &Toolchain) -> Result<()> {
    let sluice = build::all(toolchain, false)?;
    for plural in ["virtualservices", "destinationrules"] {
        let text = run_quiet(Command::new(&sluice).args(["crds", plural]))?;
        let file = workspace().join("deploy/crds").join(plural).with_extension("yaml");
        fs::write(&file, HEAD.to_owned() + &text)
            .with_context(|| format!("cannot write {}", file.display()))?;
        println!("{}", file.display());
    }
    Ok(())
}
