//! Clients on the node whose sockets keep what they dial, or have no hook: pods that opted out, and namespaces within pods.
//! Their packets are led at the pod's device, and `explain` says so.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeSet;

use sluice_tests::{
    outside::{Outside, seen},
    peer::Peer,
    wait,
    world::{Pod, ip, sysctl},
};

const UID: &str = "0f0e0d0c-5555-2222-3333-444455556666";

/// By TCP and UDP, at every address of the Service in both families, both pods answer, and see the client itself.
fn reaches_both(outside: &Outside, client: &mut Peer, [v4, v6]: &[String; 2], case: &str) {
    for [tcp, udp] in outside.dialled(1) {
        let own = if tcp.starts_with('[') { v6 } else { v4 };
        let mut by = BTreeSet::new();
        wait::until(&format!("{case}: both behind {tcp}"), || {
            for outcome in [client.tcp(&tcp), client.udp(&udp)] {
                // Programs come to a new device a moment after it.
                let answer = outcome.map_err(|error| (error, by.clone()))?;
                assert_eq!(&seen(&answer), own, "{case} -> {tcp}: {answer:?}");
                by.insert(answer.by);
            }
            if by.len() == 2 { Ok(()) } else { Err((String::new(), by.clone())) }
        });
    }
}

/// What `explain` says of a TCP connection to the ClusterIP: reason, and its steps; or why it says nothing.
fn try_explained(outside: &Outside, words: &[&str]) -> Result<(String, String), String> {
    let words = [&["explain"], words, &["10.96.0.1:80"]].concat();
    let answer = outside.world.node(1).try_json(&words)?;
    Ok((answer["reason"].as_str().unwrap().to_owned(), answer["steps"].to_string()))
}

fn explained(outside: &Outside, words: &[&str]) -> (String, String) {
    try_explained(outside, words).unwrap()
}

#[test]
fn a_pod_that_opted_out_is_led_by_packets() {
    let mut outside = Outside::new(&[1, 2], &[]);
    let pod = outside.world.pod(1, &format!("pod{UID}"));
    let [v4, v6] = pod.addresses();
    let mesh = sluice_tests::manifest::pod("mesh", "mesh", &[&v4, &v6]).replace(
        "metadata: {name: mesh,",
        &format!("metadata: {{name: mesh, uid: \"{UID}\", annotations: {{sluice.dev/socket-lb: \"false\"}},"),
    );
    let mut client = pod.peer();
    outside.world.apply("mesh", &mesh);
    // Before it is left alone, it is not known.
    wait::until("the pod is left alone", || match try_explained(&outside, &["--from", "shop/mesh"])? {
        (reason, steps) if reason == "packet_translated" && steps.contains("(opted_out)") => Ok(()),
        other => Err(format!("{other:?}")),
    });
    let count = |name: &str| {
        let rows = outside.world.node(1).json(&["reasons"]);
        let row = rows.as_array().unwrap().iter().find(|row| row["name"] == name).cloned();
        row.unwrap()["count"].as_u64().unwrap()
    };
    let before = ["opted_out", "connect_translated", "packet_translated"].map(count);
    reaches_both(&outside, &mut client, &pod.addresses(), "opted out");
    let after = ["opted_out", "connect_translated", "packet_translated"].map(count);
    assert!(after[0] > before[0] && after[2] > before[2], "{before:?} {after:?}");
    assert_eq!(after[1], before[1], "no socket was translated");
}

/// A network namespace within the pod, which routes it: a container in a container, a virtual machine.
fn nested(outside: &Outside, pod: &Pod, device: &str) -> Pod {
    let inside = Pod {
        netns: format!("{}-nested", pod.netns),
        cgroup: sluice::loader::find_cgroup(None).unwrap(),
        v4: "10.200.0.2".parse().unwrap(),
        v6: "fd00:200::2".parse().unwrap(),
        ..pod.clone()
    };
    let (netns, outer) = (&inside.netns, &pod.netns);
    ip(&format!("netns add {netns}"));
    ip(&format!("-n {netns} link set lo up"));
    ip(&format!("-n {outer} link add nested type veth peer name eth0 netns {netns}"));
    sysctl(outer, &[("ipv4/ip_forward", "1"), ("ipv6/conf/all/forwarding", "1")]);
    for (netns, device, number) in [(outer, "nested", 1), (netns, "eth0", 2)] {
        ip(&format!("-n {netns} addr add 10.200.0.{number}/24 dev {device}"));
        ip(&format!("-n {netns} addr add fd00:200::{number}/64 dev {device} nodad"));
        ip(&format!("-n {netns} link set {device} up"));
    }
    ip(&format!("-n {netns} route add default via 10.200.0.1"));
    ip(&format!("-n {netns} route add default via fd00:200::1"));
    let [here, there] = [1, 2].map(|number| outside.world.node(number).host.netns.clone());
    for (network, pod, overlay) in [
        ("10.200.0.0/24", pod.v4.to_string(), "10.244.1.0"),
        ("fd00:200::/64", pod.v6.to_string(), "fd00:10:244:1::"),
    ] {
        ip(&format!("-n {here} route add {network} via {pod} dev {device} onlink"));
        ip(&format!("-n {there} route add {network} via {overlay} dev vxlan0 onlink"));
    }
    inside
}

#[test]
fn a_namespace_within_a_pod_is_led_by_packets() {
    let mut outside = Outside::new(&[1, 2], &[]);
    // Pods are numbered through: this is the third.
    let pod = outside.world.pod(1, "outer");
    let inside = nested(&outside, &pod, "pod3");
    reaches_both(&outside, &mut inside.peer(), &inside.addresses(), "nested");
    for from in inside.addresses() {
        let (reason, steps) = explained(&outside, &["--from", &from, "--packets"]);
        assert_eq!(reason, "packet_translated", "{steps}");
        assert!(steps.contains("led at the pod's device"), "{steps}");
    }
    let refused = inside.peer().tcp("10.96.0.1:81");
    assert_eq!(refused.unwrap_err(), "ECONNREFUSED");
}

#[test]
fn explanations_of_packets_agree_with_what_the_pod_and_the_node_meet() {
    let mut outside = Outside::new(&[1, 2], &[]);
    let pod = outside.world.pod(1, "alone");
    let (own, root) = (pod.v4.to_string(), sluice::loader::find_cgroup(None).unwrap());
    let host = outside.world.node(1).host.clone();
    for (who, place) in [(own.as_str(), &pod), ("host", &host)] {
        let mut client = Pod { cgroup: root.clone(), ..place.clone() }.peer();
        for (to, verdict) in
            [("10.96.0.1:80", "translate"), ("203.0.113.20:80", "translate"), ("10.96.0.1:81", "reject")]
        {
            let answer = outside.world.node(1).json(&["explain", "--from", who, "--packets", to]);
            assert_eq!(answer["verdict"], verdict, "{who} -> {to}: {answer}");
            let met = client.tcp(to);
            assert_eq!(met.is_ok(), verdict == "translate", "{who} -> {to}: {met:?}");
        }
    }
    // Without programs at pods' devices nobody leads them.
    let flags = ["--pod-devices", "none"];
    outside.agents.clear();
    let _agents = [1, 2].map(|number| outside.world.node(number).agent_with(&flags));
    wait::until("programs are gone from pods' devices", || {
        let words = ["explain", "--from", &own, "--packets", "10.96.0.1:80"];
        let output = outside.world.node(1).sluice(&words);
        let text = sluice_tests::world::text(&output);
        if text.contains("see --pod-devices") { Ok(()) } else { Err(text) }
    });
}
