//! What belongs to one worker thread, and what all workers share.

use std::{cell::Cell, net::IpAddr, rc::Rc, sync::Arc, time::Duration};

use tokio::{
    sync::{Notify, watch},
    time::Instant,
};

use super::{
    balance::Balancer,
    circuit::Circuits,
    config::Config,
    counters::{self, Counter, Counters, OneOpen},
    draws::Draws,
    limits::{Clients, Excess, Place},
    monitors::Monitors,
    names::Names,
    options::Options,
    pool::Pool,
    pulse::Pulse,
};

/// How long a connection without a request is kept when draining begins: its request may be on its way.
pub const DRAIN_GRACE: Duration = Duration::from_secs(1);

/// Where the redirector is in its life.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Phase {
    /// Connections are taken.
    Serving,
    /// None are taken any more; what is left ends at this time.
    Draining(Instant),
}

/// What all workers share.
#[derive(Debug)]
pub struct Shared {
    /// Settings.
    pub options: Options,
    /// The configuration; replaced as a whole.
    pub config: watch::Sender<Arc<Config>>,
    /// Open connections by client.
    pub clients: Arc<Clients>,
    /// What clients have open, where that is limited.
    pub circuits: Circuits,
    /// Health of endpoints.
    pub monitors: Monitors,
    /// Where we are.
    pub phase: watch::Sender<Phase>,
}

/// What belongs to one thread.
#[derive(Debug)]
pub struct Worker {
    /// What all workers share.
    pub shared: Arc<Shared>,
    /// Counters.
    pub counters: Arc<Counters>,
    /// Whether it comes to its tasks.
    pub pulse: Arc<Pulse>,
    /// Random draws.
    pub draws: Draws,
    /// Upstream connections.
    pub pool: Pool,
    /// Choice of endpoints.
    pub balancer: Balancer,
    /// External names.
    pub names: Names,
    /// Copies on their way.
    pub mirrors: Cell<u32>,
    open: Cell<usize>,
    closed: Notify,
}

/// A connection or tunnel that counts as open until this is dropped.
#[derive(Debug)]
pub struct Open {
    worker: Rc<Worker>,
    _counted: OneOpen,
}

impl Worker {
    /// Worker number `index`.
    pub fn new(shared: Arc<Shared>, counters: Arc<Counters>, index: u64, pulse: Arc<Pulse>) -> Self {
        let seed = shared.options.seed.map(|seed| seed.wrapping_add(index << 32));
        Self {
            shared,
            counters,
            pulse,
            draws: Draws::new(seed),
            pool: Pool::default(),
            balancer: Balancer::default(),
            names: Names::default(),
            mirrors: Cell::new(0),
            open: Cell::new(0),
            closed: Notify::new(),
        }
    }

    /// The configuration as it is now.
    pub fn config(&self) -> Arc<Config> {
        self.shared.config.borrow().clone()
    }

    /// Settings.
    pub fn options(&self) -> &Options {
        &self.shared.options
    }

    /// Counts one.
    pub fn count(&self, counter: Counter) {
        self.counters.count(counter);
    }

    /// A place for a connection from `address`; `None`, counted, when there are too many, of its client or in all.
    pub fn admit(self: &Rc<Self>, address: IpAddr) -> Option<Rc<Place>> {
        let client = self.shared.config.borrow().client(address);
        match self.shared.clients.enter(client, self.options().connection_limit()) {
            Ok(place) => Some(Rc::new(place)),
            Err(excess) => {
                self.count(match excess {
                    Excess::Client => Counter::RefusedClientLimit,
                    Excess::All => Counter::RefusedConnectionsInAll,
                });
                None
            }
        }
    }

    /// Keeps the worker alive for a connection, or for a tunnel, which outlives the connection that it began on.
    pub fn keep(self: &Rc<Self>) -> Open {
        self.open.set(self.open.get() + 1);
        let counted = OneOpen::new(&self.counters, counters::Open::Clients);
        Open { worker: self.clone(), _counted: counted }
    }

    /// Returns once draining has begun.
    pub async fn draining(&self) -> Instant {
        let mut phase = self.shared.phase.subscribe();
        loop {
            if let Phase::Draining(end) = *phase.borrow_and_update() {
                return end;
            }
            if phase.changed().await.is_err() {
                return Instant::now();
            }
        }
    }

    /// Returns once draining is over: nothing is open, or the time is up.
    pub async fn drained(&self) {
        let end = self.draining().await;
        let empty = async {
            while self.open.get() > 0 {
                self.closed.notified().await;
            }
        };
        // An error is the end of time.
        let _elapsed = tokio::time::timeout_at(end, empty).await;
    }

    /// Closes what lies idle, for ever.
    pub async fn sweep(self: Rc<Self>) {
        let mut tick = tokio::time::interval(Duration::from_secs(1));
        loop {
            tick.tick().await;
            self.pool.sweep();
            self.balancer.sweep(&self.config());
            self.counters.destinations.sweep();
            self.names.sweep();
            self.shared.circuits.sweep();
            self.shared.monitors.sweep();
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.worker.open.set(self.worker.open.get().saturating_sub(1));
        if self.worker.open.get() == 0 {
            self.worker.closed.notify_waiters();
            self.worker.closed.notify_one();
        }
    }
}
