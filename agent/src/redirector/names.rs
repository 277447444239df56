//! External names: asked for when a request goes there, kept for a while, and longer while nobody answers.
//!
//! The system's resolver does not tell for how long an answer holds; half a minute is what most names are given.

use std::{
    cell::RefCell,
    collections::HashMap,
    io,
    net::SocketAddr,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::Mutex;

use super::config::canonical;

const FRESH: Duration = Duration::from_secs(30);
/// After a failure the next request asks again no sooner.
const AGAIN: Duration = Duration::from_secs(2);
/// An old answer is better than none for so long.
const STALE: Duration = Duration::from_secs(600);
/// No request waits longer for an answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Answers by name and port.
#[derive(Default, Debug)]
pub struct Names(RefCell<ByName>);

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

    fn take(&mut self, found: io::Result<Vec<SocketAddr>>, now: Instant) {
        self.asked = Some(now);
        match found {
            Ok(addresses) => (self.addresses, self.told) = (addresses, Some(now)),
            Err(_) if !self.is_useful(now) => self.addresses.clear(),
            Err(_) => {}
        }
    }

    fn is_useful(&self, now: Instant) -> bool {
        self.told.is_some_and(|told| now.duration_since(told) < STALE)
    }
}

impl Names {
    /// The addresses of `name`; none when it has none, or nobody answers and nobody has for long.
    pub async fn resolve(&self, name: &Arc<str>, port: u16) -> Vec<SocketAddr> {
        let known = self.0.borrow_mut().entry((name.clone(), port)).or_default().clone();
        if !known.answer.borrow().is_current(Instant::now()) {
            let _turn = known.asking.lock().await;
            // Who waited for a turn has the answer by now.
            let current = known.answer.borrow().is_current(Instant::now());
            if !current {
                let found = ask(name, port).await;
                known.answer.borrow_mut().take(found, Instant::now());
            }
        }
        known.answer.borrow().addresses.clone()
    }

    /// Forgets what nobody has asked for of late.
    pub fn sweep(&self) {
        let now = Instant::now();
        self.0.borrow_mut().retain(|_, name| {
            let answer = name.answer.borrow();
            Rc::strong_count(name) > 1 || answer.is_current(now) || answer.is_useful(now)
        });
    }
}

async fn ask(name: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    let lookup = tokio::net::lookup_host((name, port));
    let found = tokio::time::timeout(PATIENCE, lookup).await;
    Ok(found.map_err(|_| io::ErrorKind::TimedOut)??.map(canonical).collect())
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
        answer.take(Ok(vec![address]), at(0));
        assert!(answer.is_current(at(29)));
        assert!(!answer.is_current(at(30)));
        answer.take(Err(io::ErrorKind::TimedOut.into()), at(30));
        assert!(answer.is_current(at(31)) && !answer.is_current(at(32)), "asked again in two seconds");
        assert_eq!(answer.addresses, [address]);
        answer.take(Err(io::ErrorKind::TimedOut.into()), at(599));
        assert_eq!(answer.addresses, [address]);
        answer.take(Err(io::ErrorKind::TimedOut.into()), at(600));
        assert!(answer.addresses.is_empty());
        answer.take(Ok(Vec::new()), at(700));
        assert!(answer.addresses.is_empty() && answer.is_current(at(729)), "a name may have no address");
    }
}
