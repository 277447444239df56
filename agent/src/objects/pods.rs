//! `v1.Pod`: what headless Services and manifests need of it (no controller makes EndpointSlices there), and whether
//! it wants to be left alone.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use k8s_openapi::{api::core::v1 as core, apimachinery::pkg::apis::meta::v1::ObjectMeta};

use super::{Complaints, Converted, ServiceWithSelector, parse_port, service::TargetPort};
use crate::model::{
    Endpoint, EndpointSlice, EndpointState, Family, ObjectName, OwnPod, Pod, Protocol, SlicePort, annotations,
};

const SOCKET_LB: &str = annotations::SOCKET_LB.name;

/// The facts of a pod that make endpoints.
#[derive(Clone, PartialEq, Debug)]
pub struct PodFacts {
    /// Its name.
    pub name: ObjectName,
    labels: BTreeMap<String, String>,
    addresses: Vec<IpAddr>,
    /// Its node.
    pub node: Option<Arc<str>>,
    host_network: bool,
    /// Its uid, if it wants to be left alone.
    pub left_alone: Option<String>,
    state: EndpointState,
    ports: Vec<(String, Protocol, u16)>,
}

/// Reads a pod. A pod without a `Ready` condition counts as ready: in files nobody sets it.
pub fn pod_facts(object: &core::Pod) -> Converted<PodFacts> {
    let meta = &object.metadata;
    let name = ObjectName::new(
        meta.namespace.as_deref().unwrap_or("default"),
        meta.name.as_deref().unwrap_or_default(),
    );
    let mut complaints = Complaints::new("Pod", name.clone());
    let status = object.status.clone().unwrap_or_default();
    let mut texts: Vec<String> = status.pod_ips.iter().flatten().map(|entry| entry.ip.clone()).collect();
    if texts.is_empty() {
        texts.extend(status.pod_ip);
    }
    let addresses = complaints.own_addresses("status.podIPs", &texts);
    let finished = matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"));
    if finished || addresses.is_empty() {
        return complaints.done(None);
    }
    let condition = status.conditions.iter().flatten().find(|condition| condition.type_ == "Ready");
    let ready = condition.is_none_or(|condition| condition.status == "True");
    let state = match (ready, meta.deletion_timestamp.is_some()) {
        (true, false) => EndpointState::Ready,
        (true, true) => EndpointState::Terminating,
        (false, _) => EndpointState::NotReady,
    };
    let spec = object.spec.clone().unwrap_or_default();
    let ports = container_ports(&spec, &mut complaints);
    let node = spec.node_name.as_deref().map(Arc::from);
    let host_network = spec.host_network == Some(true);
    let labels = meta.labels.clone().unwrap_or_default();
    let left_alone = left_alone(meta, &mut complaints);
    let facts = PodFacts { name, labels, addresses, node, host_network, left_alone, state, ports };
    complaints.done(Some(facts))
}

/// What a pod's metadata alone tells of it.
pub fn own_pod(meta: &ObjectMeta) -> Converted<OwnPod> {
    let name = ObjectName::new(
        meta.namespace.as_deref().unwrap_or("default"),
        meta.name.as_deref().unwrap_or_default(),
    );
    let mut complaints = Complaints::new("Pod", name.clone());
    let left_alone = left_alone(meta, &mut complaints);
    complaints.done(Some(OwnPod { name, left_alone }))
}

/// The uid of a pod that wants to be left alone.
fn left_alone(meta: &ObjectMeta, complaints: &mut Complaints) -> Option<String> {
    let path = format!("metadata.annotations[{SOCKET_LB}]");
    match meta.annotations.as_ref()?.get(SOCKET_LB)?.trim() {
        "true" => None,
        "false" => {
            let uid = meta.uid.clone().filter(|uid| is_uid(uid));
            if uid.is_none() {
                complaints.add(
                    "metadata.uid",
                    format!("is missing, and {SOCKET_LB} finds a pod's processes by it"),
                );
            }
            uid
        }
        other => {
            complaints.add(path, format!("{other:?} is neither \"true\" nor \"false\"; taken as \"true\""));
            None
        }
    }
}

/// Long enough to be no part of another pod's, and of such letters that it can be part of a folder's name.
fn is_uid(uid: &str) -> bool {
    uid.len() >= 8 && uid.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

fn container_ports(spec: &core::PodSpec, complaints: &mut Complaints) -> Vec<(String, Protocol, u16)> {
    let mut ports = Vec::new();
    for (container, declared) in spec.containers.iter().enumerate() {
        for (index, port) in declared.ports.iter().flatten().enumerate() {
            let protocol = Protocol::from_name(port.protocol.as_deref().unwrap_or("TCP"));
            match (parse_port(port.container_port), protocol) {
                (Some(number), Some(protocol)) => {
                    ports.push((port.name.clone().unwrap_or_default(), protocol, number))
                }
                _ => complaints.add(
                    format!("spec.containers[{container}].ports[{index}]"),
                    "needs a containerPort within 1 to 65535 and a protocol of TCP, UDP, SCTP; left out",
                ),
            }
        }
    }
    ports
}

impl PodFacts {
    /// The model's part.
    pub fn pod(&self) -> Pod {
        Pod {
            name: self.name.clone(),
            addresses: self.addresses.clone(),
            node: self.node.clone(),
            host_network: self.host_network,
            labels: self.labels.clone(),
            ports: self.ports.iter().map(|(_, protocol, port)| (*protocol, *port)).collect(),
        }
    }

    fn resolve(&self, target: &TargetPort, protocol: Protocol) -> Option<u16> {
        match target {
            TargetPort::Number(number) => Some(*number),
            TargetPort::Name(name) => {
                let named = self.ports.iter().find(|(port, kind, _)| port == name && *kind == protocol);
                named.map(|(_, _, number)| *number)
            }
        }
    }
}

/// The slices that the endpoint controller would make for `service` from `pods`: one per family and pod,
/// since pods may give one port name different numbers. None for Services without a selector.
pub fn slices_from_pods(service: &ServiceWithSelector, pods: &[PodFacts]) -> Vec<EndpointSlice> {
    if service.selector.is_empty() {
        return Vec::new();
    }
    let owner = &service.service.name;
    let selected = pods.iter().filter(|pod| {
        let labels_match = service.selector.iter().all(|(key, value)| pod.labels.get(key) == Some(value));
        pod.name.namespace == owner.namespace && labels_match
    });
    selected.flat_map(|pod| slices_of_pod(service, pod)).collect()
}

fn slices_of_pod(service: &ServiceWithSelector, pod: &PodFacts) -> Vec<EndpointSlice> {
    let ports: Vec<SlicePort> = service
        .service
        .ports
        .iter()
        .filter_map(|port| {
            let target = service.target_ports.get(&port.name)?;
            let number = pod.resolve(target, port.protocol)?;
            Some(SlicePort { name: port.name.clone(), protocol: port.protocol, port: Some(number) })
        })
        .collect();
    let state = if service.publish_not_ready { EndpointState::Ready } else { pod.state };
    let of_family = |family: Family| {
        let address = pod.addresses.iter().find(|address| Family::of(**address) == family)?;
        let owner = &service.service.name;
        Some(EndpointSlice {
            changed: None,
            // No name holds a slash, so that no two of these are the same.
            name: ObjectName::new(
                owner.namespace.clone(),
                format!("{}/{}/v{}", owner.name, pod.name.name, family as u8),
            ),
            service: owner.clone(),
            ports: ports.clone(),
            endpoints: vec![Endpoint {
                addresses: vec![*address],
                state,
                pod: Some(pod.name.name.as_str().into()),
                node: pod.node.clone(),
                zone: None,
                zone_hints: BTreeSet::new(),
                node_hints: BTreeSet::new(),
            }],
        })
    };
    [Family::V4, Family::V6].into_iter().filter_map(of_family).collect()
}
