//! The decision for packets of a client outside of this node, step by step, by the code that decides in the kernel.

use std::net::IpAddr;

use sluice_common::{
    Addr, Reason, choose,
    layout::{
        ADDRESS_CLUSTER_IP, ADDRESS_NODE, ADDRESS_VIP, FLAG_EXTERNAL_LOCAL, FLAG_INTERNAL_LOCAL,
        FLAG_REDIRECTED, FLAG_SOURCE_RANGES, FrontendKey, FrontendKind, FrontendValue, SERVICE_CIDRS,
        ServiceValue, SlotValue, SourceRangeKey,
    },
};

use super::{
    explain::{Explanation, fill_endpoints, introduce, keeps, not_ours, redirected},
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

/// Explains the packets that `client` sends to `target` and that come in by a device of this node.
pub fn packets(tables: &Tables, target: &Dialled, client: IpAddr, answer: &mut Explanation) {
    answer.steps.push(format!("{client} is not of this node: its packets come in by a device of the node"));
    let frontend = match find(tables, &frontend_key(target)) {
        Ok(frontend) => frontend,
        Err(reason) => return nobody(tables, target, reason, answer),
    };
    let Some(service) = tables.services.get(&frontend.service_id) else {
        return nobody(tables, target, Reason::NotOurs, answer);
    };
    introduce(target, frontend, service, answer);
    if frontend.flags & FLAG_SOURCE_RANGES != 0 {
        let allowed = is_allowed(tables, frontend.service_id, client);
        answer.steps.push(source_ranges(tables, frontend.service_id, client, allowed));
        if !allowed {
            return end(answer, "drop", Reason::SourceNotAllowed);
        }
    }
    if frontend.flags & FLAG_REDIRECTED != 0 && target.protocol == Protocol::Tcp {
        return redirected(answer);
    }
    lead(tables, target, frontend, service, answer);
}

/// The frontend that packets to `key` are for.
fn find<'t>(tables: &'t Tables, key: &FrontendKey) -> Result<&'t FrontendValue, Reason> {
    let key = FrontendKey { scope: 0, ..*key };
    if let Some(value) = tables.frontends.get(&key) {
        // An endpoint's own address is translated where the client is, and nowhere on the way.
        let elsewhere = value.kind == FrontendKind::Headless as u8;
        return if elsewhere { Err(Reason::NotOurs) } else { Ok(value) };
    }
    match tables.addresses.get(&key.addr) {
        None if is_in_ranges(tables, SERVICE_CIDRS, &key.addr) => Err(Reason::UnallocatedAddress),
        Some(kind) if kind & ADDRESS_CLUSTER_IP != 0 => Err(Reason::UnknownPort),
        Some(kind) if kind & ADDRESS_NODE != 0 => {
            tables.frontends.get(&key.on_any_node_address()).ok_or(Reason::NotOurs)
        }
        Some(kind) if kind & ADDRESS_VIP != 0 => Err(Reason::UnknownPort),
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
    target: &Dialled,
    frontend: &FrontendValue,
    service: &ServiceValue,
    answer: &mut Explanation,
) {
    let range = choose::packet_range(frontend, false);
    fill_endpoints(tables, frontend, range, service, answer);
    for (flag, policy) in
        [(FLAG_EXTERNAL_LOCAL, "externalTrafficPolicy"), (FLAG_INTERNAL_LOCAL, "internalTrafficPolicy")]
    {
        if frontend.flags & flag != 0 {
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
    let chosen = answer.endpoints.len();
    answer.steps.push(format!("1 of {chosen} is chosen at random with the first packet, and kept"));
    source(tables, range, answer);
    end(answer, "translate", Reason::PacketTranslated);
}

/// Under which address the endpoints see the client.
fn source(tables: &Tables, range: (u32, u32), answer: &mut Explanation) {
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
    if !elsewhere.is_empty() {
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
mod tests {
    use EndpointState::{NotReady, Ready};

    use super::*;
    use crate::{
        inspect::{Query, explain, tests::tables_with},
        model::{EndpointState, Service, ServiceKind},
    };

    const NODE: &str = "192.0.2.1";

    /// As a LoadBalancer at 203.0.113.10, with an external address, a NodePort, and a range of cluster IPs.
    fn tables(states: &[EndpointState], edit: fn(&mut Service)) -> Tables {
        let mut tables = tables_with(states, |service| {
            service.kind = ServiceKind::LoadBalancer;
            service.load_balancer_ips = vec!["203.0.113.10".parse().unwrap()];
            service.external_ips = vec!["203.0.113.20".parse().unwrap()];
            service.ports[0].node_port = 30_080;
            edit(service);
        });
        let addr = |text: &str| Addr::from(text.parse::<IpAddr>().unwrap());
        tables.addresses.insert(addr(NODE), ADDRESS_NODE);
        let cidr = SourceRangeKey { service_id: SERVICE_CIDRS, addr: addr("10.96.0.0") };
        tables.source_ranges.insert((cidr, 32 + 96 + 16));
        tables
    }

    fn ask(tables: &Tables, from: &str, outside: bool, to: &str) -> Explanation {
        let outside = outside.then(|| from.parse().unwrap());
        let destination = to.parse().unwrap();
        explain(tables, &Query { from: from.into(), left_alone: false, outside, destination }).unwrap()
    }

    #[test]
    fn packets_are_explained_as_the_kernel_decides() {
        let all: fn(&mut Service) = |_| {};
        let external_local: fn(&mut Service) = |service| service.external_local = true;
        let internal_local: fn(&mut Service) = |service| service.internal_local = true;
        let ranges: fn(&mut Service) =
            |service| service.source_ranges.networks = vec!["192.168.0.0/16".parse().unwrap()];
        let (lb, external, cluster, node) =
            ("203.0.113.10:80", "203.0.113.20:80", "10.96.0.1:80", "192.0.2.1:30080");
        let both = &[Ready, Ready][..];
        let translated = ("translate", "packet_translated");
        for (case, states, edit, to, want, endpoints, step) in [
            (
                "both",
                both,
                all,
                lb,
                translated,
                2,
                "on this node: 10.0.0.1:8080; the client's address is kept",
            ),
            (
                "both",
                both,
                all,
                external,
                translated,
                2,
                "on other nodes: 10.0.0.2:8080; they see an address",
            ),
            ("NodePort", both, all, node, translated, 2, "1 of 2 is chosen"),
            (
                "eTP Local",
                both,
                external_local,
                lb,
                translated,
                1,
                "10.0.0.2:8080 is left out: the traffic policy",
            ),
            ("eTP Local", both, external_local, cluster, translated, 2, "1 of 2"),
            ("iTP Local", both, internal_local, cluster, translated, 1, "internalTrafficPolicy is Local"),
            ("iTP Local", both, internal_local, node, translated, 2, "1 of 2"),
            (
                "no local one",
                &[NotReady, Ready][..],
                external_local,
                lb,
                ("drop", "no_local_endpoints"),
                0,
                "never refused",
            ),
            ("none", &[][..], all, lb, ("reject", "no_endpoints"), 0, "refused with a reset"),
            ("none", &[NotReady][..], all, cluster, ("reject", "no_endpoints"), 0, "it is not ready"),
            (
                "unknown port",
                both,
                all,
                "10.96.0.1:81",
                ("reject", "unknown_port"),
                0,
                "belongs to shop/cart",
            ),
            ("unknown port", both, all, "203.0.113.10:81", ("reject", "unknown_port"), 0, "with a reset"),
            (
                "its UDP",
                both,
                all,
                "10.96.0.1:80/udp",
                ("reject", "unknown_port"),
                0,
                "ICMP port unreachable",
            ),
            ("the node's own", both, all, "192.0.2.1:22", ("pass", "not_ours"), 0, "goes on as it is"),
            (
                "unallocated",
                both,
                all,
                "10.96.200.9:80",
                ("drop", "unallocated_address"),
                0,
                "cluster IPs are taken from",
            ),
            ("next to it", both, all, "10.97.0.1:80", ("pass", "not_ours"), 0, "no Service has the address"),
            ("admitted", both, ranges, lb, translated, 2, "admit 192.168.0.0/16; 192.168.50.2 is in one"),
        ] {
            let answer = ask(&tables(states, edit), "192.168.50.2", true, to);
            let steps = answer.steps.join("\n");
            assert_eq!((answer.verdict, answer.reason), want, "{case} {to}: {steps}");
            assert_eq!(answer.endpoints.len(), endpoints, "{case} {to}");
            assert!(steps.contains(step), "{case} {to}: {steps}");
        }
        let kept_out = tables(both, ranges);
        for (to, want) in [(lb, ("drop", "source_not_allowed")), (external, translated), (node, translated)] {
            let answer = ask(&kept_out, "10.9.9.9", true, to);
            assert_eq!(
                (answer.verdict, answer.reason),
                want,
                "{to}: ranges are of the load balancer's address"
            );
        }
        let six = ask(&kept_out, "2001:db8::1", true, lb);
        assert_eq!(six.reason, "source_not_allowed", "another family's address is in no range");
    }

    #[test]
    fn sockets_leave_source_ranges_to_packets() {
        let tables =
            tables(&[Ready], |service| service.source_ranges.networks = vec!["10.0.0.0/24".parse().unwrap()]);
        for (from, step) in [
            ("host", "give an address to --from"),
            ("10.0.0.7", "10.0.0.7 is in one"),
            ("10.0.1.7", "10.0.1.7 is in none: its packets are dropped"),
        ] {
            let answer = ask(&tables, from, false, "203.0.113.10:80");
            assert_eq!((answer.verdict, answer.reason), ("pass", "left_to_packets"), "{from}");
            assert!(answer.steps.iter().any(|said| said.contains(step)), "{from}: {:?}", answer.steps);
        }
        assert_eq!(ask(&tables, "host", false, "203.0.113.20:80").reason, "connect_translated");
    }

    #[test]
    fn the_node_and_its_endpoints_are_of_this_node() {
        let tables = tables(&[Ready, Ready], |_| {});
        for (address, want) in [
            ("10.0.0.1", true),
            ("10.0.0.2", false),
            (NODE, true),
            ("203.0.113.10", false),
            ("10.96.0.1", false),
        ] {
            assert_eq!(is_of_this_node(&tables, address.parse().unwrap()), want, "{address}");
        }
    }
}
