//! Mounts, as /proc/self/mountinfo lists them (proc_pid_mountinfo(5)). Pure but for reading that.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

/// A mount of this process's mount namespace.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mount {
    /// Which part of the file system it shows. Of cgroups as seen from the reader's cgroup namespace: `/..` is above it.
    pub root: PathBuf,
    /// Where it is.
    pub point: PathBuf,
    /// Mounts made below it are made elsewhere too.
    pub shares: bool,
    /// Mounts made elsewhere are made below it too.
    pub follows: bool,
    /// Type of the file system.
    pub filesystem: String,
}

/// All mounts of this process.
///
/// # Errors
/// There is no /proc.
pub fn all() -> Result<Vec<Mount>> {
    let text = fs::read_to_string("/proc/self/mountinfo").context("cannot read /proc/self/mountinfo")?;
    Ok(parse(&text))
}

/// The mounts of a text in that format; lines in another one are none.
pub fn parse(mountinfo: &str) -> Vec<Mount> {
    let mount = |line: &str| {
        let (mount, filesystem) = line.split_once(" - ")?;
        let words: Vec<&str> = mount.split(' ').collect();
        let path = |index: usize| Some(PathBuf::from(words.get(index)?.replace("\\040", " ")));
        let tagged = |tag: &str| words.iter().skip(6).any(|word| word.starts_with(tag));
        Some(Mount {
            root: path(3)?,
            point: path(4)?,
            shares: tagged("shared:"),
            follows: tagged("master:"),
            filesystem: filesystem.split(' ').next()?.to_owned(),
        })
    };
    mountinfo.lines().filter_map(mount).collect()
}

/// The mount that `path` lies on: of those at the same place the last one covers the others.
pub fn of<'m>(mounts: &'m [Mount], path: &Path) -> Option<&'m Mount> {
    let above = mounts.iter().filter(|mount| path.starts_with(&mount.point));
    above.max_by_key(|mount| mount.point.components().count())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_lies_on_the_deepest_mount_and_there_on_the_last() {
        let mounts = parse(
            "22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda rw\n\
             23 22 0:21 / /sys rw - sysfs sysfs rw\n\
             24 23 0:21 /fs/bpf /sys/fs/bpf rw master:7 - sysfs sysfs rw\n\
             25 24 0:30 / /sys/fs/bpf rw shared:9 master:8 - bpf bpf rw\n\
             26 22 0:31 / /with\\040space rw - tmpfs tmpfs rw\ngarbage\n",
        );
        for (path, filesystem, shares, follows) in [
            ("/sys/fs/bpf/sluice/maps", "bpf", true, true),
            ("/sys/fs", "sysfs", false, false),
            ("/sysfs", "ext4", true, false),
            ("/with space/x", "tmpfs", false, false),
        ] {
            let mount = of(&mounts, Path::new(path)).unwrap();
            let found = (mount.filesystem.as_str(), mount.shares, mount.follows);
            assert_eq!(found, (filesystem, shares, follows), "{path}");
        }
        assert_eq!(of(&parse(""), Path::new("/")), None);
    }
}
