//! What `sluice monitor` says of packets of a client outside.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use serde_json::Value;
use sluice_tests::{
    monitor::{Monitor, check},
    outside::{Outside, until},
    peer::address,
    world::tool_path,
};

#[test]
fn clients_outside_are_told_of_by_their_packets() {
    for (servers, xdp) in [(&[1][..], "off"), (&[2], "off"), (&[1], "native"), (&[2], "native")] {
        let mut outside = Outside::new(servers, &["--xdp", xdp]);
        let hook = if xdp == "off" { "from_network" } else { "early" };
        let mut monitor = Monitor::start(outside.world.node(1), &[]);
        let (pod, to) = (outside.pods[0].0.clone(), outside.dialled(1));
        for (to, backend, service) in [
            (to[0][0].clone(), format!("{}:8080", pod.v4), "http"),
            (to[1][1].clone(), format!("{}:5353", pod.v4), "dns"),
            (to[4][0].clone(), format!("[{}]:8080", pod.v6), "http"),
        ] {
            let met = if service == "dns" { outside.client.udp(&to) } else { outside.client.tcp(&to) };
            let seen = met.unwrap_or_else(|error| panic!("{servers:?} {xdp} {to}: {error}"));
            let rows = monitor.until("packet_translated", &to);
            let of_it: Vec<&Value> = rows.iter().filter(|row| row["dialled"] == to).collect();
            let [row] = of_it[..] else { panic!("told once: {rows:?}") };
            check(
                row,
                &[
                    ("hook", hook.into()),
                    ("device", "eth0".into()),
                    ("verdict", "translate".into()),
                    ("client", outside.own_address(&to).into()),
                    ("backend", backend.into()),
                    ("service", "shop/cart".into()),
                    ("pod", format!("shop/{}", pod.name).into()),
                    ("clientPod", ().into()),
                    ("port", service.into()),
                    ("node", if servers == [1] { "node-1" } else { "node-2" }.into()),
                    ("netns", ().into()),
                ],
            );
            // To a pod of this node the client's port stays.
            let port = address(&seen.client).port();
            assert!(servers != [1] || row["clientPort"] == port, "{row}");
        }
        // Neither packets of known connections nor answers.
        let (status, rest, _) = monitor.end();
        assert!(status.success() && rest.is_empty(), "{rest:?}");
    }
}

#[test]
fn packets_that_end_here_are_told_of_with_the_reason() {
    let mut outside = Outside::new(&[2], &[]);
    outside.apply("loadBalancerSourceRanges: [10.0.0.0/8]");
    let lb = "203.0.113.10:80";
    let mut monitor = Monitor::start(outside.world.node(1), &[]);
    let _dropped = until("ranges", || outside.client.tcp(lb), Result::is_err);
    let row = monitor.event("source_not_allowed", lb);
    check(
        &row,
        &[
            ("verdict", "drop".into()),
            ("hook", "from_network".into()),
            ("client", "192.168.50.2".into()),
            ("service", "shop/cart".into()),
            ("port", "http".into()),
            ("backend", Value::Null),
            ("backendId", Value::Null),
        ],
    );
    outside.client.tcp("203.0.113.10:81").unwrap_err();
    let row = monitor.event("unknown_port", "203.0.113.10:81");
    check(&row, &[("verdict", "reject".into()), ("service", Value::Null), ("backend", Value::Null)]);
    outside.apply("externalTrafficPolicy: Local");
    outside.wait_policy("externalTrafficPolicy: Local");
    let node_port = format!("{}:30080", outside.world.node(1).host.v4);
    outside.client.tcp(&node_port).unwrap_err();
    let row = monitor.event("no_local_endpoints", &node_port);
    check(&row, &[("verdict", "drop".into()), ("service", "shop/cart".into())]);
    let client = outside.world.client().clone();
    let ping = client.command(&tool_path("ping")).args(["-c", "1", "-W", "5", "10.96.0.1"]).output().unwrap();
    assert!(ping.status.success());
    let row = monitor.event("echo_answered", "10.96.0.1:0");
    check(
        &row,
        &[("verdict", "answer".into()), ("protocol", "ICMP".into()), ("client", "192.168.50.2".into())],
    );
    outside.pods.clear();
    outside.apply("");
    let _refused = until(
        "no endpoints",
        || outside.client.tcp(&node_port),
        |met| *met == Err("ECONNREFUSED".to_owned()),
    );
    check(&monitor.event("no_endpoints", &node_port), &[("verdict", "reject".into())]);
}

#[test]
fn pods_are_told_of_by_name_as_long_as_they_have_it() {
    let mut outside = Outside::new(&[1, 2], &[]);
    let to = format!("{}:30080", outside.world.node(1).host.v4);
    let mut monitor = Monitor::start(outside.world.node(1), &["--pod", "shop/far"]);
    for _ in 0..16 {
        outside.client.tcp(&to).unwrap();
    }
    check(&monitor.event("packet_translated", &to), &[("pod", "shop/far".into()), ("node", "node-2".into())]);
    let (_, rest, said) = monitor.end();
    assert!(rest.iter().all(|line| line.contains("\"pod\":\"shop/far\"")), "{rest:?}");
    let filtered = said.last().unwrap().split(", ").nth(1).unwrap().to_owned();
    assert_ne!(filtered, "0 filtered out", "those that `near` got");
    // Names live in the maps: nobody needs to run.
    outside.agents.clear();
    let mut monitor = Monitor::start(outside.world.node(1), &["--count", "1"]);
    let answer = outside.client.tcp(&to).unwrap();
    check(&monitor.event("packet_translated", &to), &[("pod", format!("shop/{}", answer.by).into())]);
}
