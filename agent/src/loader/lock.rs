//! One agent for one set of pins: a lock on their folder, which the kernel drops when the agent dies.

use std::{
    fs::{self, File},
    os::unix::fs::MetadataExt as _,
    path::Path,
};

use anyhow::{Context as _, Result, bail};
use rustix::fs::FlockOperation;

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
        let folder = File::open(root).with_context(|| format!("cannot open {}", root.display()))?;
        match rustix::fs::flock(&folder, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self { _folder: folder }),
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let pid =
                    holder(root).map_or_else(|| "of unknown pid".to_owned(), |pid| format!("with pid {pid}"));
                bail!(
                    "another agent {pid} runs on the pins in {}; stop it first, or name another folder with --bpffs",
                    root.display()
                )
            }
            Err(error) => Err(error).with_context(|| format!("cannot lock {}", root.display())),
        }
    }
}

/// The pid of the agent that runs on the pins in `root`, if one does.
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
