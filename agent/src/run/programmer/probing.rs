//! The self-probe, and what follows from it.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, anyhow};

use super::{PROBE_AGAIN, PROBE_EVERY, Programmer, describe, forwarding, probe};
use crate::maps::WriteError;

impl Programmer {
    pub(super) fn probe(&mut self, now: Instant) {
        forwarding::check(self.reconciler.tables(), &self.shared);
        let restored = self.loaded.restore_pins().context("what the next agent takes over is not pinned");
        self.shared.problem("pins", restored.err().map(|error| format!("{error:#}")));
        if self.devices.is_detached(self.loaded.pins()) {
            tracing::warn!("somebody detached programs from devices; attaching them again");
            self.devices.forget();
            self.serve_packets();
        }
        if self.attached && !self.loaded.counts_as_wanted() {
            self.count_bytes();
        }
        let missing = self.loaded.missing();
        let result = if missing.is_empty() {
            probe::probe(&mut self.maps, self.loaded.cgroup())
        } else {
            Err(anyhow!("somebody detached {}", missing.join(", ")))
        };
        match result.context("the self-probe failed: connections are not translated") {
            Ok(()) => {
                let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                self.shared.problem("probe", None);
                self.shared.problem("unprobed", None);
                self.shared.update(|state| state.probed_s = Some(since.as_secs()));
                self.probe_at = Some(now + PROBE_EVERY);
            }
            Err(error) => match error.downcast_ref::<WriteError>() {
                // That says nothing of connections.
                Some(refusal) => {
                    self.note_failure(refusal);
                    let text = format!("the self-probe could not be made: {}", describe(refusal));
                    self.shared.problem("unprobed", Some(text));
                    self.probe_at = Some(now + PROBE_EVERY);
                }
                None => self.probe_failed(now, &error),
            },
        }
    }

    fn probe_failed(&mut self, now: Instant, error: &anyhow::Error) {
        self.shared.problem("probe", Some(format!("{error:#}")));
        self.shared.update(|state| state.probed_s = None);
        // Somebody may have removed the links, or the cgroup went: attach again.
        self.attached = false;
        self.probe_at = Some(now + PROBE_AGAIN);
        self.retry = Some((now + PROBE_AGAIN, PROBE_AGAIN));
    }
}
