//! External names: asked for when a request goes there, kept for a while, and longer while nobody answers.
//!
//! The system's resolver does not tell for how long an answer holds; half a minute is what most names are given. Whoever made
//! the name says what it stands for: `forbidden.rs` has what it must not.

use std::{
    cell::RefCell,
    collections::HashMap,
    io,
    net::{SocketAddr, ToSocketAddrs as _},
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::{Mutex, Semaphore};

use super::{
    config::canonical,
    counters::{Counter, Counters},
    forbidden,
};

const FRESH: Duration = Duration::from_secs(30);
/// After a failure the next request asks again no sooner.
const AGAIN: Duration = Duration::from_secs(2);
/// An old answer is better than none for so long.
const STALE: Duration = Duration::from_secs(600);
/// No request waits longer for an answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Names that are asked for at once: each takes a thread, for as long as the resolver takes.
const ASKED_AT_ONCE: usize = 16;

/// Answers by name and port.
#[derive(Debug)]
pub struct Names {
    answers: RefCell<ByName>,
    turns: Arc<Semaphore>,
}

impl Default for Names {
    fn default() -> Self {
        Self { answers: RefCell::default(), turns: Arc::new(Semaphore::new(ASKED_AT_ONCE)) }
    }
}

type ByName = HashMap<(Arc<str>, u16), Rc<Name>>;

#[derive(Default, Debug)]
struct Name {
    /// Held while somebody asks, so that one asks and not many.
    asking: Mutex<()>,
    answer: RefCell<Answer>,
}

/// What is known of a name. Pure: time comes in.
#[derive(Clone, Default, Debug)]
struct Answer {
    addresses: Vec<SocketAddr>,
    /// Whether there were others, which are forbidden.
    refused: bool,
    /// When they were told.
    told: Option<Instant>,
    /// When it was asked for last, in vain or not.
    asked: Option<Instant>,
}

impl Answer {
    /// Whether `self` may be used without asking.
    fn is_current(&self, now: Instant) -> bool {
        let within = |at: Option<Instant>, limit| at.is_some_and(|at| now.duration_since(at) < limit);
        within(self.told, FRESH) || within(self.asked, AGAIN)
    }

    fn take(&mut self, found: io::Result<Found>, now: Instant) {
        self.asked = Some(now);
        match found {
            Ok(Found { addresses, refused }) => {
                (self.addresses, self.refused, self.told) = (addresses, refused, Some(now));
            }
            Err(_) if !self.is_useful(now) => self.addresses.clear(),
            Err(_) => {}
        }
    }

    fn is_useful(&self, now: Instant) -> bool {
        self.told.is_some_and(|told| now.duration_since(told) < STALE)
    }
}

/// What the resolver said.
#[derive(Debug)]
struct Found {
    addresses: Vec<SocketAddr>,
    refused: bool,
}

impl Names {
    /// The addresses of `name`; none when it has none, or nobody answers and nobody has for long.
    pub async fn resolve(&self, name: &Arc<str>, port: u16, counters: &Counters) -> Vec<SocketAddr> {
        let known = self.answers.borrow_mut().entry((name.clone(), port)).or_default().clone();
        if !known.answer.borrow().is_current(Instant::now()) {
            let _turn = known.asking.lock().await;
            // Who waited for a turn has the answer by now.
            let current = known.answer.borrow().is_current(Instant::now());
            if !current {
                let found = self.ask(name, port).await;
                if found.as_ref().is_ok_and(|found| found.refused) {
                    counters.count(Counter::NamesRefused);
                    tracing::warn!(%name, "leads to this node itself or its link: such addresses are left out");
                }
                known.answer.borrow_mut().take(found, Instant::now());
            }
        }
        known.answer.borrow().addresses.clone()
    }

    /// Whether `name` has no address but such as it must not have.
    pub fn is_refused(&self, name: &Arc<str>, port: u16) -> bool {
        let answers = self.answers.borrow();
        let known = answers.get(&(name.clone(), port)).map(|name| name.answer.borrow());
        known.is_some_and(|answer| answer.refused && answer.addresses.is_empty())
    }

    /// Forgets what nobody has asked for of late.
    pub fn sweep(&self) {
        let now = Instant::now();
        self.answers.borrow_mut().retain(|_, name| {
            let answer = name.answer.borrow();
            Rc::strong_count(name) > 1 || answer.is_current(now) || answer.is_useful(now)
        });
    }

    async fn ask(&self, name: &Arc<str>, port: u16) -> io::Result<Found> {
        let (turns, name) = (self.turns.clone(), name.clone());
        let asking = async {
            let turn = turns.acquire_owned().await.map_err(io::Error::other)?;
            let asked = tokio::task::spawn_blocking(move || {
                // Until the resolver gives up, which may be long after nobody waits for it any more.
                let _turn = turn;
                look_up(&name, port)
            });
            asked.await.map_err(io::Error::other)?
        };
        tokio::time::timeout(PATIENCE, asking).await.map_err(|_| io::ErrorKind::TimedOut)?
    }
}

/// Asks the resolver. Blocks.
fn look_up(name: &str, port: u16) -> io::Result<Found> {
    let mut addresses: Vec<SocketAddr> = (name, port).to_socket_addrs()?.map(canonical).collect();
    let refused = forbidden::take_out(&mut addresses, &forbidden::own()?);
    Ok(Found { addresses, refused })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_outlives_the_resolver_for_a_while() {
        let start = Instant::now();
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        let mut answer = Answer::default();
        assert!(!answer.is_current(at(0)), "nobody was asked");
        let address = SocketAddr::from(([192, 0, 2, 1], 80));
        answer.take(Ok(Found { addresses: vec![address], refused: false }), at(0));
        assert!(answer.is_current(at(29)));
        assert!(!answer.is_current(at(30)));
        answer.take(Err(io::ErrorKind::TimedOut.into()), at(30));
        assert!(answer.is_current(at(31)) && !answer.is_current(at(32)), "asked again in two seconds");
        assert_eq!(answer.addresses, [address]);
        answer.take(Err(io::ErrorKind::TimedOut.into()), at(599));
        assert_eq!(answer.addresses, [address]);
        answer.take(Err(io::ErrorKind::TimedOut.into()), at(600));
        assert!(answer.addresses.is_empty());
        answer.take(Ok(Found { addresses: Vec::new(), refused: false }), at(700));
        assert!(answer.addresses.is_empty() && answer.is_current(at(729)), "a name may have no address");
    }

    #[tokio::test]
    async fn a_resolver_that_hangs_takes_no_more_threads_than_there_are_turns() {
        let names = Names::default();
        assert!(names.ask(&"127.0.0.1".into(), 80).await.unwrap().refused, "it is asked at all");
        let all = names.turns.clone().acquire_many_owned(ASKED_AT_ONCE as u32).await.unwrap();
        let name = "127.0.0.1".into();
        let mut asking = std::pin::pin!(names.ask(&name, 80));
        let waited = tokio::time::timeout(Duration::from_millis(100), asking.as_mut()).await;
        assert!(waited.is_err(), "it waits for its turn");
        drop(all);
        assert!(asking.await.is_ok(), "and has it");
        assert_eq!(names.turns.available_permits(), ASKED_AT_ONCE, "and gives it back");
    }
}
