//! Long sessions of every kind through everything that happens to a node: `cargo xtask chaos`. A session that ends, is led
//! elsewhere or stays unanswered is lost, and none may be; but requests that had been sent when a redirector was killed.

use std::{
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::Result;
use serde_json::{Value, json};

mod cluster;
mod events;
mod http2;
mod sabotage;
mod sockets;
mod upgraded;

use crate::wait;
pub use cluster::Cluster;
use events::Event;
pub use sabotage::sabotage;

/// Rounds of every session before and after an event.
const ROUNDS: usize = 3;
const DEADLINE: Duration = Duration::from_secs(60);
/// Between two rounds of a session: agents that start need some of the CPU too.
const BREATH: Duration = Duration::from_millis(20);

/// What all sessions share.
#[derive(Debug, Default)]
struct Shared {
    over: AtomicBool,
    killed: Mutex<Kill>,
    redirector_goes: AtomicBool,
    lost: Mutex<Vec<String>>,
    in_flight: AtomicUsize,
}

/// When a redirector was killed.
#[derive(Clone, Copy, Debug, Default)]
enum Kill {
    #[default]
    Never,
    /// It is being killed.
    Now,
    /// It was gone, with all of its sockets.
    At(Instant),
}

impl Shared {
    fn kill(&self, kill: Kill) {
        *self.killed.lock().unwrap_or_else(PoisonError::into_inner) = kill;
    }

    /// Whether a redirector is told to go in this event, and may close connections in good order.
    fn redirector_goes(&self) -> bool {
        self.redirector_goes.load(Ordering::Relaxed)
    }

    /// Whether a redirector was killed after `since`, with all that it had.
    fn excuses(&self, since: Instant) -> bool {
        match *self.killed.lock().unwrap_or_else(PoisonError::into_inner) {
            Kill::Never => false,
            Kill::Now => true,
            Kill::At(gone) => since < gone,
        }
    }

    /// A request has failed: the loss, unless a redirector was killed after it was sent.
    fn judge(&self, sent: Instant, error: String) -> Option<String> {
        if self.excuses(sent) {
            self.in_flight.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        Some(error)
    }

    fn lose(&self, loss: String) {
        eprintln!("    LOST: {loss}");
        self.lost.lock().unwrap_or_else(PoisonError::into_inner).push(loss);
    }

    /// What was lost since the last call.
    fn take_lost(&self) -> Vec<String> {
        std::mem::take(&mut *self.lost.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Ends the sessions, also when an event cannot be made.
struct Over<'s>(&'s Shared);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.over.store(true, Ordering::Relaxed);
    }
}

/// One thread of sessions.
struct Runner {
    rounds: Arc<AtomicUsize>,
    sessions: usize,
    thread: Option<JoinHandle<()>>,
}

impl Runner {
    /// Runs `round` until it is over. It returns what was lost in it.
    fn start(
        shared: &Arc<Shared>,
        sessions: usize,
        mut round: impl FnMut(&Shared) -> Vec<String> + Send + 'static,
    ) -> Self {
        let rounds = Arc::new(AtomicUsize::new(0));
        let (shared, count) = (Arc::clone(shared), Arc::clone(&rounds));
        let thread = std::thread::spawn(move || {
            while !shared.over.load(Ordering::Relaxed) {
                round(&shared).into_iter().for_each(|loss| shared.lose(loss));
                count.fetch_add(1, Ordering::Relaxed);
                std::thread::sleep(BREATH);
            }
        });
        Self { rounds, sessions, thread: Some(thread) }
    }
}

/// What came of it.
#[derive(Debug)]
pub struct Report {
    sessions: usize,
    lost: usize,
    in_flight: usize,
    events: Vec<Value>,
}

impl Report {
    /// Whether nothing was lost.
    pub const fn is_ok(&self) -> bool {
        self.lost == 0
    }

    /// For people.
    pub fn text(&self) -> String {
        let Self { sessions, lost, in_flight, events } = self;
        format!(
            "{sessions} sessions through {} events: {lost} lost; {in_flight} requests in flight when a redirector was killed\n",
            events.len()
        )
    }

    /// For scripts.
    pub fn json(&self) -> String {
        json!({"sessions": self.sessions, "lost": self.lost, "lostInFlight": self.in_flight, "events": self.events})
            .to_string()
    }
}

/// Runs everything. `other` is the binary that is upgraded to and downgraded from; without one the same binary with other
/// sizes of maps, which are made anew for it, stands for it.
///
/// # Errors
/// The cluster does not come up, or an event cannot be made.
pub fn run(other: Option<PathBuf>, say: impl FnMut(&str)) -> Result<Report> {
    let (sessions, in_flight, losses) = through(|shared| events::all(other, shared), say)?;
    let lost = losses.iter().map(|(_, lost)| lost.len()).sum();
    let row = |(name, lost): &(&str, Vec<String>)| json!({"name": name, "lost": lost.len()});
    Ok(Report { sessions, lost, in_flight, events: losses.iter().map(row).collect() })
}

/// How many sessions there were, how many requests were in flight, and what was lost in each event.
type Outcome = (usize, usize, Vec<(&'static str, Vec<String>)>);

/// Takes sessions of every kind through events.
fn through(events: impl FnOnce(&Arc<Shared>) -> Vec<Event>, mut say: impl FnMut(&str)) -> Result<Outcome> {
    say("two nodes, their agents on an API server, a client outside, long sessions of every kind");
    let mut cluster = Cluster::start()?;
    let shared = Arc::new(Shared::default());
    let over = Over(&shared);
    let mut runners = sockets::start(&cluster, &shared);
    runners.extend(http2::start(&cluster, &shared));
    runners.extend(upgraded::start(&cluster, &shared));
    let sessions = runners.iter().map(|runner| runner.sessions).sum();
    let mut losses = Vec::new();
    for event in events(&shared) {
        say(event.name);
        shared.redirector_goes.store(event.redirector_goes, Ordering::Relaxed);
        go_on(&runners);
        (event.happen)(&mut cluster, &mut || go_on(&runners))?;
        go_on(&runners);
        losses.push((event.name, shared.take_lost()));
    }
    drop(over);
    for runner in &mut runners {
        if let Some(thread) = runner.thread.take()
            && thread.join().is_err()
        {
            shared.lose(format!("{} sessions, whose thread panicked", runner.sessions));
        }
    }
    if let Some((_, lost)) = losses.last_mut() {
        lost.extend(shared.take_lost());
    }
    Ok((sessions, shared.in_flight.load(Ordering::Relaxed), losses))
}

/// Waits until every session went on for some rounds.
fn go_on(runners: &[Runner]) {
    let seen: Vec<usize> = runners.iter().map(|runner| runner.rounds.load(Ordering::Relaxed)).collect();
    wait::until_within(DEADLINE, "sessions go on", || {
        let now = runners.iter().map(|runner| runner.rounds.load(Ordering::Relaxed));
        let enough = now.zip(&seen).all(|(now, seen)| now >= seen + ROUNDS);
        let ended = runners.iter().any(|runner| runner.thread.as_ref().is_none_or(JoinHandle::is_finished));
        if enough || ended { Ok(()) } else { Err("still waiting") }
    });
}
