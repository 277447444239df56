//! How long changes take until they are in the maps.

use std::time::{Instant, SystemTime};

use super::{super::metrics, Programmer};
use crate::reconcile::Outcome;

impl Programmer {
    /// How long the round took, and how long it is since what changed the endpoints that are in the maps now.
    pub(super) fn note_times(&mut self, start: Instant, outcome: &Outcome) {
        self.triggers.extend(self.store.take_triggers());
        let (waiting, done): (Vec<_>, Vec<_>) = std::mem::take(&mut self.triggers)
            .into_iter()
            .partition(|(service, _)| outcome.failed.contains_key(service));
        self.triggers = waiting;
        let now = SystemTime::now();
        let times = done.iter().filter_map(|(_, trigger)| metrics::since(*trigger, self.since, now));
        let bounds = metrics::programming_bounds();
        self.shared.update(|state| {
            times.for_each(|time| state.programming.observe(&bounds, time));
            state.sync.observe(&metrics::SYNC_BOUNDS, start.elapsed());
        });
    }
}
