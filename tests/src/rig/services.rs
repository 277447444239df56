//! Services for tests of single packets: one for each transport and each kind of place that an endpoint may be.

use std::net::{IpAddr, SocketAddr};

use serde_json::{Value, json};

use super::Rig;
use crate::reference::{Endpoint, Exposed, Service, packets::Kind};

/// The port that clients dial.
pub const PORT: u16 = 80;
/// The port that pods serve.
pub const TARGET: u16 = 8081;

/// A Service: number, transport, what is served by which of the pods, the port dialled.
#[derive(Clone, Copy, Debug)]
pub struct Dialled {
    /// Its number.
    pub number: u8,
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: &'static str,
    /// The pod behind it.
    pub pod: Option<usize>,
    /// What clients dial.
    pub port: u16,
}

const fn row(number: u8, protocol: &'static str, pod: Option<usize>, port: u16) -> Dialled {
    Dialled { number, protocol, pod, port }
}

/// All of them.
pub const SERVICES: [Dialled; 12] = [
    row(1, "TCP", Some(0), PORT),
    row(2, "UDP", Some(0), PORT),
    row(3, "TCP", Some(3), PORT),
    row(4, "UDP", Some(3), PORT),
    row(5, "TCP", Some(2), PORT),
    row(6, "UDP", Some(2), PORT),
    row(7, "SCTP", Some(0), TARGET),
    row(8, "SCTP", Some(3), TARGET),
    row(9, "SCTP", Some(0), PORT),
    row(10, "TCP", None, PORT),
    row(11, "UDP", None, PORT),
    row(12, "SCTP", None, PORT),
];

/// The Service of that transport whose only endpoint is on that pod.
///
/// # Panics
/// There is none.
pub fn served(protocol: &str, pod: Option<usize>) -> Dialled {
    let found = SERVICES.into_iter().find(|row| row.protocol == protocol && row.pod == pod);
    found.unwrap_or_else(|| panic!("no {protocol} at {pod:?}"))
}

impl Dialled {
    /// As the reference model has it.
    pub fn service(&self) -> Service {
        let endpoint = |pod: usize| Endpoint {
            pod,
            port: TARGET,
            here: pod < super::LOCAL_PODS,
            ready: None,
            serving: None,
            terminating: None,
            zone_hint: None,
            node_hint: None,
        };
        Service {
            number: self.number,
            families: (true, true),
            udp: self.protocol == "UDP",
            port: self.port,
            internal_local: false,
            affinity: false,
            maglev: false,
            redirected: false,
            exposed: Some(Exposed {
                external_local: false,
                node_port: 30_000 + u16::from(self.number),
                source_ranges: Vec::new(),
            }),
            endpoints: self.pod.map(endpoint).into_iter().collect(),
        }
    }

    /// What it is dialled by.
    ///
    /// # Panics
    /// There is no such address.
    pub fn at(&self, kind: Kind, is_v6: bool, node: &[IpAddr]) -> SocketAddr {
        let all = self.service().dialled(node);
        let found = all.into_iter().find(|(other, at)| *other == kind && at.is_ipv6() == is_v6);
        found.expect("every kind, both families").1
    }

    /// What serves it.
    ///
    /// # Panics
    /// Nothing does.
    pub fn endpoint(&self, is_v6: bool) -> SocketAddr {
        SocketAddr::new(Rig::pods(is_v6)[self.pod.expect("an endpoint")], TARGET)
    }

    fn objects(&self) -> (Value, Vec<Value>) {
        let service = self.service();
        let (mut object, [v4, v6]) = (service.object(), [false, true].map(Rig::pods));
        let mut slices = service.slices(&v4, &v6);
        object["spec"]["ports"][0]["protocol"] = json!(self.protocol);
        slices.iter_mut().for_each(|slice| slice["ports"][0]["protocol"] = json!(self.protocol));
        (object, slices)
    }
}

impl Rig {
    /// A node with [`SERVICES`].
    pub fn with_services() -> Self {
        let mut rig = Self::new();
        for row in SERVICES {
            let (object, slices) = row.objects();
            rig.node.apply_objects(Some(object), &row.service().name(), slices);
        }
        rig.node.program();
        rig
    }

    /// Both of the node's own addresses.
    pub fn both(&self) -> [IpAddr; 2] {
        [self.own(false), self.own(true)]
    }
}
