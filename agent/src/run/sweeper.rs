//! A thread that tells sockets of backends that are gone, and of rules that they would escape. Apart from the programming
//! thread, for it visits every pod's network namespace.

use std::{
    os::fd::BorrowedFd,
    path::PathBuf,
    sync::{Arc, mpsc},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use sluice_common::layout::RevnatKey;

use crate::{
    health::Shared,
    maps::{Pins, bpf::SocketMemory},
    sockets::{Doomed, Home, Memory, sweep},
};

/// A sweep lists the sockets of every pod: how many parts of the thread's time are left to others for each that it takes,
/// so that endpoints which change all the time cost a fiftieth of a core.
const REST: u32 = 49;
const SHORTEST_REST: Duration = Duration::from_millis(500);
const LONGEST_REST: Duration = Duration::from_secs(10);

struct Maps(SocketMemory);

impl Memory for Maps {
    fn sockets(&self) -> BorrowedFd<'_> {
        self.0.sockets()
    }

    fn has_revnat(&self, key: &RevnatKey) -> bool {
        self.0.has_revnat(key)
    }
}

/// Starts the thread; it ends with the sender.
pub fn spawn(pins: Pins, cgroup: PathBuf, shared: Arc<Shared>) -> Result<mpsc::Sender<Doomed>> {
    let (sender, receiver) = mpsc::channel::<Doomed>();
    let home = Home::here().context("cannot open the node's network namespace")?;
    std::thread::Builder::new().name("sweeper".to_owned()).spawn(move || {
        while let Ok(mut doomed) = receiver.recv() {
            receiver.try_iter().for_each(|more| doomed.add(more));
            let start = Instant::now();
            let told = SocketMemory::open(&pins).map(|memory| sweep(&cgroup, &doomed, &Maps(memory)));
            home.go_back();
            match told {
                Ok(0) => {}
                Ok(count) => {
                    tracing::info!(
                        sockets = count,
                        "told sockets that their backend is gone, or that rules hold"
                    );
                    shared.update(|state| state.sockets_destroyed += count as u64);
                }
                Err(error) => tracing::warn!(
                    "sockets of deleted backends, or that escape rules, were not told: {error:#}"
                ),
            }
            // What goes meanwhile is swept together.
            std::thread::sleep(rest(start.elapsed()));
        }
    })?;
    Ok(sender)
}

fn rest(took: Duration) -> Duration {
    (took * REST).clamp(SHORTEST_REST, LONGEST_REST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sweeps_take_a_fiftieth_of_the_time() {
        let ms = Duration::from_millis;
        for (took, want) in [(0, 500), (4, 500), (20, 980), (100, 4_900), (60_000, 10_000)] {
            assert_eq!(rest(ms(took)), ms(want), "{took} ms");
        }
    }
}
