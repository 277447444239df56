//! How a connection goes on once it is led to an endpoint: by which hooks, in whose name, one hop shorter or not.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::packets::Sender;
use crate::rig::{LOCAL_PODS, Place, Rig};

/// How a connection's packets go on.
#[derive(Clone, Copy, Debug)]
pub struct Way {
    /// What it is called.
    pub name: &'static str,
    /// The node's address in whose name it goes on, if it does.
    pub source: Option<IpAddr>,
    /// Whether its packets leave by our own route, one hop shorter.
    pub is_routed: bool,
    /// Where its answers come by.
    pub back: Place,
    /// Whether they leave by our own route, too.
    pub back_is_routed: bool,
    /// Whether they are handed to the node.
    pub back_to_node: bool,
}

impl Way {
    /// That of a connection from `src`, led to `by`, at a node with the address `own`: a pod, or a cluster IP at which the
    /// redirector serves.
    pub fn of(sender: Sender, src: IpAddr, by: IpAddr, own: IpAddr) -> Self {
        let Some(pod) = Rig::pods(by.is_ipv6()).into_iter().position(|pod| pod == by) else {
            return Self::to_redirector(sender);
        };
        let is_local = pod < LOCAL_PODS;
        // The address of the device by which the pod is reached: the overlay has one of its own.
        let overlay = if by.is_ipv6() {
            Ipv6Addr::new(0xfd00, 0x10, 0x244, 1, 0, 0, 0, 0).into()
        } else {
            Ipv4Addr::new(10, 244, 1, 0).into()
        };
        let device = if pod == LOCAL_PODS { overlay } else { own };
        let plain = Self {
            name: "",
            source: None,
            is_routed: false,
            back: Place::ToNetwork,
            back_is_routed: false,
            back_to_node: false,
        };
        let routed = Self { source: Some(device), is_routed: true, back: Place::FromNetwork, ..plain };
        match (sender, is_local) {
            (Sender::Outside, true) => Self { name: "outside to here", ..plain },
            (Sender::Outside, false) => Self { name: "outside to there", back_is_routed: true, ..routed },
            (Sender::Pod(own_pod), _) if src == by => {
                Self { name: "pod to itself", back: Place::FromPod(own_pod), back_is_routed: true, ..routed }
            }
            (Sender::Pod(own_pod), _) => Self { name: "pod to pod", back: Place::ToPod(own_pod), ..plain },
            (Sender::Node, true) => Self {
                name: "node to here",
                is_routed: true,
                back: Place::FromPod(pod),
                back_to_node: true,
                ..plain
            },
            (Sender::Node, false) => Self { name: "node to there", back_to_node: true, ..routed },
        }
    }
}

impl Way {
    /// Through the node's stack, as to a pod of the node.
    const fn to_redirector(sender: Sender) -> Self {
        let (name, back) = match sender {
            Sender::Outside | Sender::Node => (REDIRECTOR[0], Place::ToNetwork),
            Sender::Pod(pod) => (REDIRECTOR[1], Place::ToPod(pod)),
        };
        Self { name, source: None, is_routed: false, back, back_is_routed: false, back_to_node: false }
    }
}

/// Names of the ways to the redirector.
pub const REDIRECTOR: [&str; 2] = ["outside to the redirector", "pod to the redirector"];

impl Sender {
    /// Where its packets are met.
    pub const fn place(self) -> Place {
        match self {
            Self::Outside => Place::FromNetwork,
            Self::Pod(pod) => Place::FromPod(pod),
            Self::Node => Place::ToNetwork,
        }
    }
}
