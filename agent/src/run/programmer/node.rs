//! The node itself: its addresses, and the ports that are kept free on it.

use std::{net::IpAddr, time::Instant};

use super::{Programmer, nodeport};
use crate::reserved;

impl Programmer {
    /// Whether to list the node's addresses and devices: after word of a change, while something has not succeeded, and
    /// with each probe, for word may be lost.
    pub(super) fn looks_at_node(&mut self, now: Instant) -> bool {
        let probes = self.probe_at.is_none_or(|at| at <= now);
        std::mem::take(&mut self.node_moved) || probes || self.retry.is_some() || !self.first_round_done
    }

    /// Addresses come and go with interfaces.
    pub(super) fn serve_node_ports(&mut self) -> bool {
        let interfaces = nodeport::interfaces();
        let wanted = nodeport::addresses(&self.nodeport_addresses, &self.store.node().addresses, &interfaces);
        self.here = wanted.keys().map(|address| IpAddr::from(*address)).collect();
        self.here.retain(|address| interfaces.contains(address));
        let result = self.reconciler.set_node_addresses(&mut self.maps, &wanted);
        self.is_written("the node's addresses", result)
    }

    /// Again with each probe, for others change these settings too.
    pub(super) fn reserve_ports(&self) {
        let ports = self.checks.ports().chain(self.node_ports.iter().copied()).collect();
        let result = reserved::reserve(self.loaded.pins(), &ports);
        self.shared.clear("reserved-ports");
        if let Err(error) = result {
            let text = format!("NodePorts are not kept out of the node's ephemeral range: {error:#}");
            self.shared.warn("reserved-ports", text);
        }
    }
}
