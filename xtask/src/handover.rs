//! Turning into a program of `sluice-tests`: the demo, a bench. Ctrl-C then reaches that program alone.

use std::{os::unix::process::CommandExt as _, process::Command};

use anyhow::{Context as _, Result, bail};

use crate::{
    build,
    setup::Toolchain,
    shell::{cargo, run, workspace},
};

/// Builds everything and becomes `program` with the words that `words` adds. Returns only if something fails.
pub fn become_program(
    toolchain: &Toolchain,
    release: bool,
    program: &str,
    words: impl FnOnce(&mut Command),
) -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        bail!("this loads eBPF programs and makes network namespaces: run it as root");
    }
    let sluice = build::all(toolchain, release)?;
    let profile = if release { "release" } else { "dev" };
    run(cargo().current_dir(workspace()).args([
        "build",
        "--quiet",
        "--package",
        "sluice-tests",
        "--bins",
        "--profile",
        profile,
    ]))?;
    let mut command = Command::new(sluice.with_file_name(program));
    words(command.env("SLUICE_BIN", &sluice));
    let error = toolchain.tools.export(&mut command).exec();
    Err(error).with_context(|| format!("cannot start {program}"))
}
