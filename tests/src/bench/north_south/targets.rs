//! What was wanted of the way through a node, and what came of it.

use super::{Destination, Measures, SIZES, times_as_many};
use crate::bench::Results;

const OUTSIDE: [Destination; 2] = [Destination::NodePort, Destination::LoadBalancer];

/// Adds a target for whatever was measured; what was not chosen has none.
pub fn add(measures: &Measures, results: &mut Results) {
    for (way, wanted) in [("tc", 1.7), ("xdp", 4.0)] {
        against_iptables(way, wanted, measures, results);
        flat(way, measures, results);
        not_ours(way, measures, results);
    }
}

fn against_iptables(way: &'static str, wanted: f64, measures: &Measures, results: &mut Results) {
    for (services, to) in SIZES.into_iter().flat_map(|services| OUTSIDE.map(|to| (services, to))) {
        let label = |what: &str| format!("{way}, {}, {services} Services: {what}", to.name());
        let (case, iptables) = ((way, to, services), measures.node_ns(("iptables", to, services)));
        if let Some(value) = times_as_many(measures.node_ns(case), iptables.clone()) {
            results.at_least(&label("packets / iptables"), value, wanted, "ratio");
        }
        let frames = |case| measures.node_ns_of_frames(case);
        if let Some(value) = times_as_many(frames(case), frames(("iptables", to, services))) {
            results.at_least(&label("frames / iptables"), value, wanted, "ratio");
        }
    }
}

fn flat(way: &'static str, measures: &Measures, results: &mut Results) {
    let [few, _, many] = SIZES;
    for to in OUTSIDE {
        let label = |what: &str| format!("{way}, {}: {what}, {many} Services / {few}", to.name());
        let [first, last] = [few, many].map(|services| (way, to, services));
        if let Some(value) = times_as_many(measures.node_ns(last), measures.node_ns(first)) {
            results.at_least(&label("packets"), value, 0.95, "ratio");
        }
        let connections = |case| measures.connections.median(case);
        if let (Some(first), Some(last)) = (connections(first), connections(last)) {
            results.at_least(&label("connections"), last / first, 0.95, "ratio");
        }
    }
}

fn not_ours(way: &'static str, measures: &Measures, results: &mut Results) {
    for services in SIZES {
        let at = |way| measures.node_ns((way, Destination::Pod, services));
        for (other, needs_xdp) in [("plain", false), ("empty-xdp", true)] {
            if needs_xdp && way != "xdp" {
                continue;
            }
            if let Some(value) = times_as_many(at(way), at(other)) {
                let name = format!("{way}, {services} Services: not ours, packets / {other}");
                results.at_least(&name, value, 0.95, "ratio");
            }
        }
        let frames = |way| measures.node_ns_of_frames((way, Destination::Pod, services));
        if let Some(value) = times_as_many(frames(way), frames("plain")) {
            let name = format!("{way}, {services} Services: not ours, frames / plain");
            results.at_least(&name, value, 0.95, "ratio");
        }
    }
}
