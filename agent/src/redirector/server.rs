//! The redirector as the process holds it: threads, listeners, snapshots in, counters out, the end.

use std::{
    collections::BTreeMap,
    io,
    net::{SocketAddr, TcpListener as StdListener},
    pin::pin,
    rc::Rc,
    sync::{Arc, Mutex, PoisonError},
    thread::{self, JoinHandle},
    time::Duration,
};

use futures_util::{FutureExt, StreamExt, future, stream::FuturesUnordered};
use socket2::SockRef;
use tokio::{
    net::{TcpListener, TcpStream},
    runtime::{Builder, Runtime},
    sync::watch,
    task::{LocalSet, spawn_local},
    time::Instant,
};

use crate::metrics::{DestinationCounts, RouteCounts, RouteName};

use super::{
    bounded::Bounded,
    circuit::Circuits,
    config::Config,
    connection,
    counters::{Counter, Counters},
    monitors::Monitors,
    options::Options,
    pulse::Pulse,
    snapshot::Snapshot,
    worker::{Phase, Shared, Worker},
};

/// Pause after `accept` failed: without file descriptors it would fail again at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Connections taken of one listener before others have their turn.
const ACCEPT_TURN: u32 = 64;

/// How long connections are still taken when draining begins, where nobody is led here any more: their handshakes had begun.
const LATE: Duration = Duration::from_secs(2);

/// What stands for a deadline beyond all clocks.
const LONGEST_DRAIN: Duration = Duration::from_secs(365 * 24 * 3600);

/// Running workers. Dropping it ends them at once.
#[derive(Debug)]
pub struct Redirector {
    shared: Arc<Shared>,
    counters: Vec<Arc<Counters>>,
    pulses: Vec<Arc<Pulse>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    rows: Mutex<Bounded<RouteName>>,
    told: Mutex<Bounded<String>>,
}

/// A snapshot that is ready for use.
#[derive(Debug)]
pub struct Compiled(Config);

impl Redirector {
    /// Starts one thread for each list of listeners, which must be bound and listening.
    ///
    /// Until the first [`Self::apply`] every connection is closed.
    ///
    /// # Errors
    /// A thread or its runtime cannot be made, or a listener cannot be polled; what was started ends.
    pub fn start(listeners_per_worker: Vec<Vec<StdListener>>, options: Options) -> io::Result<Self> {
        Self::start_with(listeners_per_worker, options, Compiled(Config::default()))
    }

    /// Makes a snapshot ready for [`Self::start_with`]. What cannot be used of it is logged.
    pub fn compile(snapshot: Snapshot) -> Compiled {
        let (config, left_out) = Config::compile(snapshot);
        left_out.iter().for_each(|text| tracing::warn!("left out of the snapshot: {text}"));
        Compiled(config)
    }

    /// [`Self::start`], serving from the first connection on.
    ///
    /// # Errors
    /// As there.
    pub fn start_with(
        listeners_per_worker: Vec<Vec<StdListener>>,
        options: Options,
        first: Compiled,
    ) -> io::Result<Self> {
        let shared = Shared {
            options,
            config: watch::Sender::new(Arc::new(first.0)),
            clients: Arc::default(),
            circuits: Circuits::default(),
            monitors: Monitors::default(),
            phase: watch::Sender::new(Phase::Serving),
        };
        let mut redirector = Self {
            shared: Arc::new(shared),
            counters: Vec::new(),
            pulses: Vec::new(),
            threads: Mutex::default(),
            rows: Mutex::new(Bounded::new(RouteName::others())),
            told: Mutex::new(Bounded::new(DestinationCounts::OTHERS.to_owned())),
        };
        for (index, listeners) in (0_u64..).zip(listeners_per_worker) {
            let runtime = Builder::new_current_thread().enable_io().enable_time().build()?;
            let listeners = {
                let _context = runtime.enter();
                let adopt = |listener: StdListener| {
                    listener.set_nonblocking(true)?;
                    TcpListener::from_std(listener)
                };
                listeners.into_iter().map(adopt).collect::<io::Result<Vec<_>>>()?
            };
            let counters = Arc::new(Counters::default());
            let (shared, own) = (redirector.shared.clone(), counters.clone());
            let pulse = Arc::new(Pulse::default());
            redirector.pulses.push(pulse.clone());
            let thread = thread::Builder::new()
                .name(format!("redirector-{index}"))
                .spawn(move || run(&runtime, listeners, shared, own, index, pulse))?;
            redirector.counters.push(counters);
            redirector.threads.lock().unwrap_or_else(PoisonError::into_inner).push(thread);
        }
        Ok(redirector)
    }

    /// Replaces the configuration: for new connections, and for the next request of those that are open.
    ///
    /// Returns what could not be used, and why; all else holds.
    pub fn apply(&self, snapshot: Snapshot) -> Vec<String> {
        let (config, left_out) = Config::compile(snapshot);
        self.shared.config.send_replace(Arc::new(config));
        left_out
    }

    /// The same with a snapshot that was made ready elsewhere.
    pub fn take(&self, compiled: Compiled) {
        self.shared.config.send_replace(Arc::new(compiled.0));
    }

    /// How long the worker that is silent for longest has not come to anything.
    pub fn silence(&self) -> Duration {
        self.pulses.iter().map(|pulse| pulse.silence()).max().unwrap_or_default()
    }

    /// What happened how often since the start, over all workers.
    pub fn counters(&self) -> BTreeMap<String, u64> {
        let mut sums = BTreeMap::new();
        for counters in &self.counters {
            counters.add_to(&mut sums);
        }
        sums
    }

    /// How many there are of what at the moment, over all workers.
    pub fn open(&self) -> BTreeMap<String, u64> {
        let mut sums = BTreeMap::new();
        self.counters.iter().for_each(|counters| counters.add_open_to(&mut sums));
        sums
    }

    /// Requests since the start by where they went, over all workers; of bounded number.
    pub fn requests(&self) -> BTreeMap<RouteName, RouteCounts> {
        let mut sums = BTreeMap::new();
        self.counters.iter().for_each(|counters| counters.requests.add_to(&mut sums));
        self.rows.lock().unwrap_or_else(PoisonError::into_inner).bound(sums, RouteCounts::add)
    }

    /// What is open to each destination, and how many of its endpoints are ejected; of bounded number.
    pub fn destinations(&self) -> BTreeMap<String, DestinationCounts> {
        let mut sums = BTreeMap::new();
        self.counters.iter().for_each(|counters| counters.destinations.add_to(&mut sums));
        let config = self.shared.config.borrow().clone();
        self.shared.monitors.add_to(&config, &mut sums);
        self.told.lock().unwrap_or_else(PoisonError::into_inner).bound(sums, DestinationCounts::add)
    }

    /// Takes no more connections but those that come at once, lets requests finish, and returns when all have or after
    /// `deadline`.
    ///
    /// Blocks. Connections that wait in a listener's queue are still served.
    pub fn drain(&self, deadline: Duration) {
        let now = Instant::now();
        let end = now.checked_add(deadline).unwrap_or(now + LONGEST_DRAIN);
        self.shared.phase.send_replace(Phase::Draining(end));
        let mut threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        for thread in threads.drain(..) {
            // A worker that panicked has nothing left to finish.
            let _ended = thread.join();
        }
    }
}

impl Drop for Redirector {
    fn drop(&mut self) {
        self.drain(Duration::ZERO);
    }
}

fn run(
    runtime: &Runtime,
    listeners: Vec<TcpListener>,
    shared: Arc<Shared>,
    counters: Arc<Counters>,
    index: u64,
    pulse: Arc<Pulse>,
) {
    LocalSet::new().block_on(runtime, async move {
        let worker = Rc::new(Worker::new(shared, counters, index, pulse.clone()));
        let accepting: FuturesUnordered<_> =
            listeners.into_iter().map(|listener| accept(worker.clone(), listener)).collect();
        spawn_local(worker.clone().sweep());
        spawn_local(async move { pulse.beat().await });
        // Not tasks like those of connections: this has its turn after some of them, and not after all. Who waits in a
        // listener's queue would wait behind each request of a client that sends thousands, and the queue would overflow.
        accepting.for_each(|()| future::ready(())).await;
        worker.drained().await;
    });
}

/// Takes connections until draining has begun, some at a time: another listener's and those that are open have their turns.
async fn accept(worker: Rc<Worker>, listener: TcpListener) {
    let mut draining = pin!(worker.draining());
    let mut taken = 0_u32;
    let late = loop {
        let accepted = tokio::select! {
            biased;
            end = draining.as_mut() => break end.min(Instant::now() + LATE),
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                begin(&worker, stream, peer);
                taken = taken.wrapping_add(1);
                if taken.is_multiple_of(ACCEPT_TURN) {
                    tokio::task::yield_now().await;
                }
            }
            Err(_) => {
                worker.count(Counter::AcceptErrors);
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    };
    while let Ok(accepted) = tokio::time::timeout_at(late, listener.accept()).await {
        match accepted {
            Ok((stream, peer)) => begin(&worker, stream, peer),
            Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
        }
    }
    // Closing the listener would reset what waits in its queue.
    while let Some(Ok((stream, peer))) = listener.accept().now_or_never() {
        begin(&worker, stream, peer);
    }
}

fn begin(worker: &Rc<Worker>, stream: TcpStream, peer: SocketAddr) {
    worker.count(Counter::Accepted);
    let Some(place) = worker.admit(peer.ip().to_canonical()) else {
        // A reset: a flood of connections would leave as many behind that wait for their last packets.
        let _set = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
        return;
    };
    let open = worker.keep();
    let worker = worker.clone();
    spawn_local(async move {
        connection::serve(worker, stream, peer, place).await;
        drop(open);
    });
}
