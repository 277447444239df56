//! `v1.Node` into the model.

use k8s_openapi::api::core::v1 as core;

use super::{Complaints, Converted};
use crate::model::{Node, ObjectName};

/// Source: KEP-3836.
const LEAVING_TAINT: &str = "ToBeDeletedByClusterAutoscaler";
const ZONE_LABEL: &str = "topology.kubernetes.io/zone";

/// Converts a Node: its zone, whether it is leaving, and its addresses in kube-proxy's order of preference (`GetNodeHostIPs`).
pub fn node(object: &core::Node) -> Converted<Node> {
    let name = object.metadata.name.clone().unwrap_or_default();
    let mut complaints = Complaints::new("Node", ObjectName::new("", name.clone()));
    let zone = object.metadata.labels.iter().flatten().find(|(key, _)| *key == ZONE_LABEL);
    let zone = zone.map(|(_, zone)| zone.clone()).filter(|zone| !zone.is_empty());
    let known = object.status.iter().filter_map(|status| status.addresses.as_ref()).flatten();
    let of_kind = |kind: &str| {
        known.clone().filter(|entry| entry.type_ == kind).map(|entry| entry.address.clone()).collect()
    };
    let texts: Vec<String> = [of_kind("InternalIP"), of_kind("ExternalIP")]
        .into_iter()
        .flat_map(|list: Vec<String>| list)
        .collect();
    let addresses = complaints.addresses("status.addresses", &texts);
    let taints = object.spec.iter().filter_map(|spec| spec.taints.as_ref()).flatten();
    let leaving = object.metadata.deletion_timestamp.is_some()
        || taints.into_iter().any(|taint| taint.key == LEAVING_TAINT);
    complaints.done(Some(Node { name, zone, addresses, leaving }))
}
