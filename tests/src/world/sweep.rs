//! Taking worlds down: this one, and those of runs that ended without doing it.

use std::{fs, io, path::Path};

use super::net::tool;
use crate::wait;

/// Names of worlds: this, the pid of their test run, a number.
pub const PREFIX: &str = "sl";

/// Removes the worlds of test runs that are not alive any more.
pub fn leftovers() {
    let folders = names(Path::new("/run/netns")).into_iter().chain(names(&std::env::temp_dir()));
    let cgroups = sluice::loader::find_cgroup(None).map(|root| names(&root)).unwrap_or_default();
    for name in folders.chain(cgroups) {
        if let Some(id) = dead_world(&name) {
            remove(&id);
        }
    }
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// The world that `name` belongs to, if its run is dead: `sl<pid>-<number>` and perhaps `-<pod>`.
fn dead_world(name: &str) -> Option<String> {
    let mut parts = name.strip_prefix(PREFIX)?.splitn(3, '-');
    let pid: u32 = parts.next()?.parse().ok()?;
    let number: u32 = parts.next()?.parse().ok()?;
    (!Path::new(&format!("/proc/{pid}")).exists()).then(|| format!("{PREFIX}{pid}-{number}"))
}

/// Removes a world: its processes, namespaces, cgroups, mounts and files. Says what stays; never panics, for it
/// runs while a failed test unwinds.
pub fn remove(id: &str) {
    if let Ok(root) = sluice::loader::find_cgroup(None) {
        remove_cgroup(&root.join(id));
    }
    for netns in names(Path::new("/run/netns")) {
        if netns.starts_with(&format!("{id}-")) {
            let status = tool("ip").args(["netns", "del", &netns]).status();
            report(&netns, status.map(drop));
        }
    }
    let folder = std::env::temp_dir().join(id);
    let nodes = names(&folder).into_iter().map(|node| folder.join(node));
    for place in nodes.chain([folder.clone()]) {
        for mount in ["bpf", "full"].map(|name| place.join(name)) {
            while rustix::mount::unmount(&mount, rustix::mount::UnmountFlags::empty()).is_ok() {}
        }
    }
    if folder.exists() {
        report(&folder.display().to_string(), fs::remove_dir_all(&folder));
    }
}

fn remove_cgroup(cgroup: &Path) {
    if !cgroup.exists() {
        return;
    }
    let populated = || {
        let events = fs::read_to_string(cgroup.join("cgroup.events")).unwrap_or_default();
        if events.contains("populated 1") { Err("processes are still there") } else { Ok(()) }
    };
    if populated().is_err() {
        // Only processes that this world started live here.
        report("cgroup.kill", fs::write(cgroup.join("cgroup.kill"), "1"));
        wait::until("a world's processes end", populated);
    }
    remove_folders(cgroup);
}

/// A cgroup's files go with its folder, which can go once no folder is left in it.
fn remove_folders(cgroup: &Path) {
    let entries = fs::read_dir(cgroup).into_iter().flatten().flatten().map(|entry| entry.path());
    entries.filter(|path| path.is_dir()).for_each(|folder| remove_folders(&folder));
    report(&cgroup.display().to_string(), fs::remove_dir(cgroup));
}

fn report(what: &str, result: io::Result<()>) {
    if let Err(error) = result
        && error.kind() != io::ErrorKind::NotFound
    {
        eprintln!("cannot remove {what}: {error}");
    }
}
