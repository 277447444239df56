//! What is asked of `explain`, and what it answers.

use std::net::{IpAddr, SocketAddr};

use serde::Serialize;

use super::{EndpointShare, destination::Destination};

/// What to explain.
#[derive(Clone, Debug)]
pub struct Query {
    /// Who dials: a pod, an address, or `host`.
    pub from: String,
    /// Whether that is a pod whose sockets are left alone.
    pub left_alone: bool,
    /// Whose packets are led, where it is packets that are: sockets' hooks see no socket of theirs, or leave it alone.
    pub sender: Option<Sender>,
    /// Its port, if it is known.
    pub from_port: Option<u16>,
    /// What is dialled.
    pub destination: Destination,
    /// Bits of `OPTION_*`, as the programs have them.
    pub options: u64,
}

/// Who sends packets that are led.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sender {
    /// A client that is not of this node.
    Outside(IpAddr),
    /// A pod of this node; its address, if that is known.
    Pod(Option<IpAddr>),
    /// This node.
    Node,
}

impl Sender {
    /// Its address, if that is known.
    pub const fn address(self) -> Option<IpAddr> {
        match self {
            Self::Outside(address) => Some(address),
            Self::Pod(address) => address,
            Self::Node => None,
        }
    }

    /// Whether it is on this node.
    pub const fn is_inside(self) -> bool {
        match self {
            Self::Outside(_) => false,
            Self::Pod(_) | Self::Node => true,
        }
    }
}

/// The answer.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Explanation {
    /// As asked.
    pub from: String,
    /// As dialled: `address:port/protocol`.
    pub destination: String,
    /// `namespace/name`; absent when no Service has this address.
    pub service: Option<String>,
    /// The Service port's name, or its number when it has none.
    pub port: Option<String>,
    /// The Service port's number.
    #[serde(skip)]
    pub number: Option<u16>,
    /// `kernel` or `redirector`.
    pub path: &'static str,
    /// `translate`, `pass`, `reject` or `drop`.
    pub verdict: &'static str,
    /// Name of the reason that the kernel counts.
    pub reason: &'static str,
    /// `random` or `maglev`; absent when no Service has this address.
    pub algorithm: Option<&'static str>,
    /// The endpoint that Maglev chooses, where that is known.
    pub chosen: Option<SocketAddr>,
    /// How packets reach endpoints of other nodes: `snat` or `dsr`; absent where they do not come to any.
    pub forwarding: Option<&'static str>,
    /// Who may serve.
    pub endpoints: Vec<EndpointShare>,
    /// Who may not, and why.
    pub excluded: Vec<ExcludedEndpoint>,
    /// The decision in sentences.
    pub steps: Vec<String>,
    /// The rule; absent where there is none, and where the redirector decides and no request was asked about.
    pub route: Option<RouteRow>,
}

/// The rule that takes a request.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RouteRow {
    /// `namespace/name` of the VirtualService that holds for the client.
    pub virtual_service: Option<String>,
    /// The rule's name; absent when none takes the request.
    pub rule: Option<String>,
    /// The match that was met, as in `http[0].match[1]`.
    pub r#match: Option<String>,
    /// Destinations, each with its share.
    pub destination: Vec<String>,
    /// What came before and did not apply.
    pub skipped: Vec<SkippedRow>,
}

/// A rule that did not take a request.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SkippedRow {
    /// `http[0].match[1]`, or the name of a VirtualService.
    pub rule: String,
    /// Why.
    pub reason: String,
}

/// An endpoint that is left out.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ExcludedEndpoint {
    /// Address and port.
    pub address: SocketAddr,
    /// `notReady`, `terminating`, `topology`, `rule` or `policy`.
    pub reason: &'static str,
}
