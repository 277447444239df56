//! What Sluice knows of a cluster, free of Kubernetes types and of map layouts. No I/O.

use std::{collections::BTreeSet, fmt, net::IpAddr, sync::Arc, time::SystemTime};

use ipnet::IpNet;

pub use sluice_common::layout::{EndpointState, ServiceKind};

pub mod annotations;
mod pods;
mod rules;
mod sctp;
mod split;
mod store;
mod text;

pub use pods::{OptOut, OwnPod, Pod, Pods};
pub use rules::{L7News, RuleKind, Rules, UNREADABLE};
pub use sctp::sctp_trouble;
pub use split::{Share, SharePort, Split, Splits};
pub use store::{Change, Store};
pub use text::shorten;

/// Namespace and name of an object.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ObjectName {
    /// Kubernetes namespace; empty for objects that have none.
    pub namespace: String,
    /// Name within the namespace.
    pub name: String,
}

impl ObjectName {
    /// From its two parts.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            return f.write_str(&self.name);
        }
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// Transport protocol of a Service's port.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum Protocol {
    /// IANA 6.
    Tcp = sluice_common::layout::TCP,
    /// IANA 17.
    Udp = sluice_common::layout::UDP,
    /// IANA 132.
    Sctp = sluice_common::layout::SCTP,
}

impl Protocol {
    /// As Kubernetes spells it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
        }
    }

    /// From Kubernetes' spelling, in any case of letters.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Tcp, Self::Udp, Self::Sctp]
            .into_iter()
            .find(|protocol| protocol.name().eq_ignore_ascii_case(name))
    }

    /// From an IANA protocol number.
    pub fn from_number(number: u8) -> Option<Self> {
        [Self::Tcp, Self::Udp, Self::Sctp].into_iter().find(|protocol| *protocol as u8 == number)
    }
}

/// IP version: a dual-stack Service is proxied for each on its own, as kube-proxy does.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum Family {
    /// IPv4.
    V4 = 4,
    /// IPv6.
    V6 = 6,
}

impl Family {
    /// The version of `address`.
    pub const fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }
}

/// A Service that needs proxying, or that rules may lead to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Service {
    /// Its name.
    pub name: ObjectName,
    /// `spec.type`, headless being a type of its own.
    pub kind: ServiceKind,
    /// `metadata.creationTimestamp` in seconds since 1970; 0 if unknown. The oldest claim to an address wins.
    pub created_s: i64,
    /// `spec.externalName`: nothing of it is in the maps, but rules may name it as a destination.
    pub external_name: Option<Arc<str>>,
    /// `spec.clusterIPs`.
    pub cluster_ips: Vec<IpAddr>,
    /// `spec.externalIPs`.
    pub external_ips: Vec<IpAddr>,
    /// `status.loadBalancer.ingress[].ip` with ipMode VIP.
    pub load_balancer_ips: Vec<IpAddr>,
    /// `spec.ports`.
    pub ports: Vec<ServicePort>,
    /// `spec.internalTrafficPolicy: Local`.
    pub internal_local: bool,
    /// `spec.externalTrafficPolicy: Local`.
    pub external_local: bool,
    /// `spec.loadBalancerSourceRanges`.
    pub source_ranges: SourceRanges,
    /// `spec.healthCheckNodePort` of a LoadBalancer with `externalTrafficPolicy: Local`; 0 when there is none.
    pub health_check_node_port: u16,
    /// `spec.sessionAffinity: ClientIP` with its timeout in seconds (1..=86400).
    pub affinity_timeout_s: Option<u32>,
    /// Annotation `sluice.dev/headless-port-translation`, on unless "false".
    pub translate_headless_port: bool,
    /// Annotation `sluice.dev/per-request-balancing`, off unless "true".
    pub per_request: bool,
    /// Annotation `sluice.dev/algorithm`.
    pub algorithm: Algorithm,
}

/// How one of a Service's endpoints is chosen for a new connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Algorithm {
    /// Any, each time anew.
    #[default]
    Random,
    /// By a hash of the client, alike on every node.
    Maglev,
}

/// Who may use a Service's load balancer addresses.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct SourceRanges {
    /// The networks that could be read.
    pub networks: Vec<IpNet>,
    /// Whether some could not: they restrict the Service all the same.
    pub has_unreadable: bool,
}

impl SourceRanges {
    /// The networks of one family from which clients are admitted; `None` if all are. A list that names the other family
    /// only leaves this one open.
    ///
    /// Source: kube-proxy `pkg/proxy/serviceport.go`, which keeps the ranges of the proxier's own family.
    pub fn of_family(&self, family: Family) -> Option<Vec<IpNet>> {
        let own = self.networks.iter().filter(|network| Family::of(network.addr()) == family);
        let own: Vec<IpNet> = own.copied().collect();
        (self.has_unreadable || !own.is_empty()).then_some(own)
    }
}

/// One of `spec.ports`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ServicePort {
    /// Joins the port to the ports of EndpointSlices; empty when the Service has one port.
    pub name: String,
    /// Transport.
    pub protocol: Protocol,
    /// What clients dial.
    pub port: u16,
    /// `nodePort`; 0 when there is none.
    pub node_port: u16,
    /// `appProtocol`.
    pub app_protocol: Option<Arc<str>>,
}

impl ServicePort {
    /// A port of that name and number, without a node port.
    pub fn new(name: &str, protocol: Protocol, port: u16) -> Self {
        Self { name: name.to_owned(), protocol, port, node_port: 0, app_protocol: None }
    }
}

/// An EndpointSlice of a Service.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EndpointSlice {
    /// Its name.
    pub name: ObjectName,
    /// Label `kubernetes.io/service-name`.
    pub service: ObjectName,
    /// `ports`.
    pub ports: Vec<SlicePort>,
    /// `endpoints`.
    pub endpoints: Vec<Endpoint>,
    /// When what it says became true, as its controller tells.
    pub changed: Option<SystemTime>,
}

/// One of a slice's ports.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SlicePort {
    /// Matches [`ServicePort::name`].
    pub name: String,
    /// Transport.
    pub protocol: Protocol,
    /// The pod's port; `None` means all ports.
    pub port: Option<u16>,
}

/// One of a slice's endpoints.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Endpoint {
    /// Addresses; consumers use the first, as kube-proxy does.
    pub addresses: Vec<IpAddr>,
    /// From `conditions`.
    pub state: EndpointState,
    /// `targetRef`, when it is a pod: its name, of the slice's namespace.
    pub pod: Option<Arc<str>>,
    /// `nodeName`; shared, for there are few nodes and many endpoints.
    pub node: Option<Arc<str>>,
    /// `zone`.
    pub zone: Option<Arc<str>>,
    /// `hints.forZones`.
    pub zone_hints: BTreeSet<String>,
    /// `hints.forNodes`.
    pub node_hints: BTreeSet<String>,
}

/// The node that this agent runs on.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// Label `topology.kubernetes.io/zone`.
    pub zone: Option<String>,
    /// `status.addresses`: internal ones first, then external ones.
    pub addresses: Vec<IpAddr>,
    /// It is being deleted, or the cluster autoscaler is about to: load balancers should forget it (KEP-3836).
    pub leaving: bool,
}

/// A port that a pod says it listens on: keeps headless port translation off that address and port.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct PodPort {
    /// The pod's address.
    pub address: IpAddr,
    /// Transport.
    pub protocol: Protocol,
    /// `spec.containers[].ports[].containerPort`.
    pub port: u16,
}
