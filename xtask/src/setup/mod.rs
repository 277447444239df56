//! `cargo xtask setup`: a toolchain that compiles eBPF, and the programs that tests and demo run.
//!
//! What the machine has is used; the rest is unpacked into `.toolchain/`. Nothing is installed
//! system-wide and the user's default toolchain is not touched.

use std::{collections::BTreeMap, path::PathBuf, process::Command};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::shell::{on_path, workspace};

mod debian;
mod rustup;
mod tools;
pub mod validator;

pub use debian::{Apt, library_path};

/// Raised when a newer xtask needs another set-up than an older one left.
const SETUP_VERSION: u32 = 1;

/// What compiles `ebpf/` on this machine. Kept in `.toolchain/ready.json`.
#[derive(Serialize, Deserialize, Debug)]
pub struct Toolchain {
    version: u32,
    /// One line for people: where it comes from.
    pub origin: String,
    cargo: PathBuf,
    cargo_args: Vec<String>,
    envs: BTreeMap<String, String>,
    files: Vec<PathBuf>,
    /// Goes before the caller's PATH.
    bin: Option<PathBuf>,
    /// Programs for tests and demo that were not on the PATH: name → file.
    pub tools: tools::Tools,
}

impl Toolchain {
    /// A cargo that can build for `bpfel-unknown-none`.
    pub fn cargo(&self) -> Command {
        let mut command = Command::new(&self.cargo);
        // A cargo started by cargo inherits settings meant for the other toolchain.
        for name in ["CARGO", "RUSTC", "RUSTUP_TOOLCHAIN", "RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "RUSTDOC"]
        {
            command.env_remove(name);
        }
        command.args(&self.cargo_args).envs(&self.envs);
        if let Some(bin) = &self.bin {
            let rest = std::env::var("PATH").unwrap_or_default();
            command.env("PATH", format!("{}:{rest}", bin.display()));
        }
        command
    }

    /// Where a program of [`tools`] is, and what it wants as `LD_LIBRARY_PATH`.
    pub fn tool(&self, name: &str) -> Option<(&std::path::Path, Option<&str>)> {
        self.tools.find(name)
    }

    fn compiles(&self) -> bool {
        self.version == SETUP_VERSION && self.files.iter().all(|file| file.exists())
    }
}

/// The folder of the project that set-up fills; `SLUICE_TOOLCHAIN` shares one among clones.
pub fn folder() -> PathBuf {
    std::env::var_os("SLUICE_TOOLCHAIN").map_or_else(|| workspace().join(".toolchain"), PathBuf::from)
}

/// Finds or makes everything that building and testing need. Repeatable; quick when all is there.
pub fn ensure() -> Result<Toolchain> {
    let folder = folder();
    let ready = folder.join("ready.json");
    let earlier = std::fs::read_to_string(&ready).ok();
    let earlier = earlier.and_then(|text| serde_json::from_str::<Toolchain>(&text).ok());
    let earlier = earlier.filter(Toolchain::compiles);
    let earlier = match earlier {
        Some(toolchain) if toolchain.tools.are_there() => return Ok(toolchain),
        compiler => compiler,
    };
    eprintln!("setting up (once; kept in {})", folder.display());
    std::fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let found = earlier.or_else(rustup::find);
    let mut toolchain = found.map_or_else(|| debian::install(&folder), Ok)?;
    toolchain.tools = tools::ensure(&folder)?;
    eprintln!("  toolchain for eBPF: {}", toolchain.origin);
    std::fs::write(&ready, serde_json::to_string_pretty(&toolchain)?)
        .with_context(|| format!("cannot write {}", ready.display()))?;
    Ok(toolchain)
}

/// What to tell somebody whose machine can be set up neither way.
fn other_ways() -> String {
    let have = |name: &str| if on_path(name).is_some() { "found" } else { "missing" };
    format!(
        "building eBPF needs one of\n  \
         - rustup ({}) with `rustup toolchain install nightly --component rust-src`, and bpf-linker ({}) \
         from `cargo install bpf-linker`\n  \
         - Debian 12 or later with apt-get ({}) and dpkg ({}) and its package archive within reach",
        have("rustup"),
        have("bpf-linker"),
        have("apt-get"),
        have("dpkg")
    )
}
