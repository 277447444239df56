//! Whether a worker still comes to its tasks: one that hangs serves nobody, and the others cannot see it.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

const EVERY: Duration = Duration::from_millis(250);

/// When a worker last came to its tasks.
#[derive(Debug)]
pub struct Pulse {
    since: Instant,
    /// Milliseconds after `since`.
    last_ms: AtomicU64,
}

impl Default for Pulse {
    fn default() -> Self {
        Self { since: Instant::now(), last_ms: AtomicU64::new(0) }
    }
}

impl Pulse {
    /// Beats for ever, among the worker's other tasks.
    pub async fn beat(&self) {
        let mut ticks = tokio::time::interval(EVERY);
        loop {
            ticks.tick().await;
            self.note();
        }
    }

    /// The worker has come to a task. Its turn among thousands of tasks that each take long the one that beats has late.
    pub fn note(&self) {
        self.last_ms.store(self.now_ms(), Ordering::Relaxed);
    }

    /// How long ago the last beat was.
    pub fn silence(&self) -> Duration {
        Duration::from_millis(self.now_ms().saturating_sub(self.last_ms.load(Ordering::Relaxed)))
    }

    fn now_ms(&self) -> u64 {
        self.since.elapsed().as_millis() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_worker_that_hangs_falls_silent_and_one_that_waits_does_not() {
        let pulse = Pulse::default();
        let beating = async {
            tokio::time::sleep(EVERY * 3).await;
            let waiting = pulse.silence();
            std::thread::sleep(EVERY * 3);
            let hanging = pulse.silence();
            pulse.note();
            (waiting, hanging, pulse.silence())
        };
        let (waiting, hanging, noted) = tokio::select! {
            () = pulse.beat() => panic!("it beats for ever"),
            silences = beating => silences,
        };
        assert!(
            waiting < EVERY * 2 && hanging >= EVERY * 3 - Duration::from_millis(5) && noted < hanging,
            "{waiting:?} {hanging:?} {noted:?}"
        );
    }
}
