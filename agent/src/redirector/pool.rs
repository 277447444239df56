//! Upstream connections of one worker that wait for requests. Making and using them is in `upstream.rs`.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use hyper::client::conn::{http1, http2};
use tokio::{sync::Mutex, time::Instant};

use super::{
    destinations::{OneUse, Row, Use},
    proxy_protocol::Ends,
    replay::Outgoing,
};

/// Idle HTTP/1 connections per key; more are closed.
const IDLE_MAX: usize = 128;

/// Connections are shared by requests with the same key only.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Key {
    /// Whose address they come from; `None` is the node's.
    pub source: Option<IpAddr>,
    /// Where they go.
    pub endpoint: SocketAddr,
    /// Whose connection they carry, if endpoints are told; such a connection is not shared.
    pub ends: Option<Ends>,
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
    /// What the destination has open for which it was made.
    pub row: Arc<Row>,
}

#[derive(Debug)]
struct Idle {
    lease: Lease,
    until: Instant,
    _used: OneUse,
}

/// The HTTP/2 connections of a key: one, unless `maxConcurrentStreams` asks for more.
#[derive(Debug)]
pub struct Multiplexed {
    /// Held while a connection is made, so that one is made and not many.
    pub connecting: Mutex<()>,
    /// Connections that could not be made; who waited for one shares the result.
    pub failures: Cell<u64>,
    connections: RefCell<Vec<Connection>>,
    until: Cell<Instant>,
}

#[derive(Debug)]
struct Connection {
    sender: http2::SendRequest<Outgoing>,
    used: u32,
    open: Rc<Cell<u32>>,
    end_of_life: Option<Instant>,
}

/// The most that an HTTP/2 connection takes; 0 is no limit.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Requests, one after the other or not.
    pub requests: u32,
    /// Requests at once.
    pub streams: u32,
}

/// A place on an HTTP/2 connection, until this is dropped.
#[derive(Debug)]
pub struct Stream(Rc<Cell<u32>>);

impl Drop for Stream {
    fn drop(&mut self) {
        self.0.set(self.0.get().saturating_sub(1));
    }
}

impl Pool {
    /// An idle connection that is alive as far as one can tell, the one used last.
    pub fn take(&self, key: &Key) -> Option<Lease> {
        let mut all = self.http1.borrow_mut();
        let idle = all.get_mut(key)?;
        let now = Instant::now();
        while let Some(Idle { lease, until, .. }) = idle.pop() {
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
            let used = lease.row.one(Use::Idle);
            waiting.push(Idle { lease, until, _used: used });
        }
    }

    /// The place for the HTTP/2 connection of `key`.
    pub fn multiplexed(&self, key: Key) -> Rc<Multiplexed> {
        let new = || {
            Rc::new(Multiplexed {
                connecting: Mutex::new(()),
                failures: Cell::new(0),
                connections: RefCell::default(),
                until: Cell::new(Instant::now()),
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
            waiting || (multiplexed.until.get() > now && multiplexed.is_alive())
        });
    }
}

impl Multiplexed {
    /// A connection that is alive and has room, and a place on it.
    pub fn get(&self, limits: Limits) -> Option<(http2::SendRequest<Outgoing>, Stream)> {
        let now = Instant::now();
        let mut connections = self.connections.borrow_mut();
        connections.retain(|one| {
            let spent = limits.requests > 0 && one.used >= limits.requests;
            !spent && one.end_of_life.is_none_or(|end| end > now) && !one.sender.is_closed()
        });
        let has_room = |one: &&mut Connection| limits.streams == 0 || one.open.get() < limits.streams;
        let free = connections.iter_mut().find(has_room)?;
        free.used = free.used.saturating_add(1);
        free.open.set(free.open.get() + 1);
        Some((free.sender.clone(), Stream(free.open.clone())))
    }

    fn is_alive(&self) -> bool {
        let now = Instant::now();
        let connections = self.connections.borrow();
        connections.iter().any(|one| !one.sender.is_closed() && one.end_of_life.is_none_or(|end| end > now))
    }

    /// Adds a connection that takes requests until `end_of_life`; the first of them has a place on it.
    pub fn add(&self, sender: http2::SendRequest<Outgoing>, end_of_life: Option<Instant>) -> Stream {
        let open = Rc::new(Cell::new(1));
        let connection = Connection { sender, used: 1, open: open.clone(), end_of_life };
        self.connections.borrow_mut().push(connection);
        Stream(open)
    }

    /// Forgets the connection of `stream`, which takes no more requests.
    pub fn forget(&self, stream: &Stream) {
        self.connections.borrow_mut().retain(|one| !Rc::ptr_eq(&one.open, &stream.0));
    }

    /// Notes a request, after which connections may lie idle for `idle`.
    pub fn note(&self, idle: Duration) {
        self.until.set(Instant::now() + idle);
    }
}
