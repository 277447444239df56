//! How long to wait before asking an API server again that did not answer as it should.

use std::{
    hash::{BuildHasher as _, RandomState},
    time::{Duration, Instant},
};

use kube::runtime::utils::Backoff;

const FIRST: Duration = Duration::from_millis(400);
/// Short enough that a node is not stale for long after an outage; long enough, with the spread over nodes, for a
/// server that thousands of nodes come back to.
const LAST: Duration = Duration::from_secs(5);
/// A connection that lived this long was a good one: the next failure starts from the beginning.
const GOOD: Duration = Duration::from_secs(20);

/// Doubles from [`FIRST`] to [`LAST`], each spread evenly over half to one and a half of it.
#[derive(Debug)]
pub struct Patience {
    next: Duration,
    since: Option<Instant>,
}

impl Patience {
    /// Starts with the shortest wait.
    pub const fn new() -> Self {
        Self { next: FIRST, since: None }
    }
}

impl Iterator for Patience {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let wait = self.next;
        self.next = (wait * 2).min(LAST);
        self.since = Some(Instant::now());
        // A fresh hasher's seed is random: no need for a generator.
        let spread = RandomState::new().hash_one(()) % 1_000;
        Some(wait / 2 + wait * spread as u32 / 1_000)
    }
}

impl Backoff for Patience {
    fn reset(&mut self) {
        if self.since.is_some_and(|since| since.elapsed() >= GOOD) {
            *self = Self::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_the_longest_and_are_spread() {
        let waits: Vec<Duration> = Patience::new().take(40).collect();
        assert!(waits[0] >= FIRST / 2 && waits[0] <= FIRST * 3 / 2);
        let late = &waits[5..];
        assert!(late.iter().all(|wait| *wait >= LAST / 2 && *wait <= LAST * 3 / 2));
        assert!(late.iter().any(|wait| wait != &late[0]), "not all nodes at once");
    }
}
