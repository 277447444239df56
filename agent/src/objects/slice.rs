//! `discovery.k8s.io/v1.EndpointSlice` into the model.

use std::{collections::BTreeSet, sync::Arc};

use k8s_openapi::api::discovery::v1 as discovery;

use super::{Complaints, Converted, parse_port};
use crate::model::{
    Endpoint, EndpointSlice, EndpointState, Family, ObjectName, Protocol, SlicePort, annotations,
};

const SERVICE_LABEL: &str = "kubernetes.io/service-name";
/// When the change happened that made the controller write the slice, RFC 3339.
const CHANGED: &str = annotations::CHANGED.name;
/// Another proxy serves these. The label `service.kubernetes.io/headless`, which hides slices from kube-proxy,
/// does not hide them here: headless Services have their ports translated.
const OTHER_PROXY_LABEL: &str = annotations::OTHER_PROXY.name;

/// Converts a slice; `value` is `None` when it belongs to no Service or holds names instead of addresses.
pub fn slice(object: &discovery::EndpointSlice) -> Converted<EndpointSlice> {
    let meta = &object.metadata;
    let namespace = meta.namespace.clone().unwrap_or_else(|| "default".to_owned());
    let name = ObjectName::new(namespace.clone(), meta.name.clone().unwrap_or_default());
    let mut complaints = Complaints::new("EndpointSlice", name.clone());
    let labels = meta.labels.clone().unwrap_or_default();
    let family = match object.address_type.as_str() {
        "IPv4" => Family::V4,
        "IPv6" => Family::V6,
        "FQDN" => return complaints.done(None),
        other => {
            complaints
                .add("addressType", format!("{other:?} is none of IPv4, IPv6, FQDN; the slice is left out"));
            return complaints.done(None);
        }
    };
    let foreign = labels.contains_key(OTHER_PROXY_LABEL);
    let Some(service) = labels.get(SERVICE_LABEL).filter(|_| !foreign) else {
        return complaints.done(None);
    };
    let ports = ports(object, &mut complaints);
    let endpoints = object.endpoints.iter().flatten().enumerate();
    let endpoints = endpoints.map(|(index, item)| endpoint(index, item, family, &mut complaints)).collect();
    let service = ObjectName::new(namespace, service.clone());
    let annotations = meta.annotations.iter().flatten();
    let changed = annotations.filter(|(name, _)| *name == CHANGED).find_map(|(_, time)| {
        let time: jiff::Timestamp = time.parse().ok()?;
        Some(time.into())
    });
    complaints.done(Some(EndpointSlice { name, service, ports, endpoints, changed }))
}

fn ports(object: &discovery::EndpointSlice, complaints: &mut Complaints) -> Vec<SlicePort> {
    let mut ports = Vec::new();
    for (index, port) in object.ports.iter().flatten().enumerate() {
        let text = port.protocol.as_deref().unwrap_or("TCP");
        let Some(protocol) = Protocol::from_name(text) else {
            complaints.add(
                format!("ports[{index}].protocol"),
                format!("{text:?} is none of TCP, UDP, SCTP; left out"),
            );
            continue;
        };
        let number = port.port.map(parse_port);
        if number == Some(None) {
            complaints.add(format!("ports[{index}].port"), "is not within 1 to 65535; left out");
            continue;
        }
        ports.push(SlicePort {
            name: port.name.clone().unwrap_or_default(),
            protocol,
            port: number.flatten(),
        });
    }
    ports
}

fn endpoint(
    index: usize,
    object: &discovery::Endpoint,
    family: Family,
    complaints: &mut Complaints,
) -> Endpoint {
    let path = format!("endpoints[{index}].addresses");
    let mut addresses = complaints.own_addresses(&path, &object.addresses);
    addresses.retain(|address| {
        let fits = Family::of(*address) == family;
        if !fits {
            complaints.add(path.clone(), format!("{address} is not of the slice's addressType; left out"));
        }
        fits
    });
    let conditions = object.conditions.clone().unwrap_or_default();
    let hints = object.hints.clone().unwrap_or_default();
    let zones = hints.for_zones.unwrap_or_default();
    let nodes = hints.for_nodes.unwrap_or_default();
    Endpoint {
        addresses,
        state: state(conditions.ready, conditions.serving, conditions.terminating),
        pod: object.target_ref.as_ref().and_then(|target| {
            let name = target.name.as_deref().filter(|_| target.kind.as_deref() == Some("Pod"));
            name.map(Arc::from)
        }),
        node: object.node_name.as_deref().map(Arc::from),
        zone: object.zone.as_deref().map(Arc::from),
        zone_hints: zones.into_iter().map(|zone| zone.name).collect::<BTreeSet<_>>(),
        node_hints: nodes.into_iter().map(|node| node.name).collect::<BTreeSet<_>>(),
    }
}

/// Absent `ready` and `serving` mean yes, absent `terminating` means no.
/// Source: the API's documentation of `EndpointConditions`; kube-proxy `endpointslicecache.go`.
fn state(ready: Option<bool>, serving: Option<bool>, terminating: Option<bool>) -> EndpointState {
    if ready.unwrap_or(true) {
        return EndpointState::Ready;
    }
    if serving.unwrap_or(true) && terminating.unwrap_or(false) {
        return EndpointState::Terminating;
    }
    EndpointState::NotReady
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absent_conditions_mean_ready_serving_and_not_terminating() {
        use EndpointState::{NotReady, Ready, Terminating};
        let (yes, no) = (Some(true), Some(false));
        for (ready, serving, terminating, want) in [
            (None, None, None, Ready),
            (yes, yes, no, Ready),
            (yes, no, yes, Ready), // publishNotReadyAddresses sets ready whatever the pod does
            (no, yes, yes, Terminating),
            (no, None, yes, Terminating),
            (no, no, yes, NotReady),
            (no, yes, no, NotReady),
            (no, None, None, NotReady),
        ] {
            assert_eq!(state(ready, serving, terminating), want, "{ready:?} {serving:?} {terminating:?}");
        }
    }
}
