//! Finds the network namespaces of pods: by their cgroups, which the kubelet names after their uids.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io,
    os::fd::AsFd as _,
    path::{Path, PathBuf},
};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// For each of `uids` whose pod has a process below `cgroup`: a file that leads to that process' network namespace.
pub fn namespaces_of_pods<'u>(
    cgroup: &Path,
    uids: impl Iterator<Item = &'u str>,
) -> BTreeMap<&'u str, PathBuf> {
    let mut wanted: Vec<(&str, [String; 2])> = uids.map(|uid| (uid, folder_names(uid))).collect();
    let mut found = BTreeMap::new();
    let mut folders = vec![cgroup.to_owned()];
    while let Some(folder) = folders.pop() {
        for child in children(&folder) {
            let name = child.file_name().unwrap_or_default().to_string_lossy().into_owned();
            match wanted.iter().position(|(_, names)| names.iter().any(|wanted| name.contains(wanted))) {
                None => folders.push(child),
                Some(index) => {
                    if let Some(file) = namespace_below(&child) {
                        found.insert(wanted.swap_remove(index).0, file);
                    }
                }
            }
        }
        if wanted.is_empty() {
            break;
        }
    }
    found
}

/// With the cgroupfs driver `pod<uid>`; with systemd's `kubepods-…-pod<uid>.slice`, dashes being underscores there.
/// Source: kubelet `pkg/kubelet/cm`, `GetPodContainerName` and `escapeSystemdCgroupName`.
fn folder_names(uid: &str) -> [String; 2] {
    [format!("pod{uid}"), format!("pod{}", uid.replace('-', "_"))]
}

fn children(folder: &Path) -> impl Iterator<Item = PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path())
}

/// The network namespace of the first process in `folder` or below.
fn namespace_below(folder: &Path) -> Option<PathBuf> {
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        let processes = fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
        let files = processes.lines().map(|pid| PathBuf::from(format!("/proc/{pid}/ns/net")));
        if let Some(file) = files.into_iter().find(|file| file.exists()) {
            return Some(file);
        }
        folders.extend(children(&folder));
    }
    None
}

/// Moves the calling thread into the network namespace behind `file`.
///
/// # Errors
/// It is gone, or not ours to enter.
pub fn enter(file: &Path) -> io::Result<()> {
    let netns = File::open(file)?;
    Ok(move_into_link_name_space(netns.as_fd(), Some(LinkNameSpaceType::Network))?)
}

/// The network namespace that a thread began in. While the thread is in a pod's, that one's devices outlive the pod.
#[derive(Debug)]
pub struct Home(File);

impl Home {
    /// The calling thread's.
    ///
    /// # Errors
    /// There is no procfs.
    pub fn here() -> io::Result<Self> {
        File::open("/proc/thread-self/ns/net").map(Self)
    }

    /// Moves the calling thread there.
    pub fn go_back(&self) {
        if let Err(error) = move_into_link_name_space(self.0.as_fd(), Some(LinkNameSpaceType::Network)) {
            tracing::warn!(
                %error,
                "a thread stays in a pod's network namespace, whose devices live on until it looks at another's"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_are_found_by_the_folders_of_both_cgroup_drivers() {
        let root = std::env::temp_dir().join(format!("sluice-pods-{}", std::process::id()));
        let uid = "0f0e0d0c-1111-2222-3333-444455556666";
        for (case, folder, want) in [
            ("cgroupfs", format!("kubepods/burstable/pod{uid}/abc"), true),
            (
                "systemd",
                format!(
                    "kubepods.slice/x.slice/kubepods-burstable-pod{}.slice/c.scope",
                    uid.replace('-', "_")
                ),
                true,
            ),
            (
                "another pod",
                "kubepods/burstable/pod1f0e0d0c-1111-2222-3333-444455556666/abc".to_owned(),
                false,
            ),
        ] {
            fs::create_dir_all(root.join(&folder)).unwrap();
            fs::write(root.join(&folder).join("cgroup.procs"), format!("4194304\n{}\n", std::process::id()))
                .unwrap();
            let found = namespaces_of_pods(&root, [uid].into_iter());
            let file = PathBuf::from(format!("/proc/{}/ns/net", std::process::id()));
            assert_eq!(found.get(uid), want.then_some(&file), "{case}");
            fs::remove_dir_all(&root).unwrap();
        }
    }
}
