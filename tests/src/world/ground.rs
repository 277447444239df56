//! What every world stands on: a name, a folder, a cgroup, and the sweep that takes all of it down.

use std::{
    fs,
    net::{Ipv4Addr, Ipv6Addr},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
};

use super::{Pod, sweep};

static WORLDS: AtomicU32 = AtomicU32::new(0);

/// A world's name, folder and cgroup. They and all that is named after them go away with the value.
#[derive(Debug)]
pub struct Ground {
    id: String,
    /// For files.
    pub folder: PathBuf,
    /// Above all cgroups of the world.
    pub cgroup: PathBuf,
}

impl Ground {
    /// An empty one.
    ///
    /// # Panics
    /// The machine lacks something; the message says what.
    pub fn new() -> Self {
        assert!(rustix::process::geteuid().is_root(), "worlds need root: run `cargo xtask test` as root");
        sweep::leftovers();
        let id = name(WORLDS.fetch_add(1, Ordering::Relaxed));
        let folder = std::env::temp_dir().join(&id);
        let cgroup = sluice::loader::find_cgroup(None).expect("cgroup v2").join(&id);
        let ground = Self { id, folder, cgroup };
        fs::create_dir_all(ground.manifests()).expect("a temporary folder");
        fs::create_dir(&ground.cgroup).expect("a cgroup");
        ground
    }

    /// The folder of manifests.
    pub fn manifests(&self) -> PathBuf {
        self.folder.join("manifests")
    }

    /// The network namespace of that name.
    pub fn netns(&self, name: &str) -> String {
        format!("{}-{name}", self.id)
    }

    /// A place for processes, with a cgroup below `parent`; its network namespace is yet to be made.
    pub fn place(&self, parent: &Path, name: &str, v4: Ipv4Addr, v6: Ipv6Addr) -> Pod {
        let cgroup = parent.join(name);
        fs::create_dir(&cgroup).expect("a cgroup");
        Pod { name: name.to_owned(), netns: self.netns(name), cgroup, v4, v6 }
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        sweep::remove(&self.id);
    }
}

/// Takes all worlds of this process down from another thread, when there is no time to unwind. What their owners do
/// afterwards fails.
pub fn remove_all() {
    let count = WORLDS.load(Ordering::Relaxed);
    (0..count).for_each(|number| sweep::remove(&name(number)));
}

fn name(number: u32) -> String {
    format!("{}{}-{number}", sweep::PREFIX, std::process::id())
}
