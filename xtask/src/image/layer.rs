//! The only layer: the binary, its licence, and how names are resolved.

use std::io::Write as _;

use anyhow::Result;
use flate2::{Compression, GzBuilder};

use super::tarball::Tarball;

/// Where the binary lies; the image's PATH has its folder.
pub const BINARY: &str = "usr/bin/sluice";

/// A layer as registries want it.
pub struct Layer {
    /// Tar, not compressed.
    pub tar: Vec<u8>,
    /// The same in gzip.
    pub compressed: Vec<u8>,
}

/// Packs the root file system.
pub fn layer(binary: &[u8], licence: &[u8]) -> Result<Layer> {
    let mut tar = Tarball::new();
    for folder in ["etc", "usr", "usr/bin", "usr/share", "usr/share/doc", "usr/share/doc/sluice"] {
        tar.folder(folder)?;
    }
    // The kubelet's file first, then DNS; without this file a C library does as it was built.
    tar.file("etc/nsswitch.conf", 0o644, b"hosts: files dns\n")?;
    tar.file(BINARY, 0o755, binary)?;
    tar.file("usr/share/doc/sluice/LICENSE", 0o644, licence)?;
    let tar = tar.bytes()?;
    let mut gzip = GzBuilder::new().mtime(0).write(Vec::new(), Compression::default());
    gzip.write_all(&tar)?;
    Ok(Layer { compressed: gzip.finish()?, tar })
}
