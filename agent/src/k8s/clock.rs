//! A clock that is set back. kube keeps a service account's token until a time of day: set back by an hour, it would go on
//! with a token that has expired by the server's clock for an hour and a minute.

use std::time::{Duration, Instant, SystemTime};

/// Between two looks.
const EVERY: Duration = Duration::from_secs(5);
/// Less is a clock that is kept in time; a token is good for longer than this after kube would have read it again.
const SLACK: Duration = Duration::from_secs(5);

/// Returns when the time of day has been set back.
pub async fn is_set_back() {
    let mut before = (Instant::now(), SystemTime::now());
    loop {
        tokio::time::sleep(EVERY).await;
        let now = (Instant::now(), SystemTime::now());
        if goes_back(now.0.duration_since(before.0), before.1, now.1) {
            return;
        }
        before = now;
    }
}

/// Whether the time of day fell behind while `passed` went by.
fn goes_back(passed: Duration, before: SystemTime, now: SystemTime) -> bool {
    now.duration_since(before).map_or(true, |told| told + SLACK < passed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_back_are_told_from_clocks_that_are_kept_in_time() {
        let at = |seconds: u64| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        for (case, passed_s, now, want) in [
            ("as it should be", 5, 1_005, false),
            ("slewed", 5, 1_003, false),
            ("late", 300, 1_300, false),
            ("forward", 5, 9_000, false),
            ("back", 5, 995, true),
            ("back by a day", 5, 0, true),
            ("back, and on in time since", 300, 1_100, true),
        ] {
            assert_eq!(goes_back(Duration::from_secs(passed_s), at(1_000), at(now)), want, "{case}");
        }
    }
}
