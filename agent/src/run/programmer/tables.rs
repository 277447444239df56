//! What is free again, and Maglev tables for which there was no room.

use std::time::Instant;

use super::{COLLECT_EVERY, Programmer};
use crate::reconcile::Outcome;

impl Programmer {
    /// Tells of Services that have no table though they ask for one.
    pub(super) fn note_tables(&mut self, outcome: &Outcome) {
        for name in &outcome.looked_at {
            self.without_table.remove(name);
            self.shared.clear(&format!("table/{name} "));
        }
        for (name, why) in &outcome.without_table {
            self.without_table.insert(name.clone());
            self.shared.warn(&format!("table/{name} "), format!("Service {name}: {why}"));
        }
    }

    /// Frees what has rested long enough, if it is time.
    pub(super) fn collect(&mut self, now: Instant) {
        if self.collect_at.is_some_and(|at| at > now) {
            return;
        }
        let now_ns = self.now_ns();
        let collected = self.reconciler.collect(&mut self.maps, now_ns);
        let resting = *collected.as_ref().unwrap_or(&true);
        self.is_written("what nobody uses any more", collected.map(drop));
        self.collect_at = resting.then(|| now + COLLECT_EVERY);
        if !resting {
            self.try_tables_again();
        }
    }

    /// Slots are free again: perhaps there is room now.
    fn try_tables_again(&mut self) {
        for name in &self.without_table {
            self.store.mark(name.clone());
        }
    }
}
