//! What the machine must have, and how to say that it has not.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Component, Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};

use super::{
    features,
    mounts::{self, Mount},
};

/// Inode number of the root of the cgroup v2 hierarchy, in every kernel (kernfs, `kernfs_create_root`).
const ROOT_CGROUP_ID: u64 = 1;

/// Refuses kernels that lack the newest feature that we cannot do without: `bpf_set_retval` in cgroup programs. It is asked for,
/// and not read from the release: distributions take features back to older kernels.
/// Source: kernel commit b44123b4a3dc.
pub fn kernel() -> Result<()> {
    if features::has_set_retval().context("cannot ask the kernel which helpers it has")? {
        return Ok(());
    }
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    bail!(
        "kernel {release} is too old: refusing connections needs bpf_set_retval in cgroup programs (Linux 5.18, or a \
         distribution's that has it)"
    )
}

/// The cgroup to attach to: `wanted`, or the root of the cgroup v2 hierarchy wherever it is mounted.
///
/// # Errors
/// There is no cgroup v2, or `wanted` is not in it.
pub fn find_cgroup(wanted: Option<&Path>) -> Result<PathBuf> {
    let roots = cgroup2_mounts(&mounts::all()?);
    let Some(root) = roots.first() else {
        bail!(
            "no cgroup v2 hierarchy is mounted; mount one with `mount -t cgroup2 none /sys/fs/cgroup/unified`"
        );
    };
    let Some(wanted) = wanted else {
        let id = fs::metadata(root).with_context(|| format!("cannot look at {}", root.display()))?.ino();
        if id != ROOT_CGROUP_ID {
            bail!(
                "the cgroup v2 hierarchy at {} is not the host's but a container's own; mount the host's one here, or, where \
                 the node itself is a container (kind, k3d), say so with --cgroup {}",
                root.display(),
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

/// Mount points of cgroup v2.
fn cgroup2_mounts(mounts: &[Mount]) -> Vec<PathBuf> {
    let found = mounts.iter().filter(|mount| mount.filesystem == "cgroup2");
    found.map(|mount| mount.point.clone()).collect()
}

/// Whether this process lives in `cgroup` or below it. False if it cannot be told.
pub fn lives_in(cgroup: &Path) -> bool {
    let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let own = own.lines().find_map(|line| line.strip_prefix("0::"));
    mounts::all().is_ok_and(|mounts| own.is_some_and(|own| is_below(&mounts, Path::new(own), cgroup)))
}

/// Whether the cgroup `own`, a path from the root of our cgroup namespace, is `cgroup`, a folder, or below it.
fn is_below(mounts: &[Mount], own: &Path, cgroup: &Path) -> bool {
    let Some(mount) = mounts::of(mounts, cgroup).filter(|mount| mount.filesystem == "cgroup2") else {
        return false;
    };
    let wanted = cgroup.strip_prefix(&mount.point).unwrap_or(Path::new(""));
    // A mount of what is above our namespace's root: how the folders between the two are called is not ours to see.
    let above = mount.root.components().skip(1).all(|part| part == Component::ParentDir);
    if above && mount.root != Path::new("/") {
        return wanted.as_os_str().is_empty();
    }
    own.strip_prefix(&mount.root).is_ok_and(|own| own.starts_with(wanted))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hierarchy_is_found_wherever_it_is_mounted() {
        let hybrid = "31 30 0:26 / /sys/fs/cgroup ro - tmpfs tmpfs ro\n\
                      32 31 0:27 / /sys/fs/cgroup/my\\040unified rw - cgroup2 cgroup2 rw\n\
                      33 31 0:28 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n";
        assert_eq!(cgroup2_mounts(&mounts::parse(hybrid)), [PathBuf::from("/sys/fs/cgroup/my unified")]);
        assert!(cgroup2_mounts(&mounts::parse("garbage\n")).is_empty());
    }

    #[test]
    fn a_process_knows_whether_it_lives_in_a_cgroup() {
        for (case, root, own, cgroup, want) in [
            ("the host's root", "/", "/system.slice/x", "/cg", true),
            ("a cgroup above", "/", "/system.slice/x", "/cg/system.slice", true),
            ("itself", "/", "/system.slice/x", "/cg/system.slice/x", true),
            ("a neighbour", "/", "/system.slice/x", "/cg/system.slice/xy", false),
            ("a container that has the node's mounted", "/../../..", "/", "/cg", true),
            (
                "the same and a cgroup of the node's, whose name it cannot see",
                "/../../..",
                "/",
                "/cg/a",
                false,
            ),
            ("a part of the hierarchy", "/kubepods", "/kubepods/pod1", "/cg/pod1", true),
            ("another part", "/kubepods", "/system.slice", "/cg", false),
            ("no hierarchy", "/", "/", "/elsewhere", false),
        ] {
            let mounts = mounts::parse(&format!("31 30 0:26 {root} /cg rw - cgroup2 cgroup2 rw\n"));
            assert_eq!(is_below(&mounts, Path::new(own), Path::new(cgroup)), want, "{case}");
        }
    }
}
