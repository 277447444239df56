//! `cargo xtask image`: an OCI archive from scratch with one static binary. No container engine, no base image, no root.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};

use crate::{
    build,
    setup::Toolchain,
    shell::{step, workspace},
};

pub mod again;
mod layer;
mod layout;
mod tarball;

/// What the manifests in `deploy/` call the image, before anybody puts a registry in front.
pub const NAME: &str = concat!("localhost/sluice:", env!("CARGO_PKG_VERSION"));
/// Nodes fetch it, some over thin lines.
const LARGEST_BYTES: u64 = 30_000_000;

/// Where to.
#[derive(clap::Args, Default)]
pub struct Args {
    /// The archive [default: `target/image/sluice.tar`]
    #[arg(long)]
    to: Option<PathBuf>,
}

/// Builds the binary, packs it, says what came out. Returns the archive's path.
pub fn run(toolchain: &Toolchain, args: &Args) -> Result<PathBuf> {
    let binary = build::portable(toolchain)?;
    let archive = args.to.clone().unwrap_or_else(|| workspace().join("target/image/sluice.tar"));
    let digest = step("image", || pack(&binary, &archive))?;
    let bytes = fs::metadata(&archive)?.len();
    println!("{}\n{NAME}\n{digest}\n{:.1} MB", archive.display(), bytes as f64 / 1e6);
    if bytes > LARGEST_BYTES {
        bail!("the image has {bytes} bytes; wanted are at most {LARGEST_BYTES}");
    }
    Ok(archive)
}

/// Writes the archive; returns the digest of the image's manifest.
fn pack(binary: &Path, archive: &Path) -> Result<String> {
    let binary = fs::read(binary).with_context(|| format!("cannot read the binary {}", binary.display()))?;
    is_static(&binary)?;
    let licence = fs::read(workspace().join("LICENSE")).context("cannot read LICENSE")?;
    let (bytes, digest) = layout::archive(&layer::layer(&binary, &licence)?)?;
    fs::write(archive, bytes).with_context(|| format!("cannot write {}", archive.display()))?;
    Ok(digest)
}

/// Refuses a binary that asks for a loader: there is none in the image.
fn is_static(binary: &[u8]) -> Result<()> {
    if binary.windows(LOADER.len()).any(|window| window == LOADER) {
        bail!("the binary is not static: it asks for a dynamic loader");
    }
    Ok(())
}

/// How the path of a dynamic loader begins, wherever the binary's interpreter is.
const LOADER: &[u8] = b"/lib64/ld-linux";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_binary_that_needs_a_loader_is_refused() {
        assert!(is_static(b"\x7fELF.../lib64/ld-linux-x86-64.so.2...").is_err());
        assert!(is_static(b"\x7fELF...").is_ok());
    }
}
