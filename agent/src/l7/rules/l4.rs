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

impl L4Match {
    /// Whether every connection that meets `inner` meets this one too, as far as can be told.
    fn covers(&self, inner: &Self) -> bool {
        let names = match (&self.server_names, &inner.server_names) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(outer), Some(inner)) => {
                inner.iter().all(|inner| outer.iter().any(|outer| outer.covers(inner)))
            }
        };
        names && self.filter.covers(&inner.filter)
    }
}

/// Warns of rules that no connection reaches, because earlier ones take all that they want.
pub(crate) fn warn_unreachable(rules: &[L4Rule], messages: &mut Messages) {
    for (i, rule) in rules.iter().enumerate() {
        let earlier = &rules[..i];
        let all = earlier.iter().position(|earlier| earlier.matches.is_empty());
        let takes = |outer: &L4Rule, inner| outer.matches.iter().any(|outer| outer.covers(inner));
        let taken = |inner| earlier.iter().position(|outer| takes(outer, inner));
        let wanted = rule.matches.iter().filter(|entry| entry.filter.is_on_mesh());
        let takers: Option<Vec<_>> = if rule.matches.is_empty() { None } else { wanted.map(taken).collect() };
        let last = takers.and_then(|takers| takers.into_iter().max());
        if let Some(taker) = all.or(last) {
            let text = format!(
                "no connection reaches this rule: {} takes all that it wants; move it up",
                earlier[taker].place
            );
            messages.warn(format!("spec.{}", rule.place), text);
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
