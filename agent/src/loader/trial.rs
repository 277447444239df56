//! Trying the programs on this kernel, without pins and without attaching any.

use anyhow::{Context as _, Result, bail};
use aya::EbpfLoader;

use crate::capabilities::Capabilities;

use super::{OBJECT, checks, programs};

/// What the kernel said to a program.
#[derive(Clone, Debug)]
pub struct Trial {
    /// Its name.
    pub program: &'static str,
    /// How many instructions the verifier walked through, or why it refused. 0 where the kernel does not tell (before
    /// Linux 5.16).
    pub verified: Result<u32, String>,
}

/// Loads each program and lets it go again.
///
/// # Errors
/// The machine lacks what loading needs, or a map cannot be made.
pub fn trial() -> Result<Vec<Trial>> {
    if OBJECT.is_empty() {
        bail!("this binary was built without its eBPF programs; build it with `cargo xtask build`");
    }
    Capabilities::effective()?.for_loading()?;
    checks::kernel()?;
    let mut ebpf = EbpfLoader::new().load(OBJECT).context("cannot load the eBPF object")?;
    programs::names()
        .map(|name| {
            let program = programs::program(&mut ebpf, name)?;
            let verified = match programs::load_one(program) {
                Ok(()) => Ok(program.info()?.verified_instruction_count().unwrap_or(0)),
                Err(error) => Err(format!("{error:#}")),
            };
            Ok(Trial { program: name, verified })
        })
        .collect()
}
