//! Which requests of a client's connection are under way, and how the bytes of the next come in.

use std::{
    cell::Cell,
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{sync::Notify, time::Sleep};

use super::{
    counters::{Counter, Counters},
    frames::Frames,
    heads::Heads,
};

/// What a connection's stream and its requests tell each other.
#[derive(Debug)]
pub struct Pace {
    begun: Cell<u64>,
    ended: Cell<u64>,
    /// How long the head of a request may take from its first byte.
    limit: Duration,
    /// The first request that is refused, for what follows it can be read in two ways.
    refused: Cell<u64>,
    /// Nothing of a message has come that has not come whole.
    at_rest: Cell<bool>,
    /// Something waits to be written.
    full: Cell<bool>,
    keeps_open: Cell<bool>,
    /// The connection is no HTTP any more.
    left: Cell<bool>,
    counters: Arc<Counters>,
    begins: Notify,
}

/// A request that is under way until this is dropped.
#[derive(Debug)]
pub struct UnderWay {
    pace: Rc<Pace>,
    /// It can be read in two ways, or comes after one that can.
    pub is_doubtful: bool,
}

impl Pace {
    /// No request yet; `limit` is how long the head of one may take from its first byte.
    pub fn new(limit: Duration, counters: Arc<Counters>) -> Rc<Self> {
        Rc::new(Self {
            begun: Cell::new(0),
            ended: Cell::new(0),
            limit,
            refused: Cell::new(u64::MAX),
            at_rest: Cell::new(true),
            full: Cell::new(false),
            keeps_open: Cell::new(false),
            left: Cell::new(false),
            counters,
            begins: Notify::new(),
        })
    }

    /// The head of a request is complete.
    pub fn begin(self: &Rc<Self>) -> UnderWay {
        let number = self.begun.get();
        self.begun.set(number + 1);
        self.begins.notify_one();
        UnderWay { pace: self.clone(), is_doubtful: number >= self.refused.get() }
    }

    /// Returns once a request is under way.
    pub async fn is_under_way(&self) {
        while self.ended().is_some() {
            self.begins.notified().await;
        }
    }

    /// Requests that have ended; `None` while one is under way.
    pub fn ended(&self) -> Option<u64> {
        (self.begun == self.ended).then(|| self.ended.get())
    }

    /// Whether nothing is lost of an HTTP/1 connection by leaving off here.
    pub fn is_at_rest(&self) -> bool {
        self.begun == self.ended && self.at_rest.get() && !self.full.get()
    }

    /// Whether the socket outlives what serves it.
    pub fn keep_open(&self, keep: bool) {
        self.keeps_open.set(keep);
    }

    /// From now on what comes is no HTTP.
    pub fn leave(&self) {
        self.left.set(true);
    }

    /// Whether it is HTTP no more.
    pub fn has_left(&self) -> bool {
        self.left.get()
    }

    /// Returns once no request was under way for `limit`; looks so many times meanwhile, and returns as much later at most.
    pub async fn idle_for(&self, limit: Duration, looks: u32) {
        let mut seen = (self.ended(), 0);
        while seen.1 < looks {
            tokio::time::sleep(limit / looks).await;
            let ended = self.ended();
            seen = if ended.is_some() && ended == seen.0 { (ended, seen.1 + 1) } else { (ended, 0) };
        }
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.pace.ended.set(self.pace.ended.get() + 1);
    }
}

/// Reads along with the server, so that a head that does not come to its end is noticed.
#[derive(Debug)]
pub struct Watch {
    pace: Rc<Pace>,
    wire: Wire,
    /// Of the head with this number.
    timer: Option<(u64, Pin<Box<Sleep>>)>,
}

#[derive(Debug)]
enum Wire {
    Http1(Heads),
    Http2(Frames),
}

impl Watch {
    /// Of requests by HTTP/1.
    pub fn http1(pace: Rc<Pace>) -> Self {
        Self { pace, wire: Wire::Http1(Heads::default()), timer: None }
    }

    /// Of requests by HTTP/2, behind a preface of so many bytes.
    pub fn http2(pace: Rc<Pace>, preface: usize) -> Self {
        Self { pace, wire: Wire::Http2(Frames::after(preface)), timer: None }
    }

    /// Whether the client can be told in words of HTTP/1 that it is too slow, and nothing else is being said.
    pub fn can_tell(&self) -> bool {
        matches!(self.wire, Wire::Http1(_)) && !self.pace.full.get()
    }

    /// Whether something waits to be written.
    pub fn set_full(&self, full: bool) {
        self.pace.full.set(full);
    }

    /// Whether the socket outlives what serves it.
    pub fn keeps_open(&self) -> bool {
        self.pace.keeps_open.get()
    }

    /// Reads what came; `longest` is what a header block may have before it is counted as too long.
    pub fn take(&mut self, bytes: &[u8], longest: usize) {
        if self.pace.left.get() {
            return;
        }
        match &mut self.wire {
            Wire::Http1(heads) => {
                heads.take(bytes);
                self.pace.at_rest.set(heads.is_between());
                self.pace.refused.set(heads.doubtful().unwrap_or(u64::MAX));
            }
            Wire::Http2(frames) => {
                if frames.take(bytes, longest) {
                    self.pace.counters.count(Counter::RefusedLargeHeaders);
                }
            }
        }
    }

    /// Ready once the head that is open has been so for too long.
    pub fn poll_late(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let open = match &self.wire {
            // What comes before the answer to the request in front has time.
            Wire::Http1(heads) if self.pace.ended().is_some() => heads.open(),
            Wire::Http1(_) => None,
            Wire::Http2(frames) => frames.open(),
        };
        let Some(number) = open.filter(|_| !self.pace.left.get()) else {
            self.timer = None;
            return Poll::Pending;
        };
        let limit = self.pace.limit;
        let timer = match &mut self.timer {
            Some((of, timer)) if *of == number => timer,
            other => &mut other.insert((number, Box::pin(tokio::time::sleep(limit)))).1,
        };
        timer.as_mut().poll(cx)
    }
}
