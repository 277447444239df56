//! Making the folder of pins, with a bpffs below it, and removing it.

use std::{
    collections::BTreeSet,
    ffi::CStr,
    fs,
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};

use super::{
    COUNTING, HOOKS, Lock, STEERING,
    mounts::{self, Mount},
};
use crate::{
    maps::{Pins, SPECS},
    reserved, routes,
};

/// `BPF_FS_MAGIC`, `include/uapi/linux/magic.h`.
const BPF_FS_MAGIC: u64 = 0xcafe_4a11;
const SYSTEM_BPFFS: &str = "/sys/fs/bpf";
/// The mode of folders of pins: the kernel's own for a bpffs lets everybody make files there.
const OURS_ALONE: u32 = 0o700;
/// The same for a mount, as systemd makes one.
const OPTIONS: &CStr = c"mode=0700";

/// The pins at `root`; makes the folders, and mounts a bpffs where there is none.
///
/// # Errors
/// Names the folder that could not be made or mounted.
pub fn create(root: &Path) -> Result<Pins> {
    mount(root)?;
    for folder in [root.join("maps"), root.join("links")] {
        let made = fs::DirBuilder::new().recursive(true).mode(OURS_ALONE).create(&folder);
        made.with_context(|| format!("cannot create {}", folder.display()))?;
        // Earlier agents made it for all to look into.
        fs::set_permissions(&folder, fs::Permissions::from_mode(OURS_ALONE))
            .with_context(|| format!("cannot close {} to others", folder.display()))?;
    }
    Ok(Pins::at(root))
}

/// Detaches every program and removes every pin below `root`. Returns what was removed.
///
/// # Errors
/// An agent still runs on these pins (its pid is named), or a pin cannot be removed.
pub fn cleanup(root: &Path) -> Result<Vec<PathBuf>> {
    if !root.exists() {
        return Ok(Vec::new());
    }
    let _lock = Lock::take(root)?;
    let pins = Pins::at(root);
    // While its note is there; what comes of it is told at the end, for it keeps nothing from being removed.
    let released = reserved::release(&pins);
    let unrouted = routes::sync(&BTreeSet::new(), &[]).and(routes::sync_marked(false));
    let mut removed = super::devices::detach_all(&pins)?;
    // Links first: the hooks stop before the maps that they read go. Those of other releases too, whatever their names.
    for file in files_in(pins.links()).into_iter().chain(files_in(pins.maps())) {
        match fs::remove_file(&file) {
            Ok(()) => removed.push(file),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(error).with_context(|| format!("cannot remove {}", file.display())),
        }
    }
    for folder in [pins.before().root(), &pins.spent()] {
        super::renew::remove_all(folder)?;
    }
    let mount_of_ours = !root.starts_with(SYSTEM_BPFFS);
    for folder in [root.join("maps"), root.join("links"), root.to_owned()] {
        match fs::remove_dir(&folder) {
            Ok(()) => removed.push(folder),
            Err(error) => tracing::debug!(%error, folder = %folder.display(), "left in place"),
        }
    }
    // The lock is held through the folder, which a mount lives as long as: detach it lazily.
    if mount_of_ours && rustix::mount::unmount(root, rustix::mount::UnmountFlags::DETACH).is_ok() {
        removed.push(root.to_owned());
    }
    unrouted.context("everything is removed, but local routes (protocol 201) may still be there")?;
    released.context("everything is removed, but NodePorts may still be reserved")?;
    Ok(removed)
}

/// Removes what an agent of another release left and this one has no name for: programs of hooks that would go on without
/// anybody who keeps their maps, and maps that would be taken for today's when that release comes back. Returns what was
/// removed.
///
/// # Errors
/// Names the pin that cannot be removed.
pub fn remove_strangers(pins: &Pins) -> Result<Vec<PathBuf>> {
    let hooks: BTreeSet<PathBuf> =
        HOOKS.into_iter().chain([STEERING, COUNTING]).map(|hook| pins.link(hook)).collect();
    let maps: BTreeSet<PathBuf> = SPECS.iter().map(|spec| pins.map(spec.name)).collect();
    let is_device = |file: &Path| super::devices::is_of_device(file);
    let links = files_in(pins.links()).into_iter().filter(|file| !hooks.contains(file) && !is_device(file));
    let strangers = links.chain(files_in(pins.maps()).into_iter().filter(|file| !maps.contains(file)));
    let strangers: Vec<PathBuf> = strangers.collect();
    for file in &strangers {
        fs::remove_file(file).with_context(|| format!("cannot remove {}", file.display()))?;
    }
    Ok(strangers)
}

fn files_in(folder: impl AsRef<Path>) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let files = entries.filter(|entry| entry.file_type().is_ok_and(|kind| !kind.is_dir()));
    files.map(|entry| entry.path()).collect()
}

/// Mounts a bpffs for pins at `root`, unless there is one. Returns where it was mounted.
///
/// # Errors
/// It cannot be mounted, or would be seen by this container alone.
pub fn mount(root: &Path) -> Result<Option<PathBuf>> {
    let existing = root.ancestors().find(|folder| folder.exists()).unwrap_or(Path::new("/"));
    if is_bpffs(existing)? {
        return Ok(None);
    }
    let target = if root.starts_with(SYSTEM_BPFFS) { Path::new(SYSTEM_BPFFS) } else { root };
    if stays_here(&mounts::all()?, target) {
        bail!(
            "{} is not on a bpffs, and one mounted here would be seen by this container alone and end with it; mount one on \
             the node (`mount -t bpf bpf {}`), or by an init container as deploy/overlays/kind does",
            root.display(),
            target.display()
        );
    }
    fs::create_dir_all(target).with_context(|| format!("cannot create {}", target.display()))?;
    let mut entries = fs::read_dir(target).with_context(|| format!("cannot read {}", target.display()))?;
    if entries.next().is_some() {
        bail!(
            "{} is not on a bpffs, and mounting one there would hide what is in it; name another folder",
            target.display()
        );
    }
    let flags = rustix::mount::MountFlags::NOSUID | rustix::mount::MountFlags::NODEV;
    match rustix::mount::mount("bpf", target, "bpf", flags, OPTIONS) {
        Ok(()) => {
            tracing::info!(path = %target.display(), "mounted a bpffs");
            Ok(Some(target.to_owned()))
        }
        Err(error) => bail!(
            "{} is not on a bpffs and none could be mounted ({error}); run `mount -t bpf bpf {}` or name another \
             folder with --bpffs",
            root.display(),
            target.display()
        ),
    }
}

/// Whether a mount at `target` is for this mount namespace alone, where others' mounts are seen: in a container, on a volume of
/// the node's with `mountPropagation: HostToContainer`.
fn stays_here(mounts: &[Mount], target: &Path) -> bool {
    mounts::of(mounts, target).is_some_and(|mount| mount.follows && !mount.shares)
}

fn is_bpffs(folder: &Path) -> Result<bool> {
    let stat = rustix::fs::statfs(folder).with_context(|| format!("cannot look at {}", folder.display()))?;
    Ok(stat.f_type.cast_unsigned() == BPF_FS_MAGIC)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_on_a_volume_of_the_node_must_reach_the_node() {
        for (case, tags, want) in [
            ("a node with systemd", "shared:7", false),
            ("a node without", "", false),
            ("HostToContainer", "master:7", true),
            ("Bidirectional", "shared:9 master:7", false),
        ] {
            let tags = if tags.is_empty() { String::new() } else { format!("{tags} ") };
            let mounts =
                mounts::parse(&format!("24 1 0:21 /fs/bpf /sys/fs/bpf rw,relatime {tags}- sysfs sysfs rw\n"));
            assert_eq!(stays_here(&mounts, Path::new("/sys/fs/bpf")), want, "{case}");
        }
    }
}
