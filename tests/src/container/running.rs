//! A container that runs.

use std::{
    fs,
    path::PathBuf,
    process::{Child, ExitStatus},
};

use crate::{wait, world::kill};

/// A container that was started. Ends with the value.
pub struct Running {
    pub(super) child: Child,
    pub(super) cgroup: PathBuf,
    pub(super) log: PathBuf,
}

impl Running {
    /// What it wrote.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Waits until it has ended.
    pub fn wait_ended(&mut self) -> ExitStatus {
        let (child, log) = (&mut self.child, &self.log);
        wait::until("a container that ends", || {
            let ended = child.try_wait().expect("a child can be waited for");
            ended.ok_or_else(|| fs::read_to_string(log).unwrap_or_default())
        })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Only the container lives there.
        let _gone_already = fs::write(self.cgroup.join("cgroup.kill"), "1");
        kill(&mut self.child);
    }
}
