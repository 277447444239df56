//! What the machine must have, and how to say that it has not.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};

/// Inode number of the root of the cgroup v2 hierarchy, in every kernel (kernfs, `kernfs_create_root`).
const ROOT_CGROUP_ID: u64 = 1;

/// The newest feature that we cannot do without: `bpf_set_retval` in cgroup programs.
/// Source: kernel commit b44123b4a3dc.
const OLDEST_KERNEL: (u32, u32) = (5, 18);

/// Refuses kernels that lack a feature we need.
pub fn kernel() -> Result<()> {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let version = version(&release).with_context(|| format!("cannot read the kernel release {release:?}"))?;
    if version < OLDEST_KERNEL {
        bail!(
            "kernel {release} is too old: refusing connections needs bpf_set_retval in cgroup programs (Linux {}.{})",
            OLDEST_KERNEL.0,
            OLDEST_KERNEL.1
        );
    }
    Ok(())
}

fn version(release: &str) -> Option<(u32, u32)> {
    let mut parts = release.split(['.', '-']);
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// The cgroup to attach to: `wanted`, or the root of the cgroup v2 hierarchy wherever it is mounted.
///
/// # Errors
/// There is no cgroup v2, or `wanted` is not in it.
pub fn find_cgroup(wanted: Option<&Path>) -> Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").context("cannot read /proc/self/mountinfo")?;
    let roots = cgroup2_mounts(&mounts);
    let Some(root) = roots.first() else {
        bail!(
            "no cgroup v2 hierarchy is mounted; mount one with `mount -t cgroup2 none /sys/fs/cgroup/unified`"
        );
    };
    let Some(wanted) = wanted else {
        let id = fs::metadata(root).with_context(|| format!("cannot look at {}", root.display()))?.ino();
        if id != ROOT_CGROUP_ID {
            bail!(
                "the cgroup v2 hierarchy at {} is not the host's but a container's own; mount the host's one here, or \
                 name a cgroup with --cgroup",
                root.display()
            );
        }
        return Ok(root.clone());
    };
    let folder =
        fs::canonicalize(wanted).with_context(|| format!("cannot find the cgroup {}", wanted.display()))?;
    if !roots.iter().any(|root| folder.starts_with(root)) {
        bail!("{} is not below the cgroup v2 hierarchy at {}", wanted.display(), root.display());
    }
    if !folder.is_dir() {
        bail!("{} is not a cgroup but a file", wanted.display());
    }
    Ok(folder)
}

/// Mount points of type cgroup2, in the format of /proc/self/mountinfo (proc_pid_mountinfo(5)).
fn cgroup2_mounts(mountinfo: &str) -> Vec<PathBuf> {
    let mount = |line: &str| {
        let (mount, filesystem) = line.split_once(" - ")?;
        let path = mount.split(' ').nth(4)?;
        filesystem.starts_with("cgroup2 ").then(|| PathBuf::from(path.replace("\\040", " ")))
    };
    mountinfo.lines().filter_map(mount).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_read() {
        for (release, want) in [
            ("6.18.44-fc", Some((6, 18))),
            ("5.10-generic", Some((5, 10))),
            ("7.2", Some((7, 2))),
            ("x", None),
        ] {
            assert_eq!(version(release), want, "{release}");
        }
    }

    #[test]
    fn the_hierarchy_is_found_wherever_it_is_mounted() {
        let hybrid = "31 30 0:26 / /sys/fs/cgroup ro - tmpfs tmpfs ro\n\
                      32 31 0:27 / /sys/fs/cgroup/my\\040unified rw - cgroup2 cgroup2 rw\n\
                      33 31 0:28 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n";
        assert_eq!(cgroup2_mounts(hybrid), [PathBuf::from("/sys/fs/cgroup/my unified")]);
        assert!(cgroup2_mounts("garbage\n").is_empty());
    }
}
