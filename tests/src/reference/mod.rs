//! The reference model: what must happen to a connection, in plain Rust, written from the rules and not from the
//! agent's code. Small and slow on purpose.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
};

pub mod packets;
pub mod random;
pub mod way;
mod yaml;

pub use random::{Random, mutate, number};

/// This node, and its zone.
pub const NODE: &str = "node-1";
/// See [`NODE`].
pub const ZONE: &str = "zone-1";

/// A cluster.
#[derive(Clone, Debug, Default)]
pub struct Cluster {
    /// Its Services, by number; each has addresses of its own.
    pub services: Vec<Service>,
    /// What lies in the networks of cluster IPs and is no Service's goes nowhere.
    pub is_guarded: bool,
    /// The redirector is there.
    pub is_redirecting: bool,
}

/// A Service with one port.
#[derive(Clone, Debug)]
pub struct Service {
    /// Gives name and addresses.
    pub number: u8,
    /// IPv4 address, IPv6 address: there or not.
    pub families: (bool, bool),
    /// UDP instead of TCP.
    pub udp: bool,
    /// What clients dial.
    pub port: u16,
    /// internalTrafficPolicy Local.
    pub internal_local: bool,
    /// sessionAffinity ClientIP, with a timeout longer than any run.
    pub affinity: bool,
    /// A hash of the client chooses.
    pub maglev: bool,
    /// HTTP rules hold for its port.
    pub redirected: bool,
    /// What it has for clients outside; type LoadBalancer then.
    pub exposed: Option<Exposed>,
    /// Endpoints.
    pub endpoints: Vec<Endpoint>,
}

/// What clients outside of the cluster dial, besides cluster IPs.
#[derive(Clone, Debug)]
pub struct Exposed {
    /// externalTrafficPolicy Local.
    pub external_local: bool,
    /// Its NodePort.
    pub node_port: u16,
    /// loadBalancerSourceRanges: addresses and lengths of prefixes.
    pub source_ranges: Vec<(IpAddr, u8)>,
}

/// An endpoint.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// Which pod.
    pub pod: usize,
    /// On which of its ports.
    pub port: u16,
    /// On this node.
    pub here: bool,
    /// `conditions.ready`.
    pub ready: Option<bool>,
    /// `conditions.serving`.
    pub serving: Option<bool>,
    /// `conditions.terminating`.
    pub terminating: Option<bool>,
    /// `hints.forZones`.
    pub zone_hint: Option<&'static str>,
    /// `hints.forNodes`.
    pub node_hint: Option<&'static str>,
}

/// What a client on this node must meet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Expectation {
    /// One of these answers.
    Answer(BTreeSet<SocketAddr>),
    /// ECONNREFUSED.
    Refused,
    /// No answer, and no ECONNREFUSED.
    Dropped,
}

impl Service {
    /// The addresses that clients dial.
    pub fn addresses(&self) -> Vec<IpAddr> {
        let v4 = IpAddr::from([10, 96, 1, self.number]);
        let v6 = IpAddr::from([0xfd00, 0x96, 0, 0, 0, 0, 1, u16::from(self.number)]);
        [(self.families.0, v4), (self.families.1, v6)]
            .into_iter()
            .filter(|(has, _)| *has)
            .map(|(_, ip)| ip)
            .collect()
    }

    /// What dialling its cluster IP from a socket of this node comes to. `pods` are the pods' addresses of the family
    /// dialled.
    pub fn expectation(&self, pods: &[IpAddr]) -> Expectation {
        self.choice(pods, self.internal_local)
    }

    /// The same where the endpoints of this node are all that count, or not.
    ///
    /// Source: kube-proxy `CategorizeEndpoints`; nil conditions mean ready, serving, not terminating.
    pub fn choice(&self, pods: &[IpAddr], only_local: bool) -> Expectation {
        let ready = |e: &&Endpoint| e.ready != Some(false);
        let fallback =
            |e: &&Endpoint| e.ready == Some(false) && e.serving != Some(false) && e.terminating == Some(true);
        let chosen: Vec<&Endpoint> = if only_local {
            let local: Vec<&Endpoint> = self.endpoints.iter().filter(|e| e.here).collect();
            prefer(&local, ready, fallback)
        } else {
            let all: Vec<&Endpoint> = self.endpoints.iter().collect();
            let chosen = prefer(&all, ready, fallback);
            if all.iter().any(ready) { by_hints(chosen) } else { chosen }
        };
        if !chosen.is_empty() {
            return Expectation::Answer(
                chosen.iter().map(|e| SocketAddr::new(pods[e.pod], e.port)).collect(),
            );
        }
        let any = self.endpoints.iter().any(|e| ready(&e) || fallback(&e));
        if any { Expectation::Dropped } else { Expectation::Refused }
    }
}

/// Those that are ready; if there are none, those that may stand in.
fn prefer<'e>(
    among: &[&'e Endpoint],
    ready: impl Fn(&&Endpoint) -> bool,
    fallback: impl Fn(&&Endpoint) -> bool,
) -> Vec<&'e Endpoint> {
    let first: Vec<&Endpoint> = among.iter().filter(|e| ready(e)).copied().collect();
    if first.is_empty() { among.iter().filter(|e| fallback(e)).copied().collect() } else { first }
}

/// All or nothing: hints count only if every one has them and at least one is for us; nodes before zones.
fn by_hints(ready: Vec<&Endpoint>) -> Vec<&Endpoint> {
    for (hint, own) in [((|e: &Endpoint| e.node_hint) as fn(&Endpoint) -> _, NODE), (|e| e.zone_hint, ZONE)] {
        let complete = ready.iter().all(|e| hint(e).is_some());
        let ours: Vec<&Endpoint> = ready.iter().filter(|e| hint(e) == Some(own)).copied().collect();
        if complete && !ours.is_empty() {
            return ours;
        }
    }
    ready
}
