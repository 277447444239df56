//! The sock_ops program: attached to the cgroup only where bytes of Services are to be counted.

use std::{
    fs::{self, File},
    os::{fd::AsFd as _, unix::fs::MetadataExt as _},
};

use anyhow::{Result, bail};

use super::{COUNTING, Loaded, attach_one, programs::program};
use crate::{
    maps::{Pins, bpf::ServiceBytes},
    sys,
};

impl Loaded {
    /// What is counted, for the first who asks; `None` where nothing is.
    ///
    /// # Errors
    /// The map is of another kind than we think.
    pub fn take_bytes(&mut self) -> Result<Option<ServiceBytes>> {
        if !self.counts_bytes {
            return Ok(None);
        }
        self.ebpf.take_map(ServiceBytes::NAME).map(ServiceBytes::new).transpose()
    }

    /// Whether the cgroup has a program that counts if it should, and none if not.
    pub fn counts_as_wanted(&self) -> bool {
        let cgroup_id = fs::metadata(&self.cgroup).map(|folder| folder.ino()).ok();
        counted_cgroup(&self.pins) == cgroup_id.filter(|_| self.counts_bytes)
    }

    /// Makes the cgroup run this binary's program if bytes are to be counted, and none else.
    ///
    /// # Errors
    /// The kernel refuses; all else goes on.
    pub fn attach_counting(&mut self) -> Result<()> {
        let pin = self.pins.link(COUNTING);
        if self.counts_bytes {
            let folder = File::open(&self.cgroup)?;
            let cgroup_id = folder.metadata()?.ino();
            return attach_one(program(&mut self.ebpf, COUNTING)?, &pin, &folder, cgroup_id);
        }
        match fs::remove_file(&pin) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            Err(error) => bail!("cannot remove {}: {error}", pin.display()),
        }
    }
}

/// The cgroup (by inode number) whose connections are counted; `None` where none are.
pub fn counted_cgroup(pins: &Pins) -> Option<u64> {
    let link = sys::pinned(&pins.link(COUNTING)).ok()?;
    sys::cgroup_link_info(link.as_fd()).ok().map(|info| info.cgroup_id).filter(|id| *id != 0)
}
