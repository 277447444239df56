//! The decision for one connection, step by step, by the code that decides in the kernel.

use std::{collections::BTreeMap, net::SocketAddr};

use sluice_common::{
    Reason, choose,
    layout::{
        ADDRESS_CLUSTER_IP, ADDRESS_LOOPBACK, ADDRESS_NODE, Excluded, FLAG_INTERNAL_LOCAL, FLAG_REDIRECTED,
        FLAG_SOURCE_RANGES, FrontendKey, FrontendKind, FrontendValue, NO_BACKEND, ServiceValue,
    },
};

use super::{
    EndpointShare, algorithm_name,
    answer::{ExcludedEndpoint, Explanation, Query},
    destination::{Destination, resolve},
    excluded_name, kind_name, maglev, packets, path_name,
    rows::{service_name, used_slots},
};
use crate::{
    compile::{Dialled, Reach, reach},
    maps::Tables,
    model::Protocol,
    reconcile::{dialled, frontend_key},
};

/// Explains a connection from this node, or through it, to the query's destination.
///
/// # Errors
/// A Service or port of that name is not in the maps.
pub fn explain(tables: &Tables, query: &Query) -> Result<Explanation, String> {
    let target = match &query.destination {
        Destination::Address(target) => *target,
        Destination::Service { namespace, name, port, protocol } => {
            resolve(tables, namespace, name, port.as_deref(), *protocol)?
        }
    };
    let key = key_of(tables, &target, &query.from);
    let mut answer = Explanation {
        from: query.from.clone(),
        destination: target.to_string(),
        service: None,
        port: None,
        number: None,
        path: "kernel",
        verdict: "pass",
        reason: Reason::NotOurs.name(),
        algorithm: None,
        chosen: None,
        forwarding: None,
        endpoints: Vec::new(),
        excluded: Vec::new(),
        steps: Vec::new(),
        route: None,
    };
    if let Some(sender) = query.sender {
        packets::packets(tables, &target, (sender, query), &mut answer);
        return Ok(answer);
    }
    let unknown_port = tables.addresses.get(&key.addr).is_some_and(|kind| kind & ADDRESS_CLUSTER_IP != 0);
    let found =
        tables.frontends.get(&key).and_then(|value| Some((value, tables.services.get(&value.service_id)?)));
    match found {
        None if unknown_port && !query.left_alone && target.protocol != Protocol::Sctp => {
            answer.verdict = "reject";
            answer.reason = Reason::UnknownPort.name();
            answer.steps.push(not_ours(tables, &target, "it is refused with ECONNREFUSED"));
        }
        None => answer.steps.push(not_ours(tables, &target, "the socket connects as it asks")),
        Some((_, service)) if target.protocol == Protocol::Sctp => answer.steps.push(format!(
            "{target} belongs to {}, but the socket programs do not translate SCTP: the socket connects as it asks",
            service_name(service)
        )),
        Some((_, service)) if query.left_alone => {
            answer.reason = Reason::OptedOut.name();
            answer.steps.push(format!(
                "{target} belongs to {}, but {} has the annotation sluice.dev/socket-lb: \"false\": its sockets connect as they ask",
                service_name(service),
                query.from
            ));
        }
        Some((frontend, service)) if frontend.flags & FLAG_SOURCE_RANGES != 0 => {
            introduce(&target, frontend, service, &mut answer);
            leave_to_packets(tables, frontend, &mut answer);
        }
        Some((frontend, service)) => decide(tables, &target, frontend, service, &mut answer),
    }
    Ok(answer)
}

/// The entry that the programs would find: the address's own, else a NodePort on a node address.
fn key_of(tables: &Tables, target: &Dialled, from: &str) -> FrontendKey {
    let mut key = frontend_key(target);
    key.scope = 0;
    if tables.frontends.contains_key(&key) {
        return key;
    }
    match tables.addresses.get(&key.addr) {
        Some(kind) if kind & ADDRESS_LOOPBACK != 0 && from != "host" => key,
        Some(kind) if kind & (ADDRESS_NODE | ADDRESS_LOOPBACK) != 0 => key.on_any_node_address(),
        Some(_) => key,
        None => key,
    }
}

/// The Service that is dialled.
pub fn introduce(
    target: &Dialled,
    frontend: &FrontendValue,
    service: &ServiceValue,
    answer: &mut Explanation,
) {
    let kind = FrontendKind::try_from(frontend.kind).map_or("?", kind_name);
    let port_name = service.port_name.as_str();
    let number = u16::from_be(service.port_be);
    answer.service = Some(service_name(service));
    answer.number = Some(number);
    answer.port = Some(if port_name.is_empty() { number.to_string() } else { port_name.to_owned() });
    answer.steps.push(format!(
        "{target} is the {kind} of {}, port {}",
        service_name(service),
        if port_name.is_empty() { number.to_string() } else { format!("{port_name} ({number})") }
    ));
    answer.path = path_name(frontend);
    answer.algorithm = Some(algorithm_name(frontend));
}

/// The source of a socket that connects is not known yet, and source ranges are about that.
fn leave_to_packets(tables: &Tables, frontend: &FrontendValue, answer: &mut Explanation) {
    answer.path = "kernel";
    answer.reason = Reason::LeftToPackets.name();
    let step = match answer.from.parse() {
        Ok(client) => {
            let allowed = packets::is_allowed(tables, frontend.service_id, client);
            packets::source_ranges(tables, frontend.service_id, client, allowed)
        }
        Err(_) => {
            "the Service has loadBalancerSourceRanges; give an address to --from to see whether they admit it"
                .to_owned()
        }
    };
    let why = "the socket connects as it asks, and its packets are balanced, for only they show from where they come";
    answer.steps.extend([why.to_owned(), step]);
    if frontend.flags & FLAG_REDIRECTED != 0 {
        let rules = "rules hold for this port: packets of pods are led to the redirector; the node's own are on their way out \
            already, and go without rules, or nowhere with --l7-fail-closed (no_redirector)";
        answer.steps.push(rules.to_owned());
    }
}

/// Session affinity.
pub fn keeps(frontend: &FrontendValue, answer: &mut Explanation) {
    if choose::remembers_clients(frontend) {
        answer.steps.push(format!(
            "session affinity: a client keeps its endpoint for {} s after its last new connection, while the endpoint \
             may serve; `sluice affinity` shows who keeps which",
            frontend.affinity_timeout_s
        ));
    }
}

/// The redirector serves the connection.
pub fn redirected(frontend: &FrontendValue, service: &ServiceValue, answer: &mut Explanation) {
    answer.verdict = "translate";
    answer.reason = Reason::Redirected.name();
    let kind = FrontendKind::try_from(frontend.kind);
    let step = if kind.is_ok_and(|kind| reach(kind) == Reach::ByClusterIp) {
        let cluster_ip = SocketAddr::new(service.cluster_ip.into(), u16::from_be(service.port_be));
        format!(
            "rules hold for this port: the connection is led to the cluster IP, {cluster_ip}, and there the kernel steers it to \
             the redirector; the client sees what it dialled"
        )
    } else {
        "rules hold for this port: the kernel steers the connection to the redirector".to_owned()
    };
    answer.steps.push(step);
}

fn decide(
    tables: &Tables,
    target: &Dialled,
    frontend: &FrontendValue,
    service: &ServiceValue,
    answer: &mut Explanation,
) {
    introduce(target, frontend, service, answer);
    fill_endpoints(tables, frontend, choose::socket_range(frontend), service, answer);
    let local = frontend.flags & FLAG_INTERNAL_LOCAL != 0;
    if local {
        answer.steps.push("internalTrafficPolicy is Local: only endpoints on this node".to_owned());
    }
    keeps(frontend, answer);
    if frontend.flags & FLAG_REDIRECTED != 0 && target.protocol == Protocol::Tcp {
        return redirected(frontend, service, answer);
    }
    let udp = target.protocol == Protocol::Udp;
    let slots = used_slots(tables, choose::socket_range(frontend));
    let (nowhere, all) = slots
        .fold((0, 0), |(nowhere, all), slot| (nowhere + u32::from(slot.backend_id == NO_BACKEND), all + 1));
    if nowhere > 0 {
        answer.steps.push(format!(
            "{nowhere} of {all} connections are refused: they belong to a destination without endpoints"
        ));
    }
    let slot = choose::socket_slot(frontend, 0).and_then(|slot| {
        // Slots that lead nowhere stand last.
        if nowhere == all && all > 0 { Err(Reason::NoEndpoints) } else { Ok(slot) }
    });
    if slot.is_ok() && choose::is_maglev(frontend) {
        answer.steps.push(maglev::of_sockets(frontend, answer.endpoints.len()));
    }
    let (verdict, reason, step) = match slot {
        Ok(_) if choose::is_maglev(frontend) && udp => {
            ("translate", Reason::SendTranslated, format!("replies are shown to come from {target}"))
        }
        Ok(_) if choose::is_maglev(frontend) => {
            ("translate", Reason::ConnectTranslated, format!("the socket's peer is shown as {target}"))
        }
        Ok(_) if udp => (
            "translate",
            Reason::SendTranslated,
            format!(
                "1 of {} is chosen, by a hash of the socket; replies are shown to come from {target}",
                answer.endpoints.len()
            ),
        ),
        Ok(_) => (
            "translate",
            Reason::ConnectTranslated,
            format!(
                "1 of {} is chosen at random when the socket connects; its peer is shown as {target}",
                answer.endpoints.len()
            ),
        ),
        Err(reason @ Reason::NoLocalEndpoints) => (
            "drop",
            reason,
            "endpoints exist, but none that may serve this client: the socket is not refused, and nothing answers for the Service"
                .to_owned(),
        ),
        Err(reason) => {
            let step = if udp {
                "the Service has no endpoint: sending fails with ECONNREFUSED"
            } else {
                "the Service has no endpoint: connect fails with ECONNREFUSED"
            };
            ("reject", reason, step.to_owned())
        }
    };
    answer.verdict = verdict;
    answer.reason = reason.name();
    answer.steps.push(step);
}

/// The endpoints of `range`, and why the Service's others are left out.
pub fn fill_endpoints(
    tables: &Tables,
    frontend: &FrontendValue,
    range: (u32, u32),
    service: &ServiceValue,
    answer: &mut Explanation,
) {
    let mut shares: BTreeMap<u32, u32> = BTreeMap::new();
    for slot in used_slots(tables, range) {
        *shares.entry(slot.backend_id).or_default() += 1;
    }
    for (id, weight) in &shares {
        if let Some(backend) = tables.backends.get(id) {
            let (address, port) = (backend.addr.into(), u16::from_be(backend.port_be));
            answer.endpoints.push(EndpointShare { address, port, weight: *weight });
        }
    }
    // A headless frontend is one endpoint's own address: the others are not left out, they are elsewhere.
    if frontend.kind == FrontendKind::Headless as u8 {
        return;
    }
    let range = service.range_start..service.range_start.saturating_add(service.range_count);
    let mut seen = BTreeMap::new();
    for slot in range.filter_map(|index| tables.slots.get(&index)) {
        if shares.contains_key(&slot.backend_id) {
            continue;
        }
        if let Some(backend) = tables.backends.get(&slot.backend_id) {
            let reason = Excluded::try_from(slot.excluded).map_or("policy", excluded_name);
            seen.insert(SocketAddr::new(backend.addr.into(), u16::from_be(backend.port_be)), reason);
        }
    }
    answer.endpoints.sort_by_key(|endpoint| (endpoint.address, endpoint.port));
    answer.excluded =
        seen.into_iter().map(|(address, reason)| ExcludedEndpoint { address, reason }).collect();
    for excluded in &answer.excluded {
        answer.steps.push(format!("{} is left out: {}", excluded.address, why(excluded.reason)));
    }
}

fn why(reason: &str) -> &'static str {
    match reason {
        "notReady" => "it is not ready",
        "terminating" => "it is terminating, and others are ready",
        "rule" => "a rule leads the connections of this port to others",
        "topology" => "topology hints lead this node's clients to other endpoints",
        _ => "the traffic policy does not allow it",
    }
}

/// Says what else has this address, for that is what people get wrong.
pub fn not_ours(tables: &Tables, target: &Dialled, outcome: &str) -> String {
    let others: Vec<String> = tables
        .frontends
        .iter()
        .filter_map(|(key, value)| Some((dialled(key)?, tables.services.get(&value.service_id)?)))
        .filter(|(other, _)| other.address == target.address)
        .map(|(other, service)| {
            format!("{} port {}/{}", service_name(service), other.port, other.protocol.name())
        })
        .collect::<std::collections::BTreeSet<_>>()
        .into_iter()
        .collect();
    if others.is_empty() {
        return format!("no Service has the address {}: {outcome}", target.address);
    }
    format!("no Service has {target}; the address belongs to {}; {outcome}", others.join(", "))
}
