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
    match segments(binary).context("the binary is not of ELF, 64 bits, little endian")?.contains(&PT_INTERP) {
        true => bail!("the binary is not static: it asks for a dynamic loader"),
        false => Ok(()),
    }
}

/// A segment with the path of a dynamic loader; elf(5).
const PT_INTERP: u32 = 3;

/// Types of a binary's segments, by its program headers; elf(5).
fn segments(binary: &[u8]) -> Option<Vec<u32>> {
    if !binary.starts_with(b"\x7fELF\x02\x01") {
        return None;
    }
    let number = |at: usize, length: usize| {
        let bytes = binary.get(at..at.checked_add(length)?)?;
        bytes.iter().rev().try_fold(0_usize, |sum, byte| Some(sum.checked_mul(256)? + usize::from(*byte)))
    };
    let (first, size, count) = (number(32, 8)?, number(54, 2)?, number(56, 2)?);
    let header = |index: usize| number(first.checked_add(index * size)?, 4).map(|kind| kind as u32);
    (0..count).map(header).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A binary with segments of these types.
    fn binary(types: &[u32]) -> Vec<u8> {
        const HEADER: usize = 64;
        const SEGMENT: usize = 56;
        let mut bytes = vec![0; HEADER + types.len() * SEGMENT];
        bytes[..6].copy_from_slice(b"\x7fELF\x02\x01");
        (bytes[32], bytes[54], bytes[56]) = (HEADER as u8, SEGMENT as u8, types.len() as u8);
        for (index, kind) in types.iter().enumerate() {
            bytes[HEADER + index * SEGMENT] = *kind as u8;
        }
        bytes
    }

    #[test]
    fn a_binary_that_needs_a_loader_is_refused_whatever_its_name_is() {
        assert!(is_static(&binary(&[6, PT_INTERP, 1])).is_err());
        assert!(is_static(&binary(&[6, 1, 2])).is_ok());
        let mut cut = binary(&[1, PT_INTERP]);
        cut.truncate(70);
        for nonsense in [b"\x7fELF".as_slice(), b"#!/bin/sh", &cut] {
            assert!(is_static(nonsense).is_err());
        }
        // What runs this test has one, on every machine that has a C library of its own.
        let own = fs::read(std::env::current_exe().expect("this program")).expect("a file");
        assert!(is_static(&own).is_err());
    }
}
