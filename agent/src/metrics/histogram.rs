//! How many values fell between which bounds.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Counted durations. The bounds, in seconds and rising, are the caller's, and the same with each call.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Histogram {
    /// Per bound the values up to it and above the one before; last those above all. Empty before the first.
    counts: Vec<u64>,
    sum_us: u64,
}

impl Histogram {
    /// Counts one.
    pub fn observe(&mut self, bounds: &[f64], value: Duration) {
        self.counts.resize(bounds.len() + 1, 0);
        let seconds = value.as_secs_f64();
        let place = bounds.iter().position(|bound| seconds <= *bound).unwrap_or(bounds.len());
        self.counts[place] += 1;
        self.sum_us += u64::try_from(value.as_micros()).unwrap_or(u64::MAX);
    }

    /// The counts, as many as bounds and one more.
    pub fn counts(&self, bounds: &[f64]) -> impl Iterator<Item = u64> {
        (0..=bounds.len()).map(|place| self.counts.get(place).copied().unwrap_or(0))
    }

    /// Without counts beyond these bounds, which somebody else may have told.
    pub fn cut(&mut self, bounds: &[f64]) {
        self.counts.truncate(bounds.len() + 1);
    }

    /// All values together, in seconds.
    pub fn sum_s(&self) -> f64 {
        self.sum_us as f64 / 1e6
    }

    /// Adds what another one counted.
    pub fn add(&mut self, other: &Self) {
        self.counts.resize(self.counts.len().max(other.counts.len()), 0);
        self.counts.iter_mut().zip(&other.counts).for_each(|(count, more)| *count += more);
        self.sum_us += other.sum_us;
    }
}
