//! Whether connections that are left for the redirector come to it: netfilter's INPUT chain, or a CNI that goes past the
//! node's stack, may keep them from it, and then clients wait until they give up.

use std::time::{Duration, Instant};

use sluice_common::reason::Reason;

use crate::{health::Shared, maps::bpf::BpfMaps};

const WINDOW: Duration = Duration::from_secs(10);
/// Fewer say nothing.
const ENOUGH: u64 = 10;
/// The part of them that must come, as one in so many: a packet that is lost is sent again, and comes.
const PART: u64 = 4;

/// Compares what the kernel counts, over some seconds each time.
#[derive(Default)]
pub struct Arrivals {
    last: Option<(Instant, Counts)>,
}

#[derive(Clone, Copy)]
struct Counts {
    left: u64,
    came: u64,
}

impl Arrivals {
    /// Looks when it is time to, while `steers`.
    pub fn check(&mut self, maps: &BpfMaps, steers: bool, shared: &Shared) {
        if !steers {
            if self.last.take().is_some() {
                shared.problem("arrivals", None);
            }
            return;
        }
        let now = Instant::now();
        if self.last.is_some_and(|(at, _)| now.duration_since(at) < WINDOW) {
            return;
        }
        let Ok(counts) = maps.reasons() else { return };
        let count =
            |wanted| counts.iter().find(|(reason, _)| *reason == wanted).map_or(0, |(_, count)| *count);
        let counts = Counts { left: count(Reason::Redirected), came: count(Reason::Steered) };
        if let Some((_, before)) = self.last.replace((now, counts))
            && let Some(verdict) = judge(before, counts)
        {
            shared.problem("arrivals", verdict);
        }
    }
}

/// What is wrong, if anything is; `None` when too few were left to tell.
fn judge(before: Counts, now: Counts) -> Option<Option<String>> {
    let (left, came) = (now.left.saturating_sub(before.left), now.came.saturating_sub(before.came));
    if left < ENOUGH {
        // Those that come are reason enough to take it back.
        return (came > 0 && came >= left).then_some(None);
    }
    let lost = came.saturating_mul(PART) < left;
    Some(lost.then(|| {
        format!(
            "{left} connections to Services with rules were left for the redirector in {} s, and {came} came: something \
             on the node drops them, such as a chain of netfilter's INPUT hook, or a CNI goes past the node's stack \
             (docs/troubleshooting.md, \"Connections time out\")",
            WINDOW.as_secs()
        )
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_that_never_come_are_missed() {
        let told = |left: u64, came: u64| {
            judge(Counts { left: 100, came: 50 }, Counts { left: 100 + left, came: 50 + came })
        };
        for (case, left, came, want) in [
            ("nothing happens", 0, 0, None),
            ("few are left", 9, 0, None),
            ("few are left and come", 9, 9, Some(false)),
            ("all come", 10, 10, Some(false)),
            ("more come: a packet was sent again", 10, 12, Some(false)),
            ("some are lost", 100, 25, Some(false)),
            ("most are lost", 100, 24, Some(true)),
            ("none comes", 10, 0, Some(true)),
        ] {
            let verdict = told(left, came).map(|problem| problem.is_some());
            assert_eq!(verdict, want, "{case}");
        }
    }
}
