//! Tar archives that are the same bytes for the same contents: no owner, no clock, the order given.

use anyhow::Result;
use tar::{Builder, EntryType, Header};

/// An archive in the making.
pub struct Tarball(Builder<Vec<u8>>);

impl Tarball {
    pub fn new() -> Self {
        Self(Builder::new(Vec::new()))
    }

    /// Adds a folder, which all may read.
    pub fn folder(&mut self, path: &str) -> Result<()> {
        self.add(&format!("{path}/"), EntryType::Directory, 0o755, &[])
    }

    /// Adds a file of root's with these permissions.
    pub fn file(&mut self, path: &str, mode: u32, bytes: &[u8]) -> Result<()> {
        self.add(path, EntryType::Regular, mode, bytes)
    }

    fn add(&mut self, path: &str, kind: EntryType, mode: u32, bytes: &[u8]) -> Result<()> {
        let mut header = Header::new_ustar();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(bytes.len() as u64);
        for set in [Header::set_uid, Header::set_gid, Header::set_mtime] {
            set(&mut header, 0);
        }
        Ok(self.0.append_data(&mut header, path, bytes)?)
    }

    /// The finished archive.
    pub fn bytes(self) -> Result<Vec<u8>> {
        Ok(self.0.into_inner()?)
    }
}
