//! Upstream connections of one worker that wait for requests. Making and using them is in `upstream.rs`.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    rc::Rc,
    time::Duration,
};

use hyper::client::conn::{http1, http2};
use tokio::{sync::Mutex, time::Instant};

use super::replay::Outgoing;

/// Idle HTTP/1 connections per key; more are closed.
const IDLE_MAX: usize = 128;

/// Connections are shared by requests with the same key only.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Key {
    /// Whose address they come from; `None` is the node's.
    pub source: Option<IpAddr>,
    /// Where they go.
    pub endpoint: SocketAddr,
}

/// Upstream connections.
#[derive(Default, Debug)]
pub struct Pool {
    http1: RefCell<HashMap<Key, Vec<Idle>>>,
    http2: RefCell<HashMap<Key, Rc<Multiplexed>>>,
}

/// An HTTP/1 connection and how many requests it has had.
#[derive(Debug)]
pub struct Lease {
    /// Takes the next request.
    pub sender: http1::SendRequest<Outgoing>,
    /// Requests so far.
    pub used: u32,
    /// When it takes no more requests.
    pub until: Option<Instant>,
}

#[derive(Debug)]
struct Idle {
    lease: Lease,
    until: Instant,
}

/// The HTTP/2 connection of a key.
#[derive(Debug)]
pub struct Multiplexed {
    /// Held while a connection is made, so that one is made and not many.
    pub connecting: Mutex<()>,
    /// Connections that could not be made; who waited for one shares the result.
    pub failures: Cell<u64>,
    sender: RefCell<Option<http2::SendRequest<Outgoing>>>,
    used: Cell<u32>,
    until: Cell<Instant>,
    end_of_life: Cell<Option<Instant>>,
}

impl Pool {
    /// An idle connection that is alive as far as one can tell, the one used last.
    pub fn take(&self, key: &Key) -> Option<Lease> {
        let mut all = self.http1.borrow_mut();
        let idle = all.get_mut(key)?;
        let now = Instant::now();
        while let Some(Idle { lease, until }) = idle.pop() {
            if until > now && lease.sender.is_ready() && !lease.sender.is_closed() {
                return Some(lease);
            }
        }
        None
    }

    /// Keeps a connection for the next request, for `idle` at most.
    pub fn put(&self, key: Key, lease: Lease, idle: Duration) {
        let mut all = self.http1.borrow_mut();
        let waiting = all.entry(key).or_default();
        let until = Instant::now() + idle;
        if waiting.len() < IDLE_MAX {
            let until = lease.until.map_or(until, |end| end.min(until));
            waiting.push(Idle { lease, until });
        }
    }

    /// The place for the HTTP/2 connection of `key`.
    pub fn multiplexed(&self, key: Key) -> Rc<Multiplexed> {
        let new = || {
            Rc::new(Multiplexed {
                connecting: Mutex::new(()),
                failures: Cell::new(0),
                sender: RefCell::new(None),
                used: Cell::new(0),
                until: Cell::new(Instant::now()),
                end_of_life: Cell::new(None),
            })
        };
        self.http2.borrow_mut().entry(key).or_insert_with(new).clone()
    }

    /// Closes what is dead or was idle too long. Streams that are open go on.
    pub fn sweep(&self) {
        let now = Instant::now();
        self.http1.borrow_mut().retain(|_, idle| {
            idle.retain(|idle| idle.until > now && !idle.lease.sender.is_closed());
            !idle.is_empty()
        });
        self.http2.borrow_mut().retain(|_, multiplexed| {
            let waiting = Rc::strong_count(multiplexed) > 1;
            waiting || (multiplexed.until.get() > now && multiplexed.get(0).is_some())
        });
    }
}

impl Multiplexed {
    /// The connection, if it is alive and has had less than `limit` requests; 0 is no limit.
    pub fn get(&self, limit: u32) -> Option<http2::SendRequest<Outgoing>> {
        let spent = limit > 0 && self.used.get() >= limit;
        let spent = spent || self.end_of_life.get().is_some_and(|end| end <= Instant::now());
        let mut sender = self.sender.borrow_mut();
        if spent || sender.as_ref().is_some_and(http2::SendRequest::is_closed) {
            *sender = None;
        }
        sender.clone()
    }

    /// Replaces the connection by one that takes requests until `end_of_life`.
    pub fn set(&self, sender: http2::SendRequest<Outgoing>, end_of_life: Option<Instant>) {
        self.used.set(0);
        self.end_of_life.set(end_of_life);
        *self.sender.borrow_mut() = Some(sender);
    }

    /// Forgets the connection, which takes no more requests.
    pub fn forget(&self) {
        *self.sender.borrow_mut() = None;
    }

    /// Notes one more request, after which the connection may lie idle for `idle`.
    pub fn note(&self, idle: Duration) {
        self.used.set(self.used.get().saturating_add(1));
        self.until.set(Instant::now() + idle);
    }
}
