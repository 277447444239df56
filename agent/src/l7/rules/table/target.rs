//! Destinations, resolved: which Service and port, and what DestinationRules say of them to one client.

use std::sync::Arc;

use super::super::{actions::DestinationName, client::Client, hosts::Export};
use super::{DestinationRule, KnownServices, Policy, RuleSet};

/// A destination for one client.
#[derive(Clone, PartialEq, Debug)]
pub struct Target {
    /// Host in full, lower case.
    pub host: Arc<str>,
    /// Service port.
    pub port: u16,
    /// Subset, if the rule names one.
    pub subset: Option<Arc<str>>,
    /// Whether requests can go there; all other states answer 503.
    pub state: TargetState,
    /// What the DestinationRule says that holds for this client; `None` is the defaults.
    pub policy: Option<Arc<Policy>>,
}

/// Whether a destination exists.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TargetState {
    /// It does.
    Ready,
    /// No Service has this host.
    UnknownService,
    /// The Service has no such port.
    UnknownPort,
    /// No DestinationRule that holds for this client has this subset.
    UnknownSubset,
}

impl TargetState {
    /// Why requests there get 503.
    pub const fn fault(self) -> Option<&'static str> {
        match self {
            Self::Ready => None,
            Self::UnknownService => Some("no such Service"),
            Self::UnknownPort => Some("the Service has no such port"),
            Self::UnknownSubset => Some("no DestinationRule has this subset"),
        }
    }
}

/// A destination for all clients.
#[derive(Clone, Debug)]
pub(super) struct Template {
    target: Target,
    service_namespace: Option<String>,
    root_namespace: Arc<str>,
    /// Rules for this host, the most specific first, then by age.
    rules: Vec<Candidate>,
}

#[derive(Clone, Debug)]
struct Candidate {
    specificity: usize,
    rule: Arc<DestinationRule>,
    /// `None` when the rule lacks the subset.
    policy: Option<Arc<Policy>>,
}

impl Template {
    /// Resolves `name`, a destination of a rule for requests to `port`.
    pub(super) fn new(set: &RuleSet, name: &DestinationName, port: u16, known: &KnownServices) -> Self {
        let service = known.get(name.host.as_ref());
        let only = service.and_then(|service| match service.ports.as_slice() {
            [only] => Some(*only),
            _ => None,
        });
        let port = name.port.or(only).unwrap_or(port);
        let state = match service {
            None => TargetState::UnknownService,
            Some(service) if !service.ports.is_empty() && !service.ports.contains(&port) => {
                TargetState::UnknownPort
            }
            Some(_) => TargetState::Ready,
        };
        let namespace = service.map(|service| service.namespace.as_str());
        let rules = set.destination_rules.iter().filter_map(|rule| {
            let policy = rule.policy(name.subset.as_deref(), port).map(Arc::new);
            Some(Candidate { specificity: rule.host.specificity(&name.host)?, rule: rule.clone(), policy })
        });
        Self {
            target: Target {
                host: name.host.clone(),
                port,
                subset: name.subset.clone(),
                state,
                policy: None,
            },
            service_namespace: namespace.or_else(|| set.mesh.namespace_of(&name.host)).map(str::to_owned),
            root_namespace: set.mesh.root_namespace.as_str().into(),
            rules: rules.collect(),
        }
    }

    /// What it is to `client`.
    pub(super) fn for_client(&self, client: &Client<'_>) -> Target {
        let ranked = self.rules.iter().filter_map(|candidate| {
            let namespace = self.service_namespace.as_deref();
            let (distance, general) = candidate.rule.rank(client, namespace, &self.root_namespace)?;
            Some(((distance, usize::MAX - candidate.specificity, general), candidate))
        });
        let best = ranked.min_by_key(|(rank, _)| *rank).map(|(_, candidate)| candidate);
        let mut target = self.target.clone();
        target.policy = best.and_then(|candidate| candidate.policy.clone());
        if target.state == TargetState::Ready && target.subset.is_some() && target.policy.is_none() {
            target.state = TargetState::UnknownSubset;
        }
        target
    }

    /// Whether it is the same for all clients: the namespace that rules are taken from depends on the client's.
    pub(super) fn is_same_for_all(&self) -> bool {
        let own = |candidate: &Candidate| {
            let namespace = candidate.rule.meta.name.namespace.as_str();
            let near =
                self.service_namespace.as_deref() == Some(namespace) || *self.root_namespace == *namespace;
            near && candidate.rule.export == Export::Public && candidate.rule.selector.is_empty()
        };
        let namespaces = self.rules.iter().map(|candidate| &candidate.rule.meta.name.namespace);
        let mut others = namespaces.clone().skip(1).zip(namespaces);
        self.rules.iter().all(own) && others.all(|(one, other)| one == other)
    }

    /// Whether no rule at all has the subset, for any client.
    pub(super) fn lacks_subset(&self) -> bool {
        self.target.subset.is_some() && self.rules.iter().all(|candidate| candidate.policy.is_none())
    }

    pub(super) fn target(&self) -> &Target {
        &self.target
    }
}
