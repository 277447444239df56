//! Services with the annotation `sluice.dev/algorithm: maglev`: every node chooses alike.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::{BTreeMap, BTreeSet};

use sluice_tests::{
    outside::{NODE_PORTS, Outside, SERVED},
    peer::{Answer, Command},
    wait,
};

const PORTS: std::ops::Range<u16> = 41_000..41_024;
/// Load balancer addresses, UDP.
const DNS: [&str; 2] = ["203.0.113.10:53", "[2001:db8:50::10]:53"];

/// Two nodes with three pods, one of them on node-1, and a table in which each has a third.
fn world(flags: &[&str], more: &str) -> Outside {
    let mut outside = Outside::new(&[1, 2], flags);
    outside.pods.push(outside.world.server(2, "more", &SERVED));
    outside.apply_maglev(more);
    wait_for(&outside, "maglev", 3);
    outside
}

/// Until both nodes choose among so many like this.
fn wait_for(outside: &Outside, algorithm: &str, endpoints: usize) {
    for number in [1, 2] {
        wait::until("the algorithm is programmed", || {
            let answer = outside.world.node(number).json(&["explain", "--from", "192.168.50.2", DNS[0]]);
            let answer = match answer["verdict"].as_str() {
                Some("translate") => answer,
                _ => outside.world.node(number).json(&[
                    "explain",
                    "--from",
                    "192.168.50.2",
                    "203.0.113.10:53/udp",
                ]),
            };
            let right = answer["algorithm"] == algorithm
                && answer["endpoints"].as_array().is_some_and(|rows| rows.len() == endpoints);
            if right { Ok(()) } else { Err(answer) }
        });
    }
}

/// Who answers each source port, by that node.
fn by_port(outside: &mut Outside, node: usize, to: &str) -> BTreeMap<u16, String> {
    outside.world.route_services_to(node);
    let own = outside.own_address(to);
    let own = if own.contains(':') { format!("[{own}]") } else { own };
    let mut ask = |port: u16| {
        let from = format!("{own}:{port}");
        outside
            .client
            .udp_from(&from, to)
            .unwrap_or_else(|error| panic!("{from} to {to} by {node}: {error}"))
            .by
    };
    PORTS.map(|port| (port, ask(port))).collect()
}

fn answering(choices: &BTreeMap<u16, String>) -> BTreeSet<&str> {
    choices.values().map(String::as_str).collect()
}

#[test]
fn a_client_meets_the_same_pod_by_either_node_and_explain_knows_which() {
    for flags in [&[][..], &["--forwarding", "dsr"], &["--xdp", "native"]] {
        let mut outside = world(flags, "");
        for to in DNS {
            let first = by_port(&mut outside, 1, to);
            assert_eq!(by_port(&mut outside, 2, to), first, "{flags:?} {to}");
            assert_eq!(answering(&first).len(), 3, "{flags:?} {to}: everybody serves somebody: {first:?}");
            let own = outside.own_address(to);
            for (port, by) in first.into_iter().step_by(6) {
                let from =
                    if own.contains(':') { format!("[{own}]:{port}") } else { format!("{own}:{port}") };
                let answer = outside.world.node(2).json(&["explain", "--from", &from, &format!("{to}/udp")]);
                let (pod, _) = outside.pods.iter().find(|(pod, _)| pod.name == by).unwrap();
                let chosen = answer["chosen"].as_str().unwrap_or_else(|| panic!("{answer}"));
                let is_it = pod
                    .addresses()
                    .iter()
                    .any(|own| chosen.contains(&format!("{own}:")) || chosen.contains(own));
                assert!(is_it, "{flags:?} {from} to {to}: {by} answers, {answer}");
            }
        }
        // A NodePort is one, whichever node's it is.
        let hosts = [1, 2].map(|node| outside.world.node(node).host.addresses());
        for family in [0, 1] {
            let [first, second] = [0, 1].map(|node: usize| {
                let host = &hosts[node][family];
                let to = if family == 0 { host.clone() } else { format!("[{host}]") };
                by_port(&mut outside, 1, &format!("{to}:{}", NODE_PORTS[1]))
            });
            assert_eq!(first, second, "{flags:?}");
        }
    }
}

#[test]
fn session_affinity_is_by_the_clients_address_alone_and_nobody_is_remembered() {
    let mut outside = world(&[], "sessionAffinity: ClientIP");
    let all: BTreeSet<String> = [1, 2]
        .into_iter()
        .flat_map(|node| by_port(&mut outside, node, DNS[0]).into_values().collect::<Vec<_>>())
        .collect();
    assert_eq!(all.len(), 1, "{all:?}");
    let pod = outside.world.pod(1, "dialler");
    let mut dialler = pod.peer();
    let by: BTreeSet<String> = (0..20).map(|_| dialler.tcp("10.96.0.1:80").unwrap().by).collect();
    assert_eq!(by.len(), 1, "a pod's sockets are one client: {by:?}");
    for number in [1, 2] {
        assert_eq!(outside.world.node(number).json(&["affinity"]), serde_json::json!([]), "node-{number}");
    }
    let client = outside.world.client().addresses()[0].clone();
    let answer = outside.world.node(2).json(&["explain", "--from", &client, "203.0.113.10:53/udp"]);
    let (pod, _) = outside.pods.iter().find(|(pod, _)| all.contains(&pod.name)).unwrap();
    assert_eq!(answer["chosen"], format!("{}:5353", pod.addresses()[0]), "{answer}");
}

#[test]
fn clients_of_other_pods_stay_where_they_are_when_a_pod_goes() {
    let mut outside = world(&[], "");
    let before = by_port(&mut outside, 1, DNS[0]);
    outside.pods.retain(|(pod, _)| pod.name != "more");
    outside.apply_maglev("");
    wait_for(&outside, "maglev", 2);
    let after = by_port(&mut outside, 2, DNS[0]);
    let moved: Vec<u16> =
        PORTS.filter(|port| before[port] != "more" && before[port] != after[port]).collect();
    assert!(moved.len() <= 1, "{moved:?}: {before:?} {after:?}");
    assert_eq!(answering(&after), BTreeSet::from(["far", "near"]));
    outside.apply("");
    wait_for(&outside, "random", 2);
}

#[test]
fn sockets_are_spread_over_all_and_policies_hold() {
    let mut outside = world(&[], "");
    let pod = outside.world.pod(1, "dialler");
    let mut dialler = pod.peer();
    for to in ["10.96.0.1:80", "[fd00:10:96::1]:80"] {
        let by: BTreeSet<String> = (0..60).map(|_| dialler.tcp(to).unwrap().by).collect();
        assert_eq!(by.len(), 3, "{to}: {by:?}");
    }
    let by: BTreeSet<String> = (0..60).map(|_| dialler.udp("10.96.0.1:53").unwrap().by).collect();
    assert_eq!(by.len(), 3, "{by:?}");
    outside.apply_maglev("externalTrafficPolicy: Local");
    outside.wait_policy("externalTrafficPolicy: Local");
    assert_eq!(answering(&by_port(&mut outside, 1, DNS[0])), BTreeSet::from(["near"]));
    assert_eq!(answering(&by_port(&mut outside, 2, DNS[0])), BTreeSet::from(["far", "more"]));
}

/// With chance that would end it: the other node knows nothing of the connection.
#[test]
fn with_dsr_a_connection_goes_on_by_another_node() {
    let mut outside = world(&["--forwarding", "dsr"], "");
    for (to, from) in [("203.0.113.10:80", "192.168.50.2"), ("[2001:db8:50::10]:80", "[fd00:50::2]")] {
        for port in PORTS.take(8) {
            outside.world.route_services_to(1);
            let id = outside.client.id();
            let from = format!("{from}:{port}");
            let open = Command::TcpFrom { id, from: from.parse().unwrap(), to: to.parse().unwrap() };
            let first: Answer = outside.client.command(&open).unwrap();
            outside.world.route_services_to(2);
            let second = outside.client.command(&Command::AskAgain { id });
            let second = second.unwrap_or_else(|error| panic!("{from} to {to}: {error}, after {first:?}"));
            assert_eq!(second.by, first.by, "{from} to {to}");
        }
    }
}
