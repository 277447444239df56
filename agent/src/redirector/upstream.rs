//! One request to one endpoint: a connection from the pool or a new one, and what can break before the answer.

use std::{error::Error, net::SocketAddr, rc::Rc, sync::Arc, time::Duration};

use crate::l7::rules::{HttpPool, table::Policy};
use http::Response;
use hyper::{
    body::Incoming,
    client::conn::{TrySendError, http1, http2},
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{task::spawn_local, time::Instant};

use super::{
    circuit::{Circuit, Held, What},
    connect::Peer,
    counters::{Counter, OneOpen, Open},
    destinations::{OneUse, Row, Use},
    head::Head,
    pool::{Key, Lease, Limits, Multiplexed, Stream},
    replay::{Outgoing, Replay},
    session::{HEADERS_MAX, Local},
    worker::Worker,
};

/// How long the answer to a ping may take where `http2KeepAlive` does not say.
const PING_TIMEOUT: Duration = Duration::from_secs(20);
/// Bytes of an answer by HTTP/2 that may have come and not been read: so much memory it costs, and so much comes per round trip.
const STREAM_WINDOW: u32 = 128 << 10;
/// The same of a connection, the most there is (RFC 9113 section 6.9.1): all clients of a worker share it, and what some do not
/// read must not use it up for the others.
const CONNECTION_WINDOW: u32 = (1 << 31) - 1;

/// Why there is no answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Failure {
    /// No connection.
    Connect,
    /// Too many requests wait for one.
    Overflow,
    /// The endpoint did not want the request and has not looked at it.
    Refused,
    /// The connection broke before the request was sent.
    BeforeRequest,
    /// The connection or the stream broke after that.
    Reset,
}

/// An answer, and the place of its connection where those are counted.
pub type Sent = (Response<Incoming>, Option<Place>);

/// What an answer holds until its end.
#[derive(Debug)]
pub enum Place {
    /// One of those that the circuit has.
    Limited(#[expect(dead_code, reason = "it is there to be dropped")] Rc<Held>),
    /// On an HTTP/2 connection.
    Stream(#[expect(dead_code, reason = "it is there to be dropped")] Stream),
}

impl From<Rc<Held>> for Place {
    fn from(held: Rc<Held>) -> Self {
        Self::Limited(held)
    }
}

/// What a request that needs a connection holds until it has one: a place, where that is limited, and that it is counted.
#[derive(Default, Debug)]
struct Waiting(Option<Held>, Option<OneUse>);

impl Waiting {
    /// Fails when too many wait already.
    fn begin(&mut self, line: &Line<'_>) -> Result<(), Failure> {
        if let Some(circuit) = line.circuit.filter(|_| self.0.is_none()) {
            self.0 = circuit.enter(What::Pending);
            if self.0.is_none() {
                line.worker.count(Counter::OverflowPending);
                return Err(Failure::Overflow);
            }
        }
        self.1.get_or_insert_with(|| line.row.one(Use::Waiting));
        Ok(())
    }
}

/// How one client's requests reach one endpoint.
#[derive(Clone, Copy, Debug)]
pub struct Line<'a> {
    /// The worker.
    pub worker: &'a Rc<Worker>,
    /// How connections are made.
    pub peer: &'a Peer<'a>,
    /// What the DestinationRule says.
    pub policy: Option<&'a Policy>,
    /// Limits of the client for the destination.
    pub circuit: Option<&'a Circuit>,
    /// What is open to the destination.
    pub row: &'a Arc<Row>,
}

impl Line<'_> {
    /// Sends a request to `endpoint` and waits for the head of the answer.
    pub async fn send(&self, endpoint: SocketAddr, head: &Head, replay: &Replay) -> Result<Sent, Failure> {
        let key = Key { source: self.peer.source(endpoint), endpoint, ends: self.peer.ends() };
        let sent = if head.http2 {
            self.send_http2(key, head, replay).await
        } else {
            self.send_http1(key, head, replay).await
        };
        if matches!(sent, Err(Failure::Refused | Failure::BeforeRequest | Failure::Reset)) {
            self.worker.count(Counter::UpstreamResets);
        }
        sent
    }

    async fn send_http1(&self, key: Key, head: &Head, replay: &Replay) -> Result<Sent, Failure> {
        let mut waiting = Waiting::default();
        let place = self.place(&mut waiting).await?;
        if let Some(lease) = self.worker.pool.take(&key) {
            waiting = Waiting::default();
            match self.use_http1(key, lease, place.clone(), head, replay).await {
                // The endpoint may have closed it just when we wrote: RFC 9110 section 9.2.2.
                Err(Failure::BeforeRequest) if replay.is_whole() => {}
                Err(Failure::Reset) if replay.is_whole() && head.method.is_idempotent() => {}
                sent => return sent,
            }
        }
        waiting.begin(self)?;
        let socket = self.peer.connect(self.worker, key.endpoint).await.map_err(|_| Failure::Connect)?;
        let handshake = http1::handshake(TokioIo::new(socket)).await;
        let (sender, connection) = handshake.map_err(|_| Failure::Connect)?;
        self.drive(connection.with_upgrades());
        drop(waiting);
        let lease = Lease { sender, used: 0, until: self.end_of_life(), row: self.row.clone() };
        self.use_http1(key, lease, place, head, replay).await
    }

    /// The right to use one connection; waits for it.
    async fn place(&self, waiting: &mut Waiting) -> Result<Option<Rc<Held>>, Failure> {
        let Some(circuit) = self.circuit else { return Ok(None) };
        if let Some(held) = circuit.enter(What::Connection) {
            return Ok(Some(Rc::new(held)));
        }
        self.worker.count(Counter::OverflowConnections);
        waiting.begin(self)?;
        Ok(Some(Rc::new(circuit.connection().await)))
    }

    async fn use_http1(
        &self,
        key: Key,
        mut lease: Lease,
        place: Option<Rc<Held>>,
        head: &Head,
        replay: &Replay,
    ) -> Result<Sent, Failure> {
        match lease.sender.try_send_request(head.request(replay.body())).await {
            Ok(response) => {
                lease.used = lease.used.saturating_add(1);
                let limit = self.requests_per_connection();
                let again = limit == 0 || lease.used < limit;
                let (worker, idle, used) = (self.worker.clone(), self.idle_timeout(), place.clone());
                spawn_local(async move {
                    // Ready again once the answer was read to its end; hyper closes when the sender is gone.
                    if lease.sender.ready().await.is_ok() && again {
                        worker.pool.put(key, lease, idle);
                    }
                    drop(used);
                });
                Ok((response, place.map(Place::Limited)))
            }
            Err(mut error) => Err(match error.take_message() {
                Some(_) => Failure::BeforeRequest,
                None => Failure::Reset,
            }),
        }
    }

    async fn send_http2(&self, key: Key, head: &Head, replay: &Replay) -> Result<Sent, Failure> {
        let multiplexed = self.worker.pool.multiplexed(key);
        let (mut sender, mut stream, was_open) = self.http2(key, &multiplexed).await?;
        multiplexed.note(self.idle_timeout());
        let mut sent = sender.try_send_request(head.request(replay.body())).await;
        let unsent = |sent: &mut Result<_, TrySendError<_>>| {
            sent.as_mut().is_err_and(|error| error.take_message().is_some())
        };
        let mut before = unsent(&mut sent);
        if before && was_open && replay.is_whole() {
            // Closed under our hands: once more, on a new connection.
            multiplexed.forget(&stream);
            (sender, stream, _) = self.http2(key, &multiplexed).await?;
            sent = sender.try_send_request(head.request(replay.body())).await;
            before = unsent(&mut sent);
        }
        let is_limited = self.limits().streams > 0;
        let sent = sent.map(|response| (response, is_limited.then_some(Place::Stream(stream))));
        sent.map_err(|error| if before { Failure::BeforeRequest } else { failure(&error.into_error()) })
    }

    /// An HTTP/2 connection of `key`, a place on it, and whether it was there before.
    async fn http2(
        &self,
        key: Key,
        multiplexed: &Multiplexed,
    ) -> Result<(http2::SendRequest<Outgoing>, Stream, bool), Failure> {
        let limits = self.limits();
        if let Some((sender, stream)) = multiplexed.get(limits) {
            return Ok((sender, stream, true));
        }
        let mut waiting = Waiting::default();
        waiting.begin(self)?;
        let failures = multiplexed.failures.get();
        let _turn = multiplexed.connecting.lock().await;
        if let Some((sender, stream)) = multiplexed.get(limits) {
            return Ok((sender, stream, true));
        }
        if failures != multiplexed.failures.get() {
            return Err(Failure::Connect);
        }
        match self.open_http2(key).await {
            Ok(sender) => {
                let stream = multiplexed.add(sender.clone(), self.end_of_life());
                Ok((sender, stream, false))
            }
            Err(failure) => {
                multiplexed.failures.set(failures.wrapping_add(1));
                Err(failure)
            }
        }
    }

    async fn open_http2(&self, key: Key) -> Result<http2::SendRequest<Outgoing>, Failure> {
        let socket = self.peer.connect(self.worker, key.endpoint).await.map_err(|_| Failure::Connect)?;
        let mut builder = http2::Builder::new(Local);
        builder
            .timer(TokioTimer::new())
            .max_header_list_size(HEADERS_MAX as u32)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW);
        let pings = self.http_pool().and_then(|pool| pool.http2_keep_alive.as_ref());
        if let Some((pings, interval)) = pings.and_then(|pings| Some((pings, pings.interval?))) {
            let timeout = pings.timeout.map_or(PING_TIMEOUT, |timeout| timeout.0);
            // While nobody asks too: a connection that is gone must not be found gone by the next request.
            builder.keep_alive_interval(interval.0).keep_alive_timeout(timeout).keep_alive_while_idle(true);
        }
        let handshake = builder.handshake(TokioIo::new(socket)).await;
        let (sender, connection) = handshake.map_err(|_| Failure::Connect)?;
        self.drive(connection);
        Ok(sender)
    }

    /// Lets a connection run until it ends.
    fn drive(&self, connection: impl Future<Output = hyper::Result<()>> + 'static) {
        let open = (OneOpen::new(&self.worker.counters, Open::Upstreams), self.row.one(Use::Connection));
        spawn_local(async move {
            // Its errors come back with the answers.
            let _ended = connection.await;
            drop(open);
        });
    }

    fn requests_per_connection(&self) -> u32 {
        self.http_pool().map_or(0, |pool| pool.max_requests_per_connection)
    }

    fn limits(&self) -> Limits {
        let streams = self.http_pool().map_or(0, |pool| pool.max_concurrent_streams);
        Limits { requests: self.requests_per_connection(), streams }
    }

    fn idle_timeout(&self) -> Duration {
        let ruled = self.http_pool().and_then(|pool| pool.idle_timeout).map(|idle| idle.0);
        ruled.filter(|idle| !idle.is_zero()).unwrap_or(self.worker.options().upstream_idle_timeout)
    }

    /// When a connection that is made now takes no more requests.
    fn end_of_life(&self) -> Option<Instant> {
        let pool = self.policy?.traffic.connection_pool.as_ref()?.tcp.as_ref()?;
        Instant::now().checked_add(pool.max_connection_duration?.0)
    }

    fn http_pool(&self) -> Option<&HttpPool> {
        self.policy?.traffic.connection_pool.as_ref()?.http.as_ref()
    }
}

/// What broke an HTTP/2 request.
fn failure(error: &hyper::Error) -> Failure {
    // The type is h2's, which is no dependency of ours; these are its texts for REFUSED_STREAM, and for a
    // GOAWAY without error that came before the stream.
    const REFUSED: [&str; 2] = ["refused stream before processing", "not a result of an error"];
    let mut source = error.source();
    while let Some(cause) = source {
        let text = cause.to_string();
        if REFUSED.iter().any(|refused| text.contains(refused)) {
            return Failure::Refused;
        }
        source = cause.source();
    }
    Failure::Reset
}
