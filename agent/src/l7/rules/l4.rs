//! Rules for connections, compiled: what `tls` and `tcp` have in common.

use std::sync::Arc;

use super::{
    ObjectName,
    actions::{DestinationName, Weights},
    client::{Filter, Filtered},
    hosts::{HostPattern, Mesh},
    objects::{Messages, RouteDestination},
};

/// A rule of `tls` or `tcp`.
#[derive(Clone, Debug)]
pub struct L4Rule {
    /// Its place, as in `tls[0]`.
    pub place: Arc<str>,
    /// The VirtualService.
    pub virtual_service: Arc<ObjectName>,
    /// Destinations, chosen from once per connection.
    pub destinations: Vec<DestinationName>,
    /// Their weights, in the same order.
    pub weights: Weights,
    pub(crate) matches: Vec<L4Match>,
}

/// One entry of `match`.
#[derive(Clone, Debug)]
pub(crate) struct L4Match {
    /// Server names, any of which is enough; `None` for `tcp`.
    pub(crate) server_names: Option<Vec<HostPattern>>,
    pub(crate) filter: Filter,
}

impl L4Match {
    /// Whether a connection with this server name is meant; `None` is a client that sent none.
    pub(crate) fn fits(&self, server_name: Option<&str>) -> bool {
        match (&self.server_names, server_name) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(names), Some(name)) => names.iter().any(|pattern| pattern.specificity(name).is_some()),
        }
    }
}

impl Filtered for L4Rule {
    fn filters(&self) -> impl ExactSizeIterator<Item = &Filter> {
        self.matches.iter().map(|entry| &entry.filter)
    }
}

impl L4Rule {
    /// Compiles the destinations of the rule at `spec.{place}`.
    pub(crate) fn compile(
        place: &str,
        matches: Vec<L4Match>,
        raw: &[RouteDestination],
        name: &Arc<ObjectName>,
        mesh: &Mesh,
        messages: &mut Messages,
    ) -> Self {
        let path = format!("spec.{place}.route");
        if raw.is_empty() {
            messages.error(&path, "is missing");
        }
        let mut destinations = Vec::with_capacity(raw.len());
        for (i, entry) in raw.iter().enumerate() {
            let path = format!("{path}[{i}].destination");
            let raw = entry.destination.as_ref();
            destinations.extend(DestinationName::compile(raw, &path, &name.namespace, mesh, messages));
        }
        let weights: Vec<_> = raw.iter().map(|entry| entry.weight).collect();
        Self {
            place: place.into(),
            virtual_service: name.clone(),
            destinations,
            weights: Weights::compile(&weights, &path, messages),
            matches,
        }
    }
}
