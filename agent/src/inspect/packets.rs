//! The decision for packets whose sender's socket no hook has translated, step by step, by the code that decides in the
//! kernel: of clients outside of this node, of its pods, of the node itself.

use std::net::IpAddr;

use sluice_common::{
    Addr, Reason, choose,
    layout::{
        ADDRESS_CLUSTER_IP, ADDRESS_NODE, ADDRESS_VIP, FLAG_EXTERNAL_LOCAL, FLAG_HAS_ENDPOINTS,
        FLAG_INTERNAL_LOCAL, FLAG_REDIRECTED, FLAG_SOURCE_RANGES, FrontendKey, FrontendKind, FrontendValue,
        OPTION_DSR_TCP, OPTION_DSR_UDP, SERVICE_CIDRS, ServiceValue, SlotValue, SourceRangeKey,
    },
};

use super::{
    answer::{Explanation, Query, Sender},
    explain::{fill_endpoints, introduce, keeps, not_ours, redirected},
    maglev,
    rows::used_slots,
};
use crate::{compile::Dialled, maps::Tables, model::Protocol, reconcile::frontend_key};

/// Whether `address` is this node's own, or that of a pod here which some Service has as an endpoint.
pub fn is_of_this_node(tables: &Tables, address: IpAddr) -> bool {
    let address = Addr::from(address.to_canonical());
    let not_of_node = ADDRESS_CLUSTER_IP | ADDRESS_VIP;
    let of_node = tables.addresses.get(&address).is_some_and(|kind| kind & not_of_node == 0);
    let is_it = |slot: &SlotValue| tables.backends.get(&slot.backend_id).is_some_and(|it| it.addr == address);
    of_node || tables.slots.values().any(|slot| slot.local != 0 && is_it(slot))
}

/// Explains the packets that `sender` sends to `target`, at the device of this node where they are met first.
pub fn packets(
    tables: &Tables,
    target: &Dialled,
    (sender, query): (Sender, &Query),
    answer: &mut Explanation,
) {
    answer.steps.push(whence(sender, query));
    let frontend = match find(tables, &frontend_key(target), sender) {
        Ok(frontend) => frontend,
        Err(reason) => return nobody(tables, target, reason, answer),
    };
    let Some(service) = tables.services.get(&frontend.service_id) else {
        return nobody(tables, target, Reason::NotOurs, answer);
    };
    introduce(target, frontend, service, answer);
    if frontend.flags & FLAG_SOURCE_RANGES != 0 {
        let Some(client) = sender.address() else {
            answer.steps.push(ASK_WITH_ADDRESS.to_owned());
            return lead(tables, (target, sender, query), frontend, service, answer);
        };
        let allowed = is_allowed(tables, frontend.service_id, client);
        answer.steps.push(source_ranges(tables, frontend.service_id, client, allowed));
        if !allowed {
            return end(answer, "drop", Reason::SourceNotAllowed);
        }
    }
    if frontend.flags & FLAG_REDIRECTED != 0 && target.protocol == Protocol::Tcp {
        let is_local = frontend.flags & FLAG_EXTERNAL_LOCAL != 0 && !sender.is_inside();
        if sender == Sender::Node {
            answer.path = "kernel";
            answer.steps.push(UNRULED.to_owned());
        } else if !is_local || frontend.local_count > 0 || frontend.flags & FLAG_HAS_ENDPOINTS == 0 {
            return redirected(frontend, service, answer);
        }
    }
    lead(tables, (target, sender, query), frontend, service, answer);
}

const ASK_WITH_ADDRESS: &str =
    "the Service has loadBalancerSourceRanges; give an address to --from to see whether they admit it";
const UNRULED: &str = "rules hold for this port, but not for what the node sends without a socket hook, which is on its way \
    out already: balanced without them, or refused with --l7-fail-closed (no_redirector)";

/// Where the packets are met, and why it is packets that are led.
fn whence(sender: Sender, query: &Query) -> String {
    let from = &query.from;
    match sender {
        Sender::Outside(client) => {
            format!("{client} is not of this node: its packets come in by a device of the node")
        }
        Sender::Pod(_) if query.left_alone => format!(
            "{from} has the annotation sluice.dev/socket-lb: \"false\": its sockets connect as they ask (opted_out), and what \
             nothing in the pod takes is led by packets, at the pod's device"
        ),
        Sender::Pod(_) => format!("packets of {from} whose socket no hook sees are led at the pod's device"),
        Sender::Node => {
            "packets of the node whose socket no hook sees are led where they leave it".to_owned()
        }
    }
}

/// The frontend that packets to `key` are for.
fn find<'t>(tables: &'t Tables, key: &FrontendKey, sender: Sender) -> Result<&'t FrontendValue, Reason> {
    let key = FrontendKey { scope: 0, ..*key };
    if let Some(value) = tables.frontends.get(&key) {
        // An endpoint's own address is translated where the client is, and nowhere on the way.
        let elsewhere = value.kind == FrontendKind::Headless as u8 && !sender.is_inside();
        return if elsewhere { Err(Reason::NotOurs) } else { Ok(value) };
    }
    match tables.addresses.get(&key.addr) {
        None if is_in_ranges(tables, SERVICE_CIDRS, &key.addr) => Err(Reason::UnallocatedAddress),
        Some(kind) if kind & ADDRESS_CLUSTER_IP != 0 => Err(Reason::UnknownPort),
        // The node's own addresses are never sent out.
        Some(kind) if kind & ADDRESS_NODE != 0 && sender == Sender::Node => Err(Reason::NotOurs),
        Some(kind) if kind & ADDRESS_NODE != 0 => {
            tables.frontends.get(&key.on_any_node_address()).ok_or(Reason::NotOurs)
        }
        // Inside, the machine that has the address may have other ports of its own.
        Some(kind) if kind & ADDRESS_VIP != 0 && !sender.is_inside() => Err(Reason::UnknownPort),
        Some(_) | None => Err(Reason::NotOurs),
    }
}

fn nobody(tables: &Tables, target: &Dialled, reason: Reason, answer: &mut Explanation) {
    let (verdict, outcome) = match reason {
        Reason::UnknownPort => ("reject", refusal(target.protocol)),
        Reason::UnallocatedAddress => {
            ("drop", "it is one that cluster IPs are taken from: dropped, lest the packet travels on")
        }
        _ => ("pass", "the packet goes on as it is"),
    };
    answer.steps.push(not_ours(tables, target, outcome));
    end(answer, verdict, reason);
}

const fn refusal(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "it is refused with a reset",
        Protocol::Udp | Protocol::Sctp => "it is refused with ICMP port unreachable",
    }
}

fn end(answer: &mut Explanation, verdict: &'static str, reason: Reason) {
    answer.verdict = verdict;
    answer.reason = reason.name();
}

fn lead(
    tables: &Tables,
    (target, sender, query): (&Dialled, Sender, &Query),
    frontend: &FrontendValue,
    service: &ServiceValue,
    answer: &mut Explanation,
) {
    let range = choose::packet_range(frontend, sender.is_inside());
    fill_endpoints(tables, frontend, range, service, answer);
    for (flag, policy) in
        [(FLAG_EXTERNAL_LOCAL, "externalTrafficPolicy"), (FLAG_INTERNAL_LOCAL, "internalTrafficPolicy")]
    {
        if frontend.flags & flag != 0 && !(flag == FLAG_EXTERNAL_LOCAL && sender.is_inside()) {
            answer.steps.push(format!("{policy} is Local: only endpoints on this node"));
        }
    }
    match choose::slot_in(frontend, range, 0) {
        Ok(_) => {}
        Err(reason @ Reason::NoLocalEndpoints) => {
            let step = "endpoints exist, but none that may serve this client: dropped, and never refused";
            answer.steps.push(step.to_owned());
            return end(answer, "drop", reason);
        }
        Err(reason) => {
            answer.steps.push(format!("the Service has no endpoint: {}", refusal(target.protocol)));
            return end(answer, "reject", reason);
        }
    }
    let changes_port = |endpoint: &super::EndpointShare| endpoint.port != target.port;
    if target.protocol == Protocol::Sctp && answer.endpoints.iter().all(changes_port) {
        let step =
            "the port of SCTP would have to change, and with it a checksum over the whole packet: dropped";
        answer.steps.push(step.to_owned());
        return end(answer, "drop", Reason::SctpPort);
    }
    keeps(frontend, answer);
    if choose::is_maglev(frontend) {
        maglev::of_packets(tables, frontend, range, (sender.address(), query.from_port), answer);
    } else {
        let count = answer.endpoints.len();
        answer.steps.push(format!("1 of {count} is chosen at random with the first packet, and kept"));
    }
    let is_tunnelled = is_tunnelled(target.protocol, query.options) && !sender.is_inside();
    source(tables, range, (sender, is_tunnelled), answer);
    end(answer, "translate", Reason::PacketTranslated);
}

/// Whether `--forwarding` sends it to other nodes in tunnels.
const fn is_tunnelled(protocol: Protocol, options: u64) -> bool {
    match protocol {
        Protocol::Tcp => options & OPTION_DSR_TCP != 0,
        Protocol::Udp => options & OPTION_DSR_UDP != 0,
        Protocol::Sctp => false,
    }
}

/// Under which address the endpoints see the client.
fn source(
    tables: &Tables,
    range: (u32, u32),
    (sender, is_tunnelled): (Sender, bool),
    answer: &mut Explanation,
) {
    if matches!(sender, Sender::Pod(_)) {
        let step = "the pod's address is kept, for answers come back to its device anyway; where it is led to itself, it sees \
            the node";
        return answer.steps.push(step.to_owned());
    }
    let used: Vec<&SlotValue> = used_slots(tables, range).collect();
    let of = |local: bool| {
        let mine = used.iter().filter(|slot| (slot.local != 0) == local);
        let ends = mine.filter_map(|slot| tables.backends.get(&slot.backend_id));
        let mut ends: Vec<String> = ends
            .map(|it| std::net::SocketAddr::new(it.addr.into(), u16::from_be(it.port_be)).to_string())
            .collect();
        ends.sort();
        ends.dedup();
        ends.join(", ")
    };
    let (here, elsewhere) = (of(true), of(false));
    if !here.is_empty() {
        answer.steps.push(format!(
            "on this node: {here}; the client's address is kept, for answers come back through this node anyway"
        ));
    }
    if !elsewhere.is_empty() && is_tunnelled {
        answer.forwarding = Some("dsr");
        answer.steps.push(format!(
            "on other nodes: {elsewhere}; packets go there as they are, in an IP tunnel (--forwarding), and answers go from \
             there straight to the client, whose address the endpoints see"
        ));
    } else if !elsewhere.is_empty() {
        answer.forwarding = Some("snat");
        answer.steps.push(format!(
            "on other nodes: {elsewhere}; they see an address and port of this node (`sluice nat`), so that their answers \
             come back through it"
        ));
    }
}

/// Whether `client` may use the service, which has source ranges.
pub fn is_allowed(tables: &Tables, service_id: u32, client: IpAddr) -> bool {
    is_in_ranges(tables, service_id, &Addr::from(client.to_canonical()))
}

/// What the source ranges say of a client.
pub fn source_ranges(tables: &Tables, service_id: u32, client: IpAddr, allowed: bool) -> String {
    let networks: Vec<String> = ranges(tables, service_id).map(|(addr, bits)| network(addr, bits)).collect();
    let networks = if networks.is_empty() { "no network".to_owned() } else { networks.join(", ") };
    let verdict = if allowed { "is in one" } else { "is in none: its packets are dropped" };
    format!("loadBalancerSourceRanges admit {networks}; {client} {verdict}")
}

/// The networks of a service with the lengths of their prefixes, in bits of 16-byte addresses.
fn ranges(tables: &Tables, service_id: u32) -> impl Iterator<Item = (Addr, u32)> {
    let first = SourceRangeKey { service_id, addr: Addr::UNSPECIFIED };
    let from_first = tables.source_ranges.range((first, 0)..);
    let own = from_first.take_while(move |(key, _)| key.service_id == service_id);
    own.map(|(key, prefix)| (key.addr, prefix.saturating_sub(32)))
}

/// As the kernel looks into its trie: some prefix is the address's.
fn is_in_ranges(tables: &Tables, service_id: u32, address: &Addr) -> bool {
    let number = |addr: &Addr| u128::from_be_bytes(bytemuck::must_cast(addr.words_be));
    ranges(tables, service_id).any(|(addr, bits)| {
        let apart = (number(&addr) ^ number(address)).leading_zeros();
        apart >= bits
    })
}

fn network(addr: Addr, bits: u32) -> String {
    let own = if addr.is_v4() { bits.saturating_sub(96) } else { bits };
    format!("{}/{own}", IpAddr::from(addr))
}

#[cfg(test)]
mod tests;
