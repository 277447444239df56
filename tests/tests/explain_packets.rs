//! `sluice explain --from` an address outside says what a client there meets.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use serde_json::Value;
use sluice_tests::{
    outside::{Outside, seen},
    peer::{Outcome, Peer},
    world::Pod,
};

/// What the explanation and the client say of one connection; panics where they differ.
fn agree(case: &str, pods: &[(Pod, Peer)], explained: &Value, outcome: &Outcome, own: &str) {
    let verdict = explained["verdict"].as_str().unwrap();
    let met = match outcome {
        Ok(_) => "translate",
        Err(error) if error == "ECONNREFUSED" => "reject",
        Err(_) => "drop",
    };
    assert_eq!(verdict, met, "{case}: {outcome:?}, but {explained}");
    let Ok(answer) = outcome else { return };
    let (pod, _) = pods.iter().find(|(pod, _)| pod.name == answer.by).unwrap();
    let mut endpoints = explained["endpoints"].as_array().unwrap().iter();
    let is_it = |row: &Value| pod.addresses().iter().any(|address| row["address"] == address.as_str());
    assert!(endpoints.any(is_it), "{case}: {answer:?} is none of {explained}");
    let is_here = answer.by == "near";
    let steps = explained["steps"].to_string();
    assert!(steps.contains(if is_here { "on this node" } else { "on other nodes" }), "{case}: {steps}");
    assert_eq!(seen(answer) == own, is_here, "{case}: whom the server saw");
}

#[test]
fn explanations_agree_with_what_a_client_outside_meets() {
    for (servers, policies) in [
        (&[1, 2][..], &["", "externalTrafficPolicy: Local", "internalTrafficPolicy: Local"][..]),
        (&[2], &["externalTrafficPolicy: Local"]),
        (&[], &[""]),
    ] {
        let mut outside = Outside::new(servers, &[]);
        for policy in policies {
            outside.apply(policy);
            outside.wait_policy(policy);
            let mut dialled: Vec<String> = outside.dialled(1).into_iter().flatten().collect();
            dialled.extend(["10.96.0.1:81", "[2001:db8:50::10]:81"].map(str::to_owned));
            for (index, to) in dialled.iter().enumerate() {
                let own = outside.own_address(to);
                // Addresses come in pairs, of TCP and of UDP.
                let udp = index % 2 == 1 && !to.ends_with(":81");
                let protocol = if udp { "udp" } else { "tcp" };
                let node = outside.world.node(1);
                let explained = node.json(&["explain", "--from", &own, &format!("{to}/{protocol}")]);
                if udp && explained["verdict"] == "drop" && index > 2 {
                    // Each is two seconds of waiting, and of one kind.
                    continue;
                }
                let outcome = if udp { outside.client.udp_connected(to) } else { outside.client.tcp(to) };
                agree(
                    &format!("{servers:?} {policy} {to}/{protocol}"),
                    &outside.pods,
                    &explained,
                    &outcome,
                    &own,
                );
            }
        }
    }
}

#[test]
fn explanations_know_how_other_nodes_are_reached() {
    for (flags, tcp, udp) in [
        (&[][..], "snat", "snat"),
        (&["--forwarding", "dsr"], "dsr", "dsr"),
        (&["--forwarding", "hybrid"], "dsr", "snat"),
    ] {
        let mut outside = Outside::new(&[2], flags);
        outside.wait_policy("");
        outside.world.route_services_to(1);
        for (to, want) in [("203.0.113.10:80", tcp), ("203.0.113.10:53", udp)] {
            let protocol = if to.ends_with("53") { "udp" } else { "tcp" };
            let asked = format!("{to}/{protocol}");
            let answer = outside.world.node(1).json(&["explain", "--from", "192.168.50.2", &asked]);
            assert_eq!(answer["forwarding"], want, "{flags:?} {answer}");
            let met = if protocol == "udp" { outside.client.udp(to) } else { outside.client.tcp(to) };
            assert_eq!(seen(&met.unwrap()) == "192.168.50.2", want == "dsr", "{flags:?} {to}");
        }
    }
}

#[test]
fn who_is_outside_is_told_by_the_way_back() {
    let mut outside = Outside::new(&[1, 2], &[]);
    outside.apply("loadBalancerSourceRanges: [192.168.50.0/30]");
    let pod = outside.world.pod(1, "alone");
    let node = outside.world.node(1);
    let client = outside.world.client().v4.to_string();
    let lb = "203.0.113.10:80";
    let reason = |from: &str, to: &str| {
        node.json(&["explain", "--from", from, to])["reason"].as_str().unwrap().to_owned()
    };
    sluice_tests::wait::until("ranges", || match reason("host", lb).as_str() {
        "left_to_packets" => Ok(()),
        other => Err(other.to_owned()),
    });
    for (who, from, to, want) in [
        ("client", client.as_str(), lb, "packet_translated"),
        ("the other node", "192.168.50.12", lb, "source_not_allowed"),
        ("a pod of the other node", &outside.pods[1].0.v4.to_string(), lb, "source_not_allowed"),
        ("a pod here that no Service has", &pod.v4.to_string(), lb, "left_to_packets"),
        ("the same", &pod.v4.to_string(), "10.96.0.1:80", "connect_translated"),
        ("an endpoint here", &outside.pods[0].0.v6.to_string(), "10.96.0.1:80", "connect_translated"),
        ("this node", &node.host.v4.to_string(), "10.96.0.1:80", "connect_translated"),
        ("nobody we know a way to but the default", "198.51.100.7", "10.96.0.1:80", "packet_translated"),
    ] {
        assert_eq!(reason(from, to), want, "{who} {from} -> {to}");
    }
}
