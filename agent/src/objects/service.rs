//! `v1.Service` into the model.

use std::{collections::BTreeMap, sync::Arc};

use k8s_openapi::api::core::v1 as core;

use super::{Complaints, Converted, parse_network, parse_port};
use crate::model::{
    Algorithm, ObjectName, Protocol, Service, ServiceKind, ServicePort, SourceRanges, annotations,
};

/// Labels that tell every proxy, or every proxy but one, to leave a Service alone.
/// Source: kube-proxy `cmd/kube-proxy/app/server.go`, `serviceProxyRequirement`.
const NOT_FOR_US: [&str; 2] = [annotations::OTHER_PROXY.name, annotations::HEADLESS.name];
const PER_REQUEST_ANNOTATION: &str = annotations::PER_REQUEST.name;
const HEADLESS_ANNOTATION: &str = annotations::HEADLESS_PORTS.name;
const ALGORITHM_ANNOTATION: &str = annotations::ALGORITHM.name;
/// Source: KEP and API default of `sessionAffinityConfig.clientIP.timeoutSeconds`.
const AFFINITY_DEFAULT_S: i32 = 10_800;
const AFFINITY_MAX_S: i32 = 86_400;

/// A Service and what its endpoints would be made from, where nobody makes EndpointSlices.
#[derive(Clone, PartialEq, Debug)]
pub struct ServiceWithSelector {
    /// The model's part.
    pub service: Service,
    /// `spec.selector`; empty when endpoints are managed by hand.
    pub selector: BTreeMap<String, String>,
    /// `spec.ports[].targetPort`, by port name.
    pub target_ports: BTreeMap<String, TargetPort>,
    /// `spec.publishNotReadyAddresses`.
    pub publish_not_ready: bool,
}

/// `targetPort`: a number, or the name of a container's port.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum TargetPort {
    /// That port.
    Number(u16),
    /// The container port of that name.
    Name(String),
}

/// Converts a Service; `value` is `None` for those that no proxy serves.
pub fn service(object: &core::Service) -> Converted<ServiceWithSelector> {
    let meta = &object.metadata;
    let name = ObjectName::new(
        meta.namespace.as_deref().unwrap_or("default"),
        meta.name.as_deref().unwrap_or_default(),
    );
    let mut complaints = Complaints::new("Service", name.clone());
    if name.name.is_empty() {
        complaints.add("metadata.name", "is missing; the Service is left out");
        return complaints.done(None);
    }
    let Some(spec) = &object.spec else {
        complaints.add("spec", "is missing; the Service is left out");
        return complaints.done(None);
    };
    let labelled = meta.labels.iter().flatten().any(|(key, _)| NOT_FOR_US.contains(&key.as_str()));
    let Some(kind) = kind(spec, &mut complaints).filter(|_| !labelled) else {
        return complaints.done(None);
    };
    let (ports, target_ports) = ports(spec, &mut complaints);
    for (path, value, known) in [
        ("spec.internalTrafficPolicy", &spec.internal_traffic_policy, ["Cluster", "Local"]),
        ("spec.externalTrafficPolicy", &spec.external_traffic_policy, ["Cluster", "Local"]),
        ("spec.sessionAffinity", &spec.session_affinity, ["None", "ClientIP"]),
    ] {
        if let Some(value) = value.as_deref().filter(|value| !known.contains(value) && !value.is_empty()) {
            complaints.add(
                path,
                format!("{value:?} is neither {} nor {}; {} is used", known[0], known[1], known[0]),
            );
        }
    }
    let annotations = meta.annotations.iter().flatten();
    let annotation =
        |name: &str| annotations.clone().find(|(key, _)| *key == name).map(|(_, value)| value.as_str());
    let service = Service {
        name,
        kind,
        created_s: meta.creation_timestamp.as_ref().map_or(0, |time| time.0.as_second()),
        external_name: external_name(spec, &mut complaints),
        cluster_ips: if is_external(spec) { Vec::new() } else { cluster_ips(spec, kind, &mut complaints) },
        external_ips: complaints
            .addresses("spec.externalIPs", spec.external_ips.as_deref().unwrap_or_default()),
        load_balancer_ips: load_balancer_ips(object, kind, &mut complaints),
        ports,
        internal_local: spec.internal_traffic_policy.as_deref() == Some("Local"),
        external_local: spec.external_traffic_policy.as_deref() == Some("Local"),
        source_ranges: source_ranges(spec, &mut complaints),
        health_check_node_port: health_check_node_port(spec, kind, &mut complaints),
        affinity_timeout_s: affinity(spec, &mut complaints),
        translate_headless_port: annotation(HEADLESS_ANNOTATION) != Some("false"),
        per_request: annotation(PER_REQUEST_ANNOTATION) == Some("true"),
        algorithm: algorithm(annotation(ALGORITHM_ANNOTATION), kind, &mut complaints),
    };
    complaints.done(Some(ServiceWithSelector {
        service,
        selector: spec.selector.clone().unwrap_or_default(),
        target_ports,
        publish_not_ready: spec.publish_not_ready_addresses.unwrap_or(false),
    }))
}

fn kind(spec: &core::ServiceSpec, complaints: &mut Complaints) -> Option<ServiceKind> {
    match spec.type_.as_deref().unwrap_or("ClusterIP") {
        // It has no address of its own, whatever else its object says.
        "ExternalName" => Some(ServiceKind::ClusterIp),
        _ if spec.cluster_ip.as_deref() == Some("None") => Some(ServiceKind::Headless),
        "ClusterIP" => Some(ServiceKind::ClusterIp),
        "NodePort" => Some(ServiceKind::NodePort),
        "LoadBalancer" => Some(ServiceKind::LoadBalancer),
        other => {
            complaints.add(
                "spec.type",
                format!("{other:?} is none of ClusterIP, NodePort, LoadBalancer, ExternalName; the Service is left out"),
            );
            None
        }
    }
}

fn is_external(spec: &core::ServiceSpec) -> bool {
    spec.type_.as_deref() == Some("ExternalName")
}

/// In lower case, without the dot at the end.
fn external_name(spec: &core::ServiceSpec, complaints: &mut Complaints) -> Option<Arc<str>> {
    let name = spec.external_name.as_deref().filter(|_| is_external(spec))?;
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    if name.is_empty() || name.len() > 253 {
        complaints.add("spec.externalName", "is no name; requests to this Service are answered 503");
        return None;
    }
    Some(name.into())
}

fn cluster_ips(
    spec: &core::ServiceSpec,
    kind: ServiceKind,
    complaints: &mut Complaints,
) -> Vec<std::net::IpAddr> {
    if kind == ServiceKind::Headless {
        return Vec::new();
    }
    match (spec.cluster_ips.as_deref(), spec.cluster_ip.as_deref()) {
        (Some(list), _) if !list.is_empty() => complaints.own_addresses("spec.clusterIPs", list),
        (_, Some(one)) if !one.is_empty() => complaints.own_addresses("spec.clusterIP", &[one.to_owned()]),
        _ => Vec::new(),
    }
}

/// Only VIPs: an address in Proxy mode ends elsewhere, and its traffic must leave the node (KEP-1860).
fn load_balancer_ips(
    object: &core::Service,
    kind: ServiceKind,
    complaints: &mut Complaints,
) -> Vec<std::net::IpAddr> {
    if kind != ServiceKind::LoadBalancer {
        return Vec::new();
    }
    let status = object.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let ingress = status.and_then(|status| status.ingress.as_deref()).unwrap_or_default();
    let vips = ingress.iter().filter(|entry| entry.ip_mode.as_deref() != Some("Proxy"));
    let texts: Vec<String> = vips.filter_map(|entry| entry.ip.clone()).filter(|ip| !ip.is_empty()).collect();
    complaints.own_addresses("status.loadBalancer.ingress", &texts)
}

/// Source: kube-proxy `pkg/proxy/serviceport.go`, which reads them with blanks around and leading zeros.
fn source_ranges(spec: &core::ServiceSpec, complaints: &mut Complaints) -> SourceRanges {
    let mut ranges = SourceRanges::default();
    let texts = spec.load_balancer_source_ranges.iter().flatten().map(|text| text.trim());
    for text in texts.filter(|text| !text.is_empty()) {
        match parse_network(text) {
            Some(network) => ranges.networks.push(network),
            None => {
                ranges.has_unreadable = true;
                complaints.add(
                    "spec.loadBalancerSourceRanges",
                    format!(
                        "{text:?} is not a network such as 203.0.113.0/24; no client is admitted by it, and none at all in a \
                         family of which the list has no network"
                    ),
                );
            }
        }
    }
    ranges
}

/// Load balancers ask it which nodes have endpoints: only they do, and only if it matters.
fn health_check_node_port(spec: &core::ServiceSpec, kind: ServiceKind, complaints: &mut Complaints) -> u16 {
    let local = spec.external_traffic_policy.as_deref() == Some("Local");
    match spec.health_check_node_port.filter(|_| local && kind == ServiceKind::LoadBalancer) {
        None | Some(0) => 0,
        Some(number) => parse_port(number).unwrap_or_else(|| {
            complaints.add(
                "spec.healthCheckNodePort",
                format!("{number} is not within 1 to 65535; no health check is served"),
            );
            0
        }),
    }
}

fn ports(
    spec: &core::ServiceSpec,
    complaints: &mut Complaints,
) -> (Vec<ServicePort>, BTreeMap<String, TargetPort>) {
    let (mut ports, mut targets) = (Vec::new(), BTreeMap::new());
    for (index, port) in spec.ports.iter().flatten().enumerate() {
        let path = format!("spec.ports[{index}]");
        let Some(number) = parse_port(port.port) else {
            complaints.add(
                format!("{path}.port"),
                format!("{} is not within 1 to 65535; the port is left out", port.port),
            );
            continue;
        };
        let text = port.protocol.as_deref().unwrap_or("TCP");
        let Some(protocol) = Protocol::from_name(text) else {
            complaints.add(
                format!("{path}.protocol"),
                format!("{text:?} is none of TCP, UDP, SCTP; the port is left out"),
            );
            continue;
        };
        let same = |other: &ServicePort| other.port == number && other.protocol == protocol;
        if ports.iter().any(same) {
            complaints
                .add(path, format!("{number}/{text} is an earlier port's already; the port is left out"));
            continue;
        }
        let name = port.name.clone().unwrap_or_default();
        if targets.contains_key(&name) {
            complaints.add(
                format!("{path}.name"),
                format!("{name:?} names an earlier port too; the port is left out"),
            );
            continue;
        }
        let Some(target) = target_port(port, number) else {
            complaints.add(format!("{path}.targetPort"), "is not within 1 to 65535; the port is left out");
            continue;
        };
        targets.insert(name.clone(), target);
        let node_port = port.node_port.and_then(parse_port).unwrap_or(0);
        let app_protocol = port.app_protocol.as_deref().map(Arc::from);
        ports.push(ServicePort { name, protocol, port: number, node_port, app_protocol });
    }
    (ports, targets)
}

fn target_port(port: &core::ServicePort, number: u16) -> Option<TargetPort> {
    use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
    match &port.target_port {
        None => Some(TargetPort::Number(number)),
        Some(IntOrString::Int(0)) => Some(TargetPort::Number(number)),
        Some(IntOrString::Int(target)) => parse_port(*target).map(TargetPort::Number),
        Some(IntOrString::String(name)) => Some(TargetPort::Name(name.clone())),
    }
}

fn algorithm(wanted: Option<&str>, kind: ServiceKind, complaints: &mut Complaints) -> Algorithm {
    let path = || format!("metadata.annotations[{ALGORITHM_ANNOTATION}]");
    match wanted {
        None | Some("random") => Algorithm::Random,
        Some("maglev") if kind == ServiceKind::Headless => {
            complaints.warn(
                path(),
                "says nothing for a headless Service, whose clients choose by themselves; unused",
            );
            Algorithm::Random
        }
        Some("maglev") => Algorithm::Maglev,
        Some(other) => {
            complaints.warn(path(), format!("{other:?} is neither maglev nor random; random is used"));
            Algorithm::Random
        }
    }
}

fn affinity(spec: &core::ServiceSpec, complaints: &mut Complaints) -> Option<u32> {
    if spec.session_affinity.as_deref() != Some("ClientIP") {
        return None;
    }
    let config = spec.session_affinity_config.as_ref().and_then(|config| config.client_ip.as_ref());
    let timeout_s = config.and_then(|config| config.timeout_seconds).unwrap_or(AFFINITY_DEFAULT_S);
    if !(1..=AFFINITY_MAX_S).contains(&timeout_s) {
        complaints.add(
            "spec.sessionAffinityConfig.clientIP.timeoutSeconds",
            format!("{timeout_s} is not within 1 to {AFFINITY_MAX_S}; {AFFINITY_DEFAULT_S} is used"),
        );
        return Some(AFFINITY_DEFAULT_S.unsigned_abs());
    }
    Some(timeout_s.unsigned_abs())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Family;

    #[test]
    fn source_ranges_that_cannot_be_read_close_the_families_without_another() {
        let (v4, open, closed) = (Some(1), None, Some(0));
        for (texts, six, four, complaints) in [
            (&[][..], open, open, 0),
            (&["", " "], open, open, 0),
            (&["192.168.50.0/24"], open, v4, 0),
            (&[" 192.168.050.000/24 "], open, v4, 0),
            (&["rubbish"], closed, closed, 1),
            (&["192.168.50.0/24", "x"], closed, v4, 1),
            (&["2001:db8::/32", "10.0.0.0/33", "y"], Some(1), closed, 2),
            (&["192.168.50.0/24", "2001:db8::/32", "x"], Some(1), v4, 1),
        ] {
            let list = texts.iter().map(|text| (*text).to_owned()).collect();
            let spec =
                core::ServiceSpec { load_balancer_source_ranges: Some(list), ..core::ServiceSpec::default() };
            let mut found = Complaints::new("Service", ObjectName::new("shop", "cart"));
            let ranges = source_ranges(&spec, &mut found);
            let count = |family| ranges.of_family(family).map(|networks| networks.len());
            assert_eq!((count(Family::V6), count(Family::V4)), (six, four), "{texts:?}: IPv6 and IPv4");
            assert_eq!(found.problems.len(), complaints, "{texts:?}");
            let path = |problem: &super::super::Problem| problem.path == "spec.loadBalancerSourceRanges";
            assert!(found.problems.iter().all(path), "{texts:?}");
        }
    }
}
