//! A node: what an agent attaches to and reads from, and its places for files.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::Pod;

/// A node of a world.
#[derive(Debug)]
pub struct Node {
    /// Its name in the cluster.
    pub name: String,
    /// Processes in its host network.
    pub host: Pod,
    cgroup: PathBuf,
    folder: PathBuf,
    manifests: PathBuf,
}

impl Node {
    /// A node called `name`, whose agent attaches to `cgroup` and keeps its files in `folder`.
    pub(super) fn new(name: &str, host: Pod, cgroup: &Path, folder: &Path, manifests: PathBuf) -> Self {
        let (cgroup, folder) = (cgroup.to_owned(), folder.to_owned());
        Self { name: name.to_owned(), host, cgroup, folder, manifests }
    }

    /// The cgroup above all pods: what the agent attaches to.
    pub fn cgroup(&self) -> &Path {
        &self.cgroup
    }

    /// The folder of pins.
    pub fn bpffs(&self) -> PathBuf {
        self.folder.join("bpf")
    }

    /// A folder for anything else.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The folder of manifests.
    pub fn manifests(&self) -> PathBuf {
        self.manifests.clone()
    }

    /// Puts a file of manifests in place, in one step.
    pub fn apply(&self, name: &str, text: &str) {
        let hidden = self.manifests.join(format!(".{name}"));
        fs::write(&hidden, text).expect("manifests can be written");
        fs::rename(hidden, self.manifests.join(format!("{name}.yaml"))).expect("manifests can be renamed");
    }
}
