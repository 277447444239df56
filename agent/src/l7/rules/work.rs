//! How much the regexes of one request may work. Each takes time that is linear in its value, and an object has hundreds of them.

use std::{cell::Cell, time::Duration};

/// What all of a request may take. Ordinary regexes take microseconds, of long values too.
const MOST: Duration = Duration::from_millis(100);
/// Bytes of a regex, compiled, times bytes of a value, for which a look at the clock is not worth while: tens of microseconds
/// where the value is hostile.
const CHEAP: usize = 256 << 10;

/// What the regexes of one request have worked so far.
///
/// Once it is too much they fit nothing any more, and what was found by that is void: a rule that denies must not be passed
/// over because it takes long. Who gives one to a request looks at [`Self::is_spent`] before it believes an answer.
#[derive(Debug)]
pub struct Work {
    so_far: Cell<Duration>,
    clock: fn() -> Duration,
}

impl Work {
    /// By `clock`, which should stand still while the thread does not run: who waits for a processor does not work.
    pub const fn new(clock: fn() -> Duration) -> Self {
        Self { so_far: Cell::new(Duration::ZERO), clock }
    }

    /// Whether it was too much.
    pub fn is_spent(&self) -> bool {
        self.so_far.get() > MOST
    }

    /// Has a regex of `bytes` look at a value of `length`; `None` when it was too much before.
    pub(super) fn run<T>(&self, bytes: usize, length: usize, look: impl FnOnce() -> T) -> Option<T> {
        if self.is_spent() {
            return None;
        }
        if bytes.saturating_mul(length) <= CHEAP {
            return Some(look());
        }
        let began = (self.clock)();
        let found = look();
        let took = (self.clock)().saturating_sub(began);
        self.so_far.set(self.so_far.get().saturating_add(took));
        Some(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_long_is_measured_and_there_is_an_end_of_it() {
        thread_local!(static NOW_MS: Cell<u64> = const { Cell::new(0) });
        let clock = || Duration::from_millis(NOW_MS.get());
        let takes = |ms: u64| move || NOW_MS.set(NOW_MS.get() + ms);
        let work = Work::new(clock);
        for (case, length, ms, want) in [
            ("short ones cost nothing", 10, 1_000, (true, false)),
            ("a long one", 1_000, 60, (true, false)),
            ("up to the limit", 1_000, 40, (true, false)),
            ("the one that takes too long is the last", 1_000, 1, (true, true)),
            ("none after it", 1_000, 1, (false, true)),
            ("no short one either", 10, 1, (false, true)),
        ] {
            let ran = work.run(10_000, length, takes(ms)).is_some();
            assert_eq!((ran, work.is_spent()), want, "{case}");
        }
    }
}
