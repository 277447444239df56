//! What the maps say, for people and scripts. Pure: tables in, rows out; keys of the JSON are an interface.

use std::net::IpAddr;

use serde::Serialize;
use sluice_common::{
    choose,
    layout::{EndpointState, Excluded, FLAG_REDIRECTED, FrontendKind, FrontendValue, ServiceKind},
};

mod answer;
mod config;
mod connections;
mod destination;
mod events;
mod explain;
mod maglev;
mod packets;
mod rows;
mod sctp;

pub use answer::{Explanation, Query, RouteRow, Sender, SkippedRow};
pub use config::{ConfigMessage, ConfigRow, config};
pub use connections::{ConnectionFilter, ConnectionRow, NatRow, connections, nats};
pub use destination::Destination;
pub use events::{EventClient, EventFilter, EventNames, EventRow, SocketClient, event_row, is_of_probe};
pub use explain::explain;
pub use packets::is_of_this_node;
pub use rows::{AffinityRow, BackendRow, FrontendRow, ServiceRow, affinities, backends, frontends, services};
pub use sctp::sctp_ports;

/// An endpoint that may be chosen.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct EndpointShare {
    /// Address.
    pub address: IpAddr,
    /// Port.
    pub port: u16,
    /// Its share of new connections, in parts of the sum over all endpoints.
    pub weight: u32,
}

/// As the JSON and the tables spell it.
pub const fn kind_name(kind: FrontendKind) -> &'static str {
    match kind {
        FrontendKind::ClusterIp => "clusterIP",
        FrontendKind::NodePort => "nodePort",
        FrontendKind::LoadBalancer => "loadBalancer",
        FrontendKind::ExternalIp => "externalIP",
        FrontendKind::Headless => "headless",
    }
}

/// Who serves a frontend, as the JSON spells it.
pub const fn path_name(frontend: &FrontendValue) -> &'static str {
    if frontend.flags & FLAG_REDIRECTED != 0 { "redirector" } else { "kernel" }
}

/// How one of its endpoints is chosen, as the JSON spells it.
pub const fn algorithm_name(frontend: &FrontendValue) -> &'static str {
    if choose::is_maglev(frontend) { "maglev" } else { "random" }
}

/// As Kubernetes spells `spec.type`.
pub const fn type_name(kind: ServiceKind) -> &'static str {
    match kind {
        ServiceKind::ClusterIp => "ClusterIP",
        ServiceKind::NodePort => "NodePort",
        ServiceKind::LoadBalancer => "LoadBalancer",
        ServiceKind::Headless => "Headless",
    }
}

/// As the JSON spells it.
pub const fn state_name(state: EndpointState) -> &'static str {
    match state {
        EndpointState::Ready => "ready",
        EndpointState::Terminating => "terminating",
        EndpointState::NotReady => "notReady",
    }
}

/// As the JSON spells it.
pub const fn excluded_name(excluded: Excluded) -> &'static str {
    match excluded {
        Excluded::NotReady => "notReady",
        Excluded::Terminating => "terminating",
        Excluded::Topology => "topology",
        Excluded::Rule => "rule",
    }
}

#[cfg(test)]
mod tests;
