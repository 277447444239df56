//! DestinationRules: merging, and what one of them says of a destination. Checks are in `policy_checks.rs`.

use std::sync::Arc;

use serde_json::Value;

use super::super::{
    ObjectName,
    client::Client,
    hosts::{Export, HostPattern, Mesh},
    objects::{self, Labels, Messages, Meta, PortPolicy, Subset, TrafficPolicy},
};
use super::{Read, policy_checks};
use crate::model::annotations;

/// Lets subsets of a rule with `ISTIO_MUTUAL` be used in plain text.
const ALLOW_PLAINTEXT: &str = annotations::ALLOW_PLAINTEXT.name;

/// A DestinationRule without errors, possibly merged from several.
#[derive(Clone, PartialEq, Debug)]
pub struct DestinationRule {
    /// Identity and age; of several merged ones, the first.
    pub meta: Meta,
    /// Host, resolved.
    pub host: HostPattern,
    /// Who sees it.
    pub export: Export,
    /// Labels of the client pods that it is for; empty is all.
    pub selector: Labels,
    pub(super) policy: Option<TrafficPolicy>,
    pub(super) subsets: Vec<Subset>,
}

/// What DestinationRules say of one destination and port.
#[derive(Clone, PartialEq, Debug)]
pub struct Policy {
    /// The rule that says so; of several merged ones, the first.
    pub destination_rule: ObjectName,
    /// Labels that endpoints must have; empty is all endpoints.
    pub labels: Labels,
    /// Settings of the rule, the port and the subset, merged; `port_level_settings` is empty.
    pub traffic: TrafficPolicy,
}

/// Reads and checks a DestinationRule.
pub fn read_destination_rule(object: &Value, mesh: &Mesh) -> Read<DestinationRule> {
    let mut messages = Messages::default();
    let (meta, spec) = objects::destination_rule(object, &mut messages);
    let name = meta.name.clone();
    let value = spec.map(|mut spec| {
        let plaintext = meta.annotations.get(ALLOW_PLAINTEXT).is_some_and(|value| value == "true");
        let mut export = Export::compile(&spec.export_to, &name.namespace, &mut messages);
        policy_checks::check(&mut spec, plaintext, &mut messages);
        let selector = spec.workload_selector.take().unwrap_or_default().match_labels;
        if !selector.is_empty() {
            let own = Export::To(vec![name.namespace.clone()]);
            if !spec.export_to.is_empty() && export != own {
                let text = "must be `.` beside workloadSelector, which concerns pods of this namespace only";
                messages.error("spec.exportTo", text);
            }
            export = own;
        }
        DestinationRule {
            host: HostPattern::new(mesh.resolve(&spec.host, &name.namespace)),
            export,
            selector,
            policy: spec.traffic_policy,
            subsets: spec.subsets,
            meta,
        }
    });
    let value = value.filter(|_| !messages.has_errors()).map(Arc::new);
    Read { name, value, messages: messages.into_vec() }
}

/// Merges rules of one namespace for the same host and audience: subsets add up, the oldest policy stays.
///
/// `rules` must be in order of age. A subset that an older rule has already is reported and dropped.
pub(super) fn merge(
    rules: &[Arc<DestinationRule>],
    mut report: impl FnMut(&ObjectName, Messages),
) -> Vec<Arc<DestinationRule>> {
    let mut merged: Vec<DestinationRule> = Vec::new();
    for rule in rules {
        let same = |other: &&mut DestinationRule| {
            other.meta.name.namespace == rule.meta.name.namespace
                && (&other.host, &other.export, &other.selector) == (&rule.host, &rule.export, &rule.selector)
        };
        let Some(older) = merged.iter_mut().find(same) else {
            merged.push(DestinationRule::clone(rule));
            continue;
        };
        let mut messages = Messages::default();
        for (i, subset) in rule.subsets.iter().enumerate() {
            if older.subsets.iter().any(|other| other.name == subset.name) {
                let text =
                    format!("DestinationRule {}, which is older, has this subset already", older.meta.name);
                messages.warn(format!("spec.subsets[{i}]"), text);
            } else {
                older.subsets.push(subset.clone());
            }
        }
        if rule.policy.is_some() && older.policy.is_some() {
            let text =
                format!("DestinationRule {}, which is older, has the policy of this host", older.meta.name);
            messages.warn("spec.trafficPolicy", text);
        } else if rule.policy.is_some() {
            older.policy.clone_from(&rule.policy);
        }
        report(&rule.meta.name, messages);
    }
    merged.into_iter().map(Arc::new).collect()
}

impl DestinationRule {
    /// What this says of `subset` at `port`; `None` when it has no such subset.
    pub(super) fn policy(&self, subset: Option<&str>, port: u16) -> Option<Policy> {
        let mut traffic = TrafficPolicy::default();
        overlay(&mut traffic, self.policy.as_ref(), port);
        let mut labels = Labels::new();
        if let Some(name) = subset {
            let subset = self.subsets.iter().find(|subset| subset.name == name)?;
            labels.clone_from(&subset.labels);
            overlay(&mut traffic, subset.traffic_policy.as_ref(), port);
        }
        Some(Policy { destination_rule: self.meta.name.clone(), labels, traffic })
    }

    /// How well it suits `client` for `host`, a Service of `service_namespace`; smaller is better.
    pub(super) fn rank(
        &self,
        client: &Client<'_>,
        service_namespace: Option<&str>,
        root_namespace: &str,
    ) -> Option<(u8, bool)> {
        let own = self.meta.name.namespace.as_str();
        self.export.tier(own, client.namespace)?;
        let selected = self.selector.iter().all(|(key, value)| client.labels.get(key) == Some(value));
        if !selected {
            return None;
        }
        let distance = if client.namespace == Some(own) {
            0
        } else if service_namespace == Some(own) {
            1
        } else if own == root_namespace {
            2
        } else {
            return None;
        };
        Some((distance, self.selector.is_empty()))
    }
}

/// Lays `more` over `base`: group by group, then the settings of the port, which replace four groups whole.
fn overlay(base: &mut TrafficPolicy, more: Option<&TrafficPolicy>, port: u16) {
    let Some(more) = more else { return };
    fn take<T: Clone>(base: &mut Option<T>, more: &Option<T>) {
        if more.is_some() {
            base.clone_from(more);
        }
    }
    take(&mut base.load_balancer, &more.load_balancer);
    take(&mut base.connection_pool, &more.connection_pool);
    take(&mut base.outlier_detection, &more.outlier_detection);
    take(&mut base.tls, &more.tls);
    take(&mut base.proxy_protocol, &more.proxy_protocol);
    take(&mut base.retry_budget, &more.retry_budget);
    let wanted = |settings: &&PortPolicy| settings.port.number == u32::from(port);
    if let Some(settings) = more.port_level_settings.iter().find(wanted) {
        base.load_balancer.clone_from(&settings.load_balancer);
        base.connection_pool.clone_from(&settings.connection_pool);
        base.outlier_detection.clone_from(&settings.outlier_detection);
        base.tls.clone_from(&settings.tls);
    }
}
