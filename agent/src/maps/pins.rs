//! Where pins live, below `--bpffs`: `maps/<MAP>` and `links/<hook>`; while maps are being replaced, also `before/maps/<MAP>`.

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

    /// Pins of maps that were set aside, for what they hold is to be copied.
    pub fn before(&self) -> Self {
        Self { root: self.root.join("before") }
    }

    /// Where [`Self::before`] is moved once nobody needs it.
    pub fn spent(&self) -> PathBuf {
        self.root.join("spent")
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
