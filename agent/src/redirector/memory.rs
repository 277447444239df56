//! Memory that many connections have left goes back to the system: a burst of clients is not to be paid for ever.

use std::{collections::BTreeMap, time::Duration};

use super::Redirector;
use crate::sys;

/// Looking through all heaps takes some milliseconds, in which workers may wait for memory.
const EVERY: Duration = Duration::from_secs(3);
/// Fewer leave too little to look for: some 20 KB each.
const WORTH_IT: u64 = 256;

/// How many connections there were at most that keep more than their socket, since memory was given back last.
#[derive(Debug, Default)]
struct Most(u64);

impl Most {
    /// Whether enough of them have gone or lie idle; counts from here on if so.
    fn is_left(&mut self, busy: u64) -> bool {
        self.0 = self.0.max(busy);
        let is_left = self.0 - busy >= WORTH_IT;
        if is_left {
            self.0 = busy;
        }
        is_left
    }
}

/// Gives memory back when there is some, for as long as it is polled.
pub async fn give_back(redirector: &Redirector) {
    let mut ticks = tokio::time::interval(EVERY);
    let mut most = Most::default();
    loop {
        ticks.tick().await;
        if most.is_left(busy(&redirector.open())) {
            sys::give_memory_back();
        }
    }
}

/// Connections of clients that do not rest.
fn busy(open: &BTreeMap<String, u64>) -> u64 {
    let count = |name| open.get(name).copied().unwrap_or(0);
    count("clientConnections").saturating_sub(count("restingConnections"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_given_back_once_for_each_few_hundred_that_went() {
        let mut most = Most::default();
        let verdicts =
            [(300, false), (299, false), (44, true), (0, false), (256, false), (255, false), (0, true)];
        for (busy, verdict) in verdicts {
            assert_eq!(most.is_left(busy), verdict, "{busy}");
        }
    }

    #[test]
    fn those_at_rest_are_not_busy() {
        let open = |clients, resting| {
            let counts = [("clientConnections", clients), ("restingConnections", resting)];
            counts.into_iter().map(|(name, count)| (name.to_owned(), count)).collect()
        };
        assert_eq!([busy(&open(5, 3)), busy(&open(3, 5)), busy(&BTreeMap::new())], [2, 0, 0]);
    }
}
