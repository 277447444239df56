//! The sk_lookup program: attached to the node's network namespace once some frontend needs the redirector.

use std::{fs::File, os::fd::AsFd as _, os::unix::fs::MetadataExt as _};

use anyhow::{Context as _, Result, bail};
use aya::programs::{Program, links::FdLink};

use super::{Loaded, STEERING, program};
use crate::{maps::Pins, sys};

const OWN: &str = "/proc/thread-self/ns/net";

impl Loaded {
    /// Makes the node's network namespace run this binary's program: in place if one is attached, else by a new link.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn attach_steering(&mut self) -> Result<()> {
        let pin = self.pins.link(STEERING);
        let attached = is_steering(&self.pins);
        let Program::SkLookup(program) = program(&mut self.ebpf, STEERING)? else {
            bail!("{STEERING} is no sk_lookup program");
        };
        if attached && let Ok(link) = sys::pinned(&pin) {
            let fd = program.fd()?;
            return Ok(sys::replace_program(link.as_fd(), fd.as_fd())?);
        }
        match std::fs::remove_file(&pin) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(error).context("cannot remove the old pin"),
        }
        let netns = File::open(OWN).with_context(|| format!("cannot open {OWN}"))?;
        let id = program.attach(&netns)?;
        let link: FdLink = program.take_link(id)?.into();
        link.pin(&pin).with_context(|| format!("cannot pin {}", pin.display()))?;
        Ok(())
    }
}

/// The network namespace that the program is attached to, by inode number; `None` where it is not.
pub fn steered_netns(pins: &Pins) -> Option<u32> {
    let link = sys::pinned(&pins.link(STEERING)).ok()?;
    sys::netns_of_link(link.as_fd()).ok().filter(|netns| *netns != 0)
}

/// Whether the program is attached to this thread's network namespace.
pub fn is_steering(pins: &Pins) -> bool {
    let own = std::fs::metadata(OWN).map(|meta| meta.ino());
    steered_netns(pins).map(u64::from) == own.ok()
}
