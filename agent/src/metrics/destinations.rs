//! What the redirector has open to one destination, and which of its endpoints it leaves out: what it tells the agent.

use serde::{Deserialize, Serialize};

/// How many there are at the moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct DestinationCounts {
    /// Requests under way, those that wait among them.
    pub requests: u64,
    /// Requests that wait for a connection: for a place or until it is made.
    pub waiting: u64,
    /// HTTP connections that were made for it, idle ones included.
    pub connections: u64,
    /// Of those the ones by HTTP/1 that no request uses.
    pub idle: u64,
    /// Connections that are passed through without a look at requests.
    pub passed: u64,
    /// Endpoints that outlier detection watches and leaves in.
    pub kept: u64,
    /// Endpoints that outlier detection has ejected.
    pub ejected: u64,
}

impl DestinationCounts {
    /// Destinations that metrics tell apart; what is beyond is counted together.
    pub const MOST: usize = super::RouteName::MOST;
    /// What stands for all those for which there was no room.
    pub const OTHERS: &str = "other";

    /// What is open, as metrics name it.
    pub const fn open(&self) -> [(&'static str, u64); 5] {
        let Self { requests, waiting, connections, idle, passed, .. } = *self;
        [
            ("requests", requests),
            ("waiting", waiting),
            ("connections", connections),
            ("idle", idle),
            ("passed", passed),
        ]
    }

    /// Endpoints by state; none where nobody watches them.
    pub fn endpoints(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let Self { kept, ejected, .. } = *self;
        [("kept", kept), ("ejected", ejected)].into_iter().filter(move |_| kept + ejected > 0)
    }

    /// Adds what another one counted.
    pub const fn add(&mut self, other: &Self) {
        self.requests += other.requests;
        self.waiting += other.waiting;
        self.connections += other.connections;
        self.idle += other.idle;
        self.passed += other.passed;
        self.kept += other.kept;
        self.ejected += other.ejected;
    }
}
