//! The heartbeat, and how a redirector goes: it says so, serves on until another one has its place, and only then takes no
//! more.

use std::{cell::Cell, time::Duration};

use anyhow::Result;
use rustix::time::{ClockId, clock_gettime};
use sluice_common::layout::HEARTBEAT_NS;
use tokio::sync::watch;

use super::Redirector;
use crate::{signals, sys::SharedNumber};

const BEAT: Duration = Duration::from_secs(1);
/// A worker that has not come to its tasks for so long is not well. The kernel notices three seconds later.
const HANGS: Duration = Duration::from_secs(3);
/// And after so long it will not be any more.
const GIVE_UP: Duration = Duration::from_secs(10);
/// How long we serve on for another redirector to come, once we are told to go. The agent starts one as soon as it hears of
/// it; in a cluster the next one is there before.
pub const SUCCESSOR: Duration = Duration::from_secs(10);

/// How a heart stops.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Life {
    /// A worker does not come to its tasks any more.
    Hung,
    /// We were going, and another redirector beats.
    Replaced,
}

/// What a redirector does when another one has its place, and all that was open has ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum OnceReplaced {
    /// It ends.
    End,
    /// It waits to be told so: who would only start it again, and have two take each other's place for ever, ends it later.
    /// Should the other one go first, it ends all the same, to be started again.
    Wait,
}

/// What tells the kernel that we are well.
pub struct Heart {
    number: SharedNumber,
    /// What we wrote last; 0 before that.
    last_ns: Cell<u64>,
}

impl Heart {
    /// Does not beat yet.
    pub const fn new(number: SharedNumber) -> Self {
        Self { number, last_ns: Cell::new(0) }
    }

    /// Beats for as long as this thread runs and all workers come to their tasks; once we go, until somebody else does.
    /// That needs no agent.
    pub async fn beat(&self, redirector: &Redirector, going: &watch::Sender<bool>) -> Life {
        let mut ticks = tokio::time::interval(BEAT);
        loop {
            ticks.tick().await;
            let silence = redirector.silence();
            if silence < HANGS {
                if !self.once(*going.borrow()) {
                    return Life::Replaced;
                }
            } else if silence < GIVE_UP {
                tracing::warn!(
                    ?silence,
                    "a worker hangs: connections are balanced without us meanwhile, or refused"
                );
            } else {
                return Life::Hung;
            }
        }
    }

    /// False if somebody else has beaten since, and we go.
    fn once(&self, goes: bool) -> bool {
        let (last, now) = (self.last_ns.get(), now_ns());
        if goes && last != 0 {
            // The kernel makes it 0 where it finds no listener; nobody else does.
            if !self.number.replace(last, now) && !self.number.replace(0, now) {
                return false;
            }
        } else {
            self.number.set(now);
        }
        self.last_ns.set(now);
        true
    }

    /// Waits until nobody beats any more, as the kernel sees it.
    async fn is_still(&self) {
        let mut ticks = tokio::time::interval(BEAT);
        let is_alive = |beat_ns: u64| beat_ns != 0 && now_ns().saturating_sub(beat_ns) < HEARTBEAT_NS;
        while is_alive(self.number.get()) {
            ticks.tick().await;
        }
    }

    /// Says that we are not there any more, unless somebody else is.
    pub fn stop(&self) {
        let _is_ours = self.number.replace(self.last_ns.get(), 0);
    }
}

/// Returns when nobody has taken our place in time, after a signal or after `going` was set; or at the next signal.
///
/// # Errors
/// The kernel does not let us handle signals.
pub async fn leave(going: &watch::Sender<bool>) -> Result<()> {
    let mut set = going.subscribe();
    tokio::select! {
        told = signals::stop() => told?,
        // The sender is ours.
        _never_closed = set.wait_for(|going| *going) => {}
    }
    going.send_replace(true);
    tracing::info!(
        "told to go; this process serves on until another redirector comes, {SUCCESSOR:?} at most"
    );
    tokio::select! {
        told = signals::stop() => told?,
        () = tokio::time::sleep(SUCCESSOR) => {}
    }
    Ok(())
}

/// Waits, when another redirector has our place, until we are told to end or the other one has gone.
///
/// # Errors
/// The kernel does not let us handle signals.
pub async fn outlive(heart: &Heart) -> Result<()> {
    tracing::info!("nothing is open any more; this process waits for its end");
    tokio::select! {
        told = signals::stop() => told?,
        () = heart.is_still() => tracing::warn!("the redirector that had taken over has gone: this process ends"),
    }
    Ok(())
}

/// Now, ns of `CLOCK_MONOTONIC`.
pub fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec.unsigned_abs() * 1_000_000_000 + now.tv_nsec.unsigned_abs()
}
