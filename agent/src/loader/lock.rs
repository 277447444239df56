//! One agent for one set of pins, and one watcher of its events: locks on folders, which the kernel drops when their holder
//! dies.

use std::{
    fs::{self, File},
    os::unix::fs::MetadataExt as _,
    path::Path,
};

use anyhow::{Context as _, Result, bail};
use rustix::fs::FlockOperation;

use crate::maps::Pins;

/// Held while an agent runs.
#[derive(Debug)]
pub struct Lock {
    _folder: File,
}

impl Lock {
    /// Takes the lock on the folder `root`.
    ///
    /// # Errors
    /// Another agent has it; its pid is named.
    pub fn take(root: &Path) -> Result<Self> {
        match lock(root)? {
            Some(folder) => Ok(Self { _folder: folder }),
            None => bail!(
                "another agent {} runs on the pins in {}; stop it first, or name another folder with --bpffs",
                whom(root),
                root.display()
            ),
        }
    }
}

/// Held while somebody watches events: a ring buffer has one reader.
#[derive(Debug)]
pub struct WatchLock {
    _folder: File,
}

impl WatchLock {
    /// Takes the lock, which is on the folder of maps.
    ///
    /// # Errors
    /// Somebody else watches, whose pid is named; or nothing is pinned here.
    pub fn take(pins: &Pins) -> Result<Self> {
        let folder = pins.maps();
        match lock(&folder).context("is Sluice running here, and with this --bpffs?")? {
            Some(folder) => Ok(Self { _folder: folder }),
            None => bail!(
                "another `sluice monitor` {} watches already, and events have one reader; stop it first",
                whom(&folder)
            ),
        }
    }
}

/// The folder, locked; `None` if somebody else has the lock.
fn lock(folder: &Path) -> Result<Option<File>> {
    let file = File::open(folder).with_context(|| format!("cannot open {}", folder.display()))?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(file)),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot lock {}", folder.display())),
    }
}

fn whom(folder: &Path) -> String {
    holder(folder).map_or_else(|| "of unknown pid".to_owned(), |pid| format!("with pid {pid}"))
}

/// The pid of whoever holds the lock on the folder `root`: on the folder of pins, the agent that runs there.
pub fn holder(root: &Path) -> Option<u32> {
    let meta = fs::metadata(root).ok()?;
    let (major, minor) = (rustix::fs::major(meta.dev()), rustix::fs::minor(meta.dev()));
    let file = format!("{major:02x}:{minor:02x}:{}", meta.ino());
    parse(&fs::read_to_string("/proc/locks").ok()?, &file)
}

/// Finds the holder of a FLOCK on `file` in the text of /proc/locks: `1: FLOCK ADVISORY WRITE 42 00:1b:7 0 EOF`.
fn parse(locks: &str, file: &str) -> Option<u32> {
    locks.lines().find_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let held = words.get(1) == Some(&"FLOCK") && words.get(5) == Some(&file);
        if held { words.get(4)?.parse().ok() } else { None }
    })
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn the_holder_is_who_has_the_lock_and_not_who_waits() {
        let text = "1: POSIX  ADVISORY  WRITE 11 00:1b:7 0 EOF\n2: FLOCK  ADVISORY  WRITE 42 00:1b:7 0 EOF\n\
                    2: -> FLOCK  ADVISORY  WRITE 43 00:1b:7 0 EOF\n3: FLOCK  ADVISORY  WRITE 44 00:1b:8 0 EOF\n";
        assert_eq!(parse(text, "00:1b:7"), Some(42));
        assert_eq!(parse(text, "00:1b:9"), None);
        assert_eq!(parse("garbage", "00:1b:9"), None);
    }
}
