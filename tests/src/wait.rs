//! Waiting for a condition, with a deadline; never for a time.

use std::{
    fmt::Debug,
    sync::OnceLock,
    time::{Duration, Instant},
};

/// Longest wait for anything in a test.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// `time` on a machine as slow as `SLUICE_PATIENCE` says: an emulated one takes many times as long for everything.
pub fn patiently(time: Duration) -> Duration {
    static FACTOR: OnceLock<u32> = OnceLock::new();
    let factor = || std::env::var("SLUICE_PATIENCE").ok()?.parse().ok();
    time * *FACTOR.get_or_init(|| factor().unwrap_or(1))
}

/// Between two looks. Where looking is slow too, it must leave the CPU to who is waited for.
fn pause() -> Duration {
    patiently(patiently(Duration::from_millis(10)))
}

/// Polls until `check` returns `Ok`; panics with its last error at the deadline.
pub fn until<T, E: Debug>(what: &str, check: impl FnMut() -> Result<T, E>) -> T {
    until_within(DEADLINE, what, check)
}

/// [`until`] with a deadline of its own.
pub fn until_within<T, E: Debug>(
    deadline: Duration,
    what: &str,
    mut check: impl FnMut() -> Result<T, E>,
) -> T {
    let (start, deadline) = (Instant::now(), patiently(deadline));
    loop {
        match check() {
            Ok(value) => return value,
            Err(error) if start.elapsed() > deadline => panic!("{what}: not within {deadline:?}: {error:?}"),
            Err(_) => std::thread::sleep(pause()),
        }
    }
}

/// Whether `check` comes true before the deadline.
pub fn comes_true(check: impl Fn() -> bool) -> bool {
    let start = Instant::now();
    while !check() {
        if start.elapsed() > patiently(DEADLINE) {
            return false;
        }
        std::thread::sleep(pause());
    }
    true
}
