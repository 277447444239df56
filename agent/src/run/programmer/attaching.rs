//! Programs come to where they run once what they read is right.

use std::collections::BTreeSet;

use super::Programmer;

const COUNTING: &str = "counting";

impl Programmer {
    /// Packets are balanced from when sockets are: what an earlier agent attached goes on until then.
    pub(super) fn serve_packets(&mut self) {
        if self.attached {
            let done = self.devices.serve(&mut self.loaded, &self.store.node().addresses, &self.shared);
            self.node_moved |= !done;
            self.loaded.settle(done);
        }
    }

    /// Counts bytes where they are wanted. Nobody's connections depend on it.
    pub(super) fn count_bytes(&mut self) {
        match self.loaded.attach_counting() {
            Ok(()) => self.shared.clear(COUNTING),
            Err(error) => {
                let text = format!("bytes of Services are counted wrongly: {error:#}");
                tracing::warn!("{text}");
                self.shared.warn(COUNTING, text);
            }
        }
    }

    pub(super) fn attach(&mut self) {
        match self.loaded.attach() {
            Ok(()) => {
                self.attached = true;
                self.count_bytes();
                self.devices.forget();
                self.serve_packets();
                // When all programs are ours: earlier ones may not say what they begin.
                let _the_thread_lives_as_long_as_we = self.flows.send(BTreeSet::new());
                self.shared.problem("attach", None);
                self.shared.problem("takeover", None);
                tracing::info!(cgroup = %self.loaded.cgroup().display(), "programs attached");
            }
            Err(error) => self.shared.problem("attach", Some(format!("{error:#}"))),
        }
    }
}
