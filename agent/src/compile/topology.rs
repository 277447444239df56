//! Which endpoints serve: readiness, terminating fallback, hints. Follows kube-proxy's `CategorizeEndpoints`
//! (`pkg/proxy/topology.go`).

use sluice_common::layout::Excluded;

use super::endpoints::{Candidate, is_fallback};
use crate::model::{EndpointState, Node};

/// Fills in `local`, `in_cluster`, `in_local` and `excluded`.
///
/// Cluster range: ready endpoints that the hints allow; if nothing is ready anywhere, the terminating ones that
/// still serve, hints ignored. Local range (only if `uses_local`): this node's ready endpoints, else its
/// terminating ones; hints never apply. The two fall back independently.
pub fn categorize(endpoints: &mut [Candidate], node: &Node, uses_local: bool) {
    for endpoint in endpoints.iter_mut() {
        endpoint.compiled.local = endpoint.compiled.node.as_deref() == Some(node.name.as_str());
    }
    let rule = Rule::of(endpoints, node);
    let any_ready = endpoints.iter().any(is_ready);
    let any_local_ready = endpoints.iter().any(|endpoint| endpoint.compiled.local && is_ready(endpoint));
    for endpoint in endpoints.iter_mut() {
        let ready = is_ready(endpoint);
        let fallback = is_fallback(endpoint.compiled.state);
        let in_cluster = if any_ready { ready && rule.allows(endpoint) } else { fallback };
        let in_local =
            uses_local && endpoint.compiled.local && if any_local_ready { ready } else { fallback };
        let compiled = &mut endpoint.compiled;
        compiled.in_cluster = in_cluster;
        compiled.in_local = in_local;
        compiled.excluded = match compiled.state {
            _ if in_cluster || in_local => None,
            EndpointState::Ready => Some(Excluded::Topology),
            EndpointState::Terminating => Some(Excluded::Terminating),
            EndpointState::NotReady => Some(Excluded::NotReady),
        };
    }
}

fn is_ready(endpoint: &Candidate) -> bool {
    endpoint.compiled.state == EndpointState::Ready
}

/// How hints restrict the cluster range.
enum Rule<'n> {
    All,
    SameNode(&'n str),
    SameZone(&'n str),
}

impl<'n> Rule<'n> {
    /// All or nothing: a single ready endpoint without the hint turns the restriction off.
    fn of(endpoints: &[Candidate], node: &'n Node) -> Self {
        let mut ready = endpoints.iter().filter(|endpoint| is_ready(endpoint)).peekable();
        if ready.peek().is_none() {
            return Self::All;
        }
        let ready: Vec<_> = ready.collect();
        if ready.iter().all(|endpoint| !endpoint.node_hints.is_empty())
            && ready.iter().any(|endpoint| endpoint.node_hints.contains(&node.name))
        {
            return Self::SameNode(&node.name);
        }
        match node.zone.as_deref().filter(|zone| !zone.is_empty()) {
            Some(zone)
                if ready.iter().all(|endpoint| !endpoint.zone_hints.is_empty())
                    && ready.iter().any(|endpoint| endpoint.zone_hints.contains(zone)) =>
            {
                Self::SameZone(zone)
            }
            Some(_) | None => Self::All,
        }
    }

    fn allows(&self, endpoint: &Candidate) -> bool {
        match self {
            Self::All => true,
            Self::SameNode(node) => endpoint.node_hints.contains(*node),
            Self::SameZone(zone) => endpoint.zone_hints.contains(*zone),
        }
    }
}
