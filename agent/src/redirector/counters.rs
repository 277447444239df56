//! What happened how often. Plain atomics per worker; sums are made when someone asks.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use http::StatusCode;

use super::{destinations::Destinations, requests::Requests};

macro_rules! counters {
    ($($(#[$doc:meta])* $variant:ident => $name:literal,)*) => {
        /// Something that is counted.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum Counter {
            $($(#[$doc])* $variant,)*
        }

        const NAMES: &[&str] = &[$($name,)*];
    };
}

counters! {
    /// Connections taken from listeners.
    Accepted => "connectionsAccepted",
    /// `accept` failed, most likely for want of file descriptors.
    AcceptErrors => "acceptErrors",
    /// Connections passed through without a look, or after a look at the server name.
    Passed => "connectionsPassed",
    /// Connections that ended in an error of the protocol or of the socket.
    Broken => "connectionsBroken",
    /// No Service has the address that was dialled.
    RefusedUnknownFrontend => "refusedUnknownFrontend",
    /// The client has too many connections.
    RefusedClientLimit => "refusedClientLimit",
    /// The client has too many requests under way.
    RefusedRequestLimit => "refusedRequestLimit",
    /// There are too many connections of all clients: what room is left is others'.
    RefusedConnectionsInAll => "refusedConnectionsInAll",
    /// There are too many requests under way of all clients: what room is left is others'.
    RefusedRequestsInAll => "refusedRequestsInAll",
    /// The head of a request took too long.
    RefusedSlowHeaders => "refusedSlowHeaders",
    /// The head of a request is too long.
    RefusedLargeHeaders => "refusedLargeHeaders",
    /// The head of a request can be read in two ways, or not at all.
    RefusedMalformed => "refusedMalformed",
    /// Regexes of rules have worked too long on the request.
    RefusedRegexWork => "refusedRegexWork",
    /// An HTTP/2 client opened and reset streams faster than any use has for it.
    RefusedResetFlood => "refusedResetFlood",
    /// Undeclared protocols whose client kept silent.
    SniffTimeouts => "sniffTimeouts",
    /// Connections under a client's address for which no port was free.
    SourcePortsTaken => "sourcePortsTaken",
    /// Requests.
    Requests => "requests",
    /// Requests whose client left before the answer.
    Abandoned => "requestsAbandoned",
    /// Answers 1xx.
    Responses1xx => "responses1xx",
    /// Answers 2xx.
    Responses2xx => "responses2xx",
    /// Answers 3xx.
    Responses3xx => "responses3xx",
    /// Answers 4xx.
    Responses4xx => "responses4xx",
    /// Answers 5xx and beyond.
    Responses5xx => "responses5xx",
    /// Requests that no rule matched.
    NoRoute => "noRoute",
    /// Requests and connections whose destination does not exist or has no endpoint.
    NoEndpoints => "noEndpoints",
    /// Names that stand for this node, its link or a group of machines: such addresses are not asked.
    NamesRefused => "namesRefused",
    /// Injected delays.
    FaultDelays => "faultDelays",
    /// Injected aborts.
    FaultAborts => "faultAborts",
    /// Retries.
    Retries => "retries",
    /// Requests that ran out of time.
    Timeouts => "timeouts",
    /// Tries that ran out of time.
    TryTimeouts => "tryTimeouts",
    /// Connections made to endpoints.
    UpstreamConnections => "upstreamConnections",
    /// Connections that could not be made.
    UpstreamConnectFailures => "upstreamConnectFailures",
    /// Connections and streams that broke before the answer.
    UpstreamResets => "upstreamResets",
    /// Connections that `maxConnections` did not allow.
    OverflowConnections => "overflowConnections",
    /// Requests that did not wait for a connection, because `http1MaxPendingRequests` were waiting.
    OverflowPending => "overflowPending",
    /// Requests beyond `http2MaxRequests`.
    OverflowRequests => "overflowRequests",
    /// Retries that `maxRetries` or `retryBudget` did not allow.
    OverflowRetries => "overflowRetries",
    /// Endpoints left out for a while because they failed.
    Ejections => "ejections",
    /// Endpoints that would have been, but `maxEjectionPercent` already were.
    EjectionsRefused => "ejectionsRefused",
    /// Connections passed through that were silent for `idleTimeout`.
    ClosedIdle => "connectionsClosedIdle",
    /// Connections passed through that were older than `maxConnectionDuration`.
    ClosedOld => "connectionsClosedOld",
    /// Copies sent.
    Mirrors => "mirrors",
    /// Copies not sent: too many at once, or a body too long to keep.
    MirrorsSkipped => "mirrorsSkipped",
    /// Upgrades and CONNECTs that became tunnels.
    Tunnels => "tunnels",
}

/// The counters of one worker.
#[derive(Debug)]
pub struct Counters {
    values: Vec<AtomicU64>,
    /// Requests by where they went.
    pub requests: Requests,
    /// What is open by where it goes.
    pub destinations: Destinations,
    open: [AtomicU64; OPEN_NAMES.len()],
}

/// Something that there are some of at the moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Open {
    /// Connections of clients, tunnels included.
    Clients,
    /// Requests whose answer has not ended.
    Requests,
    /// HTTP connections to endpoints, idle ones included.
    Upstreams,
    /// Of the clients' connections those by HTTP/1 that lie idle and of which nothing is kept but the socket.
    Resting,
}

const OPEN_NAMES: [&str; 4] = ["clientConnections", "requests", "upstreamConnections", "restingConnections"];

/// One of them, for as long as this lives.
#[derive(Debug)]
pub struct OneOpen(Arc<Counters>, Open);

impl OneOpen {
    /// One more.
    pub fn new(counters: &Arc<Counters>, what: Open) -> Self {
        counters.open[what as usize].fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(counters), what)
    }
}

impl Drop for OneOpen {
    fn drop(&mut self) {
        self.0.open[self.1 as usize].fetch_sub(1, Ordering::Relaxed);
    }
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            values: NAMES.iter().map(|_| AtomicU64::new(0)).collect(),
            requests: Requests::default(),
            destinations: Destinations::default(),
            open: Default::default(),
        }
    }
}

impl Counters {
    /// Counts one.
    pub fn count(&self, counter: Counter) {
        if let Some(value) = self.values.get(counter as usize) {
            value.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Counts an answer by its class.
    pub fn count_response(&self, status: StatusCode) {
        self.count(match status.as_u16() {
            ..200 => Counter::Responses1xx,
            200..300 => Counter::Responses2xx,
            300..400 => Counter::Responses3xx,
            400..500 => Counter::Responses4xx,
            500.. => Counter::Responses5xx,
        });
    }

    /// Adds to `sums` how many there are of what at the moment, by name.
    pub fn add_open_to(&self, sums: &mut BTreeMap<String, u64>) {
        for (name, value) in OPEN_NAMES.iter().zip(&self.open) {
            *sums.entry((*name).to_owned()).or_default() += value.load(Ordering::Relaxed);
        }
    }

    /// Adds all values to `sums`, by name.
    pub fn add_to(&self, sums: &mut BTreeMap<String, u64>) {
        for (name, value) in NAMES.iter().zip(&self.values) {
            *sums.entry((*name).to_owned()).or_default() += value.load(Ordering::Relaxed);
        }
    }
}
