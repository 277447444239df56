//! `v1.Node` into the model.

use k8s_openapi::api::core::v1 as core;

use super::{Complaints, Converted};
use crate::model::{Node, ObjectName};

const ZONE_LABEL: &str = "topology.kubernetes.io/zone";

/// Converts a Node: its zone, and its addresses in kube-proxy's order of preference (`GetNodeHostIPs`).
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
    complaints.done(Some(Node { name, zone, addresses }))
}
