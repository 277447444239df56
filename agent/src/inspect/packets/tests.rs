//! Tables for what is said of packets.

use EndpointState::{NotReady, Ready};

use super::*;
use crate::{
    inspect::{Query, explain, tests::tables_with},
    model::{Algorithm, EndpointState, Service, ServiceKind},
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
    let sender = outside.then(|| Sender::Outside(from.parse().unwrap()));
    sent(tables, from, sender, to)
}

fn sent(tables: &Tables, from: &str, sender: Option<Sender>, to: &str) -> Explanation {
    let (left_alone, destination) = (from == "mesh", to.parse().unwrap());
    explain(
        tables,
        &Query { from: from.into(), left_alone, sender, from_port: None, options: 0, destination },
    )
    .unwrap()
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
        ("both", both, all, lb, translated, 2, "on this node: 10.0.0.1:8080; the client's address is kept"),
        ("both", both, all, external, translated, 2, "on other nodes: 10.0.0.2:8080; they see an address"),
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
        ("unknown port", both, all, "10.96.0.1:81", ("reject", "unknown_port"), 0, "belongs to shop/cart"),
        ("unknown port", both, all, "203.0.113.10:81", ("reject", "unknown_port"), 0, "with a reset"),
        ("its UDP", both, all, "10.96.0.1:80/udp", ("reject", "unknown_port"), 0, "ICMP port unreachable"),
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
        assert_eq!((answer.verdict, answer.reason), want, "{to}: ranges are of the load balancer's address");
    }
    let six = ask(&kept_out, "2001:db8::1", true, lb);
    assert_eq!(six.reason, "source_not_allowed", "another family's address is in no range");
}

#[test]
fn forwarding_says_how_other_nodes_are_reached() {
    let tables = tables(&[Ready, Ready], |_| {});
    let (dsr, hybrid) = (OPTION_DSR_TCP | OPTION_DSR_UDP, OPTION_DSR_TCP);
    for (case, options, protocol, want, step) in [
        ("snat", 0, Protocol::Tcp, "snat", "they see an address and port of this node"),
        ("dsr", dsr, Protocol::Tcp, "dsr", "in an IP tunnel"),
        ("dsr", dsr, Protocol::Udp, "dsr", "in an IP tunnel"),
        ("hybrid", hybrid, Protocol::Tcp, "dsr", "in an IP tunnel"),
        ("hybrid", hybrid, Protocol::Udp, "snat", "they see an address and port of this node"),
    ] {
        assert_eq!(is_tunnelled(protocol, options), want == "dsr", "{case} {protocol:?}");
        if protocol == Protocol::Udp {
            continue;
        }
        let destination = "203.0.113.10:80".parse().unwrap();
        let sender = Some(Sender::Outside("192.168.50.2".parse().unwrap()));
        let query = Query {
            from: "192.168.50.2".into(),
            left_alone: false,
            sender,
            from_port: None,
            options,
            destination,
        };
        let answer = explain(&tables, &query).unwrap();
        assert_eq!(answer.forwarding, Some(want), "{case}");
        assert!(answer.steps.join("\n").contains(step), "{case}: {:?}", answer.steps);
    }
}

#[test]
fn a_maglev_table_names_whom_it_chooses_when_the_client_is_known() {
    let maglev = |affinity_timeout_s: Option<u32>| {
        let mut tables = tables(&[Ready, Ready], |service| service.algorithm = Algorithm::Maglev);
        let affinity_timeout_s = affinity_timeout_s.unwrap_or(0);
        tables.frontends.values_mut().for_each(|value| value.affinity_timeout_s = affinity_timeout_s);
        tables
    };
    let ask = |tables: &Tables, client: Option<(&str, Option<u16>)>| {
        let sender = client.map(|(address, _)| Sender::Outside(address.parse().unwrap()));
        let from_port = client.and_then(|(_, port)| port);
        let destination = "203.0.113.10:80".parse().unwrap();
        let from = client.map_or("host", |(address, _)| address).to_owned();
        explain(tables, &Query { from, left_alone: false, sender, from_port, options: 0, destination })
            .unwrap()
    };
    let (by_port, by_address) = (maglev(None), maglev(Some(60)));
    for (case, tables, client, is_chosen, step) in [
        ("no port", &by_port, Some(("192.168.50.2", None)), false, "ask with --from 192.168.50.2:40000"),
        ("a port", &by_port, Some(("192.168.50.2", Some(41_000))), true, "of this client it chooses 10.0.0."),
        (
            "affinity",
            &by_address,
            Some(("192.168.50.2", None)),
            true,
            "by a hash of the client's address, on",
        ),
        ("a socket", &by_port, None, false, "by Maglev, by a hash of the socket"),
        ("its affinity", &by_address, None, false, "by a hash of the network namespace"),
    ] {
        let answer = ask(tables, client);
        let steps = answer.steps.join("\n");
        assert_eq!((answer.algorithm, answer.verdict), (Some("maglev"), "translate"), "{case}");
        assert_eq!(answer.chosen.is_some(), is_chosen, "{case}: {steps}");
        assert!(steps.contains(step) && !steps.contains("random"), "{case}: {steps}");
        assert!(!steps.contains("sluice affinity"), "{case}: {steps}");
    }
    let chosen = |port| ask(&by_port, Some(("192.168.50.2", Some(port)))).chosen.unwrap();
    let all: std::collections::BTreeSet<_> = (41_000..41_020).map(chosen).collect();
    assert_eq!(all.len(), 2, "both serve somebody");
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
    for (address, want) in
        [("10.0.0.1", true), ("10.0.0.2", false), (NODE, true), ("203.0.113.10", false), ("10.96.0.1", false)]
    {
        assert_eq!(is_of_this_node(&tables, address.parse().unwrap()), want, "{address}");
    }
}

#[test]
fn rules_lead_addresses_of_others_to_the_cluster_ip_after_the_policies() {
    let all: fn(&mut Service) = |_| {};
    let external_local: fn(&mut Service) = |service| service.external_local = true;
    let ranges: fn(&mut Service) =
        |service| service.source_ranges.networks = vec!["192.168.0.0/16".parse().unwrap()];
    let (lb, external, node) = ("203.0.113.10:80", "203.0.113.20:80", "192.0.2.1:30080");
    let redirected = ("translate", "redirected");
    let led = "led to the cluster IP, 10.96.0.1:80";
    let own = "the kernel steers the connection to the redirector";
    let nowhere = ("drop", "no_local_endpoints");
    for (case, edit, from, outside, to, want, step) in [
        ("outside", all, "192.168.50.2", true, lb, redirected, led),
        ("outside", all, "192.168.50.2", true, external, redirected, led),
        ("outside", all, "192.168.50.2", true, node, redirected, own),
        ("a pod", all, "10.0.0.1", false, external, redirected, led),
        ("no local endpoint", external_local, "192.168.50.2", true, lb, nowhere, "never refused"),
        ("no local endpoint", external_local, "192.168.50.2", true, node, nowhere, "never refused"),
        ("inside", external_local, "10.0.0.1", false, lb, redirected, led),
        ("kept out", ranges, "10.9.9.9", true, lb, ("drop", "source_not_allowed"), "is in none"),
        ("by packets", ranges, "192.168.0.9", false, lb, ("pass", "left_to_packets"), "without rules"),
    ] {
        let mut tables = tables(&[NotReady, Ready], edit);
        tables.frontends.values_mut().for_each(|value| value.flags |= FLAG_REDIRECTED);
        let answer = ask(&tables, from, outside, to);
        let steps = answer.steps.join("\n");
        assert_eq!((answer.verdict, answer.reason), want, "{case} {to}: {steps}");
        assert!(steps.contains(step), "{case} {to}: {steps}");
    }
}

#[test]
fn packets_of_pods_and_of_the_node_are_explained_as_the_kernel_decides() {
    let all: fn(&mut Service) = |_| {};
    let external_local: fn(&mut Service) = |service| service.external_local = true;
    let internal_local: fn(&mut Service) = |service| service.internal_local = true;
    let ranges: fn(&mut Service) =
        |service| service.source_ranges.networks = vec!["10.0.0.0/24".parse().unwrap()];
    let (lb, cluster, node) = ("203.0.113.10:80", "10.96.0.1:80", "192.0.2.1:30080");
    let pod = |address: &str| Sender::Pod(Some(address.parse().unwrap()));
    let (own, unknown, host) = (pod("10.0.0.7"), Sender::Pod(None), Sender::Node);
    let both = &[Ready, Ready][..];
    let (translated, passed) = (("translate", "packet_translated"), ("pass", "not_ours"));
    for (case, states, edit, (from, sender), to, want, endpoints, step) in [
        ("opted out", both, all, ("mesh", unknown), cluster, translated, 2, "socket-lb"),
        (
            "a virtual machine",
            both,
            all,
            ("10.0.0.7", own),
            cluster,
            translated,
            2,
            "the pod's address is kept",
        ),
        ("short-circuit", both, external_local, ("10.0.0.7", own), lb, translated, 2, "1 of 2 is chosen"),
        (
            "iTP Local",
            both,
            internal_local,
            ("10.0.0.7", own),
            cluster,
            translated,
            1,
            "only endpoints on this",
        ),
        ("NodePort", both, all, ("10.0.0.7", own), node, translated, 2, "1 of 2"),
        (
            "none local",
            &[NotReady, Ready][..],
            internal_local,
            ("10.0.0.7", own),
            cluster,
            ("drop", "no_local_endpoints"),
            0,
            "never refused",
        ),
        ("none", &[][..], all, ("10.0.0.7", own), cluster, ("reject", "no_endpoints"), 0, "with a reset"),
        (
            "unknown port",
            both,
            all,
            ("10.0.0.7", own),
            "10.96.0.1:81",
            ("reject", "unknown_port"),
            0,
            "reset",
        ),
        (
            "a VIP's other port",
            both,
            all,
            ("10.0.0.7", own),
            "203.0.113.10:81",
            passed,
            0,
            "goes on as it is",
        ),
        ("admitted", both, ranges, ("10.0.0.7", own), lb, translated, 2, "10.0.0.7 is in one"),
        (
            "kept out",
            both,
            ranges,
            ("10.0.1.7", pod("10.0.1.7")),
            lb,
            ("drop", "source_not_allowed"),
            0,
            "in none",
        ),
        ("by name", both, ranges, ("mesh", unknown), lb, translated, 2, "give an address to --from"),
        ("the node", both, all, ("host", host), lb, translated, 2, "10.0.0.2:8080; they see an address"),
        ("its own NodePort", both, all, ("host", host), node, passed, 0, "goes on as it is"),
    ] {
        let answer = sent(&tables(states, edit), from, Some(sender), to);
        let steps = answer.steps.join("\n");
        assert_eq!((answer.verdict, answer.reason), want, "{case} {to}: {steps}");
        assert_eq!(answer.endpoints.len(), endpoints, "{case} {to}");
        assert!(steps.contains(step), "{case} {to}: {steps}");
    }
}
