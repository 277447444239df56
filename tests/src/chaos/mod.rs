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
mod sockets;
mod upgraded;

use crate::wait;
pub use cluster::Cluster;

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
    lost: AtomicUsize,
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

    /// A request has failed: the loss, unless a redirector was killed after it was sent.
    fn judge(&self, sent: Instant, error: String) -> Option<String> {
        let killed = *self.killed.lock().unwrap_or_else(PoisonError::into_inner);
        let excused = match killed {
            Kill::Never => false,
            Kill::Now => true,
            Kill::At(gone) => sent < gone,
        };
        if excused {
            self.in_flight.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        Some(error)
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
                for loss in round(&shared) {
                    eprintln!("    LOST: {loss}");
                    shared.lost.fetch_add(1, Ordering::Relaxed);
                }
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
pub fn run(other: Option<PathBuf>, mut say: impl FnMut(&str)) -> Result<Report> {
    say("two nodes, their agents on an API server, a client outside, long sessions of every kind");
    let mut cluster = Cluster::start()?;
    let shared = Arc::new(Shared::default());
    let over = Over(&shared);
    let mut runners = sockets::start(&cluster, &shared);
    runners.extend(http2::start(&cluster, &shared));
    runners.extend(upgraded::start(&cluster, &shared));
    let mut report = Report {
        sessions: runners.iter().map(|runner| runner.sessions).sum(),
        lost: 0,
        in_flight: 0,
        events: Vec::new(),
    };
    for event in events::all(other, &shared) {
        say(event.name);
        go_on(&runners);
        let before = shared.lost.load(Ordering::Relaxed);
        (event.happen)(&mut cluster, &mut || go_on(&runners))?;
        go_on(&runners);
        let lost = shared.lost.load(Ordering::Relaxed) - before;
        report.events.push(json!({"name": event.name, "lost": lost}));
    }
    drop(over);
    for runner in &mut runners {
        if let Some(thread) = runner.thread.take()
            && thread.join().is_err()
        {
            shared.lost.fetch_add(runner.sessions, Ordering::Relaxed);
        }
    }
    report.lost = shared.lost.load(Ordering::Relaxed);
    report.in_flight = shared.in_flight.load(Ordering::Relaxed);
    Ok(report)
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
