//! Where pins live, below `--bpffs`: `maps/<MAP>` and `links/<hook>`.

use std::path::{Path, PathBuf};

/// The folder of pins. Only paths: nothing is opened or made.
#[derive(Clone, Debug)]
pub struct Pins {
    root: PathBuf,
}

impl Pins {
    /// The pins at `root`, which need not exist.
    pub fn at(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    /// The folder itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The folder of maps.
    pub fn maps(&self) -> PathBuf {
        self.root.join("maps")
    }

    /// Where a map is pinned.
    pub fn map(&self, name: &str) -> PathBuf {
        self.maps().join(name)
    }

    /// The folder of links.
    pub fn links(&self) -> PathBuf {
        self.root.join("links")
    }

    /// Where a hook's link is pinned.
    pub fn link(&self, hook: &str) -> PathBuf {
        self.root.join("links").join(hook)
    }
}
