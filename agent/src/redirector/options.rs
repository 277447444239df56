//! What is set once, at the start.

use std::time::Duration;

use super::limits::Limit;

/// Whose address upstream connections come from.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, clap::ValueEnum)]
pub enum SourceAddress {
    /// The node's.
    #[default]
    Node,
    /// The client's, if it is a pod of this node, where the endpoint's replies are led back here. Needs `CAP_NET_RAW`.
    #[value(name = "pod")]
    Client,
}

/// Settings of a redirector.
#[derive(Clone, PartialEq, Debug)]
pub struct Options {
    /// Whose address endpoints see.
    pub source: SourceAddress,
    /// Share of requests that are logged to stderr, 0 to 1; `None` is none.
    pub access_log: Option<f64>,
    /// Open connections per client, over all workers; a pod is one client, and so is any other address.
    pub connections_per_client: u32,
    /// Requests under way per client, over all workers and connections, tunnels among them.
    pub requests_per_client: u32,
    /// Open connections of all clients, over all workers.
    pub connections: u32,
    /// Requests under way of all clients, over all workers.
    pub requests: u32,
    /// How long the head of a request, or a ClientHello, may take.
    pub header_timeout: Duration,
    /// How long the first bytes of an undeclared protocol are waited for.
    pub sniff_timeout: Duration,
    /// How long a client's connection may lie idle between requests.
    pub client_idle_timeout: Duration,
    /// How long a client's HTTP/1 connection lies idle before nothing is kept of it but its socket.
    pub rest_after: Duration,
    /// How long an upstream connection may lie idle where no DestinationRule says otherwise.
    pub upstream_idle_timeout: Duration,
    /// Requests at once on one HTTP/2 connection of a client.
    pub streams_per_connection: u32,
    /// Where draws begin; `None` is somewhere else each time.
    pub seed: Option<u64>,
}

impl Options {
    /// Connections of all clients, and requests under way: at 20 KB each they fit into the memory that deploy/ gives.
    pub const MOST: u32 = 32_768;

    /// Of connections.
    pub const fn connection_limit(&self) -> Limit {
        Limit { each: self.connections_per_client, all: self.connections }
    }

    /// Of requests.
    pub const fn request_limit(&self) -> Limit {
        Limit { each: self.requests_per_client, all: self.requests }
    }
}

impl Default for Options {
    fn default() -> Self {
        Self {
            source: SourceAddress::Node,
            access_log: None,
            connections_per_client: 4096,
            requests_per_client: 4096,
            connections: Self::MOST,
            requests: Self::MOST,
            header_timeout: Duration::from_secs(10),
            sniff_timeout: Duration::from_millis(200),
            client_idle_timeout: Duration::from_secs(3600),
            rest_after: Duration::from_secs(1),
            // Shorter than the keep-alive of common servers, so that we close first.
            upstream_idle_timeout: Duration::from_secs(4),
            streams_per_connection: 256,
            seed: None,
        }
    }
}
