//! The world of two nodes itself: what tests and benches of the packet path take for granted.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use sluice_tests::{
    demo::{Outside, Protocol},
    manifest,
    peer::{Outcome, address},
    world::TwoNodes,
};

const PORTS: [(u16, bool); 2] = [(8080, false), (5353, true)];

/// The addresses `host:port` for both families.
fn at(addresses: &[String; 2], port: u16) -> [String; 2] {
    let [v4, v6] = addresses;
    [format!("{v4}:{port}"), format!("[{v6}]:{port}")]
}

fn assert_seen(case: &str, outcome: &Outcome, server: &str, client: &str) {
    let answer = outcome.as_ref().unwrap_or_else(|error| panic!("{case}: {error}"));
    assert_eq!((answer.by.as_str(), answer.client_ip().to_string().as_str()), (server, client), "{case}");
}

#[test]
fn pods_reach_each_other_and_the_client_reaches_nodes() {
    let mut world = TwoNodes::new();
    let (near, _near) = world.server(1, "near", &PORTS);
    let (far, _far) = world.server(2, "far", &PORTS);
    let pod = world.pod(1, "dialler");
    let mut dialler = pod.peer();
    for (family, own) in pod.addresses().iter().enumerate() {
        for server in [&near, &far] {
            let [tcp, udp] = [8080, 5353].map(|port| at(&server.addresses(), port)[family].clone());
            assert_seen(&tcp, &dialler.tcp(&tcp), &server.name, own);
            assert_seen(&udp, &dialler.udp(&udp), &server.name, own);
        }
    }
    let client = world.client().clone();
    let mut outside = client.peer();
    for number in [1, 2] {
        let host = world.node(number).host.clone();
        let _server = host.serve(&PORTS);
        for (family, own) in client.addresses().iter().enumerate() {
            let [tcp, udp] = [8080, 5353].map(|port| at(&host.addresses(), port)[family].clone());
            assert_seen(&tcp, &outside.tcp(&tcp), &host.name, own);
            assert_seen(&udp, &outside.udp(&udp), &host.name, own);
        }
    }
    // Nodes reach pods, and pods the client, on the other node too.
    let mut host = world.node(1).host.peer();
    let _client = client.serve(&PORTS);
    for family in [0, 1] {
        let (far_tcp, client_udp) =
            (&at(&far.addresses(), 8080)[family], &at(&client.addresses(), 5353)[family]);
        assert_eq!(host.tcp(far_tcp).unwrap().by, "far");
        let dialled = dialler.udp(client_udp);
        assert_eq!(dialled, Err("timeout".to_owned()), "the client has no way back to a pod");
    }
}

#[test]
fn large_datagrams_and_long_streams_pass_the_overlay() {
    let mut world = TwoNodes::new();
    let (far, _server) = world.server(2, "far", &PORTS);
    let mut near = world.pod(1, "near").peer();
    for to in at(&far.addresses(), 5353) {
        for bytes in [64, 1400, 1422, 1423, 1472, 1500, 4000, 9000, 60_000] {
            near.udp_echo(&to, bytes).unwrap_or_else(|error| panic!("{bytes} bytes to {to}: {error}"));
        }
    }
    for to in at(&far.addresses(), 8080) {
        near.tcp_echo(&to, 4 << 20).unwrap_or_else(|error| panic!("4 MB to {to}: {error}"));
    }
    let node = world.node(2).host.clone();
    let _server = node.serve(&PORTS);
    let mut client = world.client().peer();
    for (tcp, udp) in at(&node.addresses(), 8080).into_iter().zip(at(&node.addresses(), 5353)) {
        client.tcp_echo(&tcp, 4 << 20).unwrap();
        client.udp_echo(&udp, 9000).unwrap();
    }
}

#[test]
fn clients_dial_from_the_source_that_they_choose() {
    let world = TwoNodes::new();
    let host = world.node(1).host.clone();
    let _server = host.serve(&PORTS);
    let mut client = world.client().peer();
    for (own, [tcp, udp]) in world
        .client()
        .addresses()
        .iter()
        .zip([0, 1].map(|family| [8080, 5353].map(|port| at(&host.addresses(), port)[family].clone())))
    {
        let own = if own.contains(':') { format!("[{own}]") } else { own.clone() };
        for port in [40_001, 40_002] {
            let from = format!("{own}:{port}");
            let answer = client.tcp_from(&from, &tcp).unwrap();
            assert_eq!(address(&answer.client).port(), port);
            let answer = client.udp_from(&from, &udp).unwrap();
            assert_eq!(address(&answer.client).port(), port);
        }
        let nobody = client.tcp_from(&format!("{own}:40003"), &tcp.replace(":8080", ":9"));
        assert_eq!(nobody, Err("ECONNREFUSED".to_owned()));
    }
}

#[test]
fn services_are_routed_to_a_node_of_choice() {
    let world = TwoNodes::new();
    let mut client = world.client().peer();
    for number in [2, 1] {
        world.route_services_to(number);
        let host = &world.node(number).host;
        // With an address of the range on its loopback, that node answers.
        for (address, bits) in
            [("203.0.113.9", 32), ("2001:db8:50::9", 128), ("10.96.0.9", 32), ("fd00:10:96::9", 128)]
        {
            sluice_tests::world::ip(&format!("-n {} addr replace {address}/{bits} dev lo", host.netns));
        }
        let _server = host.serve(&[(8080, false)]);
        for to in ["203.0.113.9:8080", "[2001:db8:50::9]:8080", "10.96.0.9:8080", "[fd00:10:96::9]:8080"] {
            assert_eq!(client.tcp(to).unwrap().by, host.name, "{to}");
        }
    }
}

#[test]
fn each_node_has_an_agent_and_both_read_the_same_manifests() {
    let mut world = TwoNodes::new();
    let (far, _server) = world.server(2, "far", &PORTS);
    let [v4, v6] = far.addresses();
    let text = manifest::service("cart", &["10.96.0.1", "fd00:10:96::1"], &["http:80:8080"]);
    world.apply("shop", &(text + &manifest::pod_on("node-2", "far", "cart", &[&v4, &v6])));
    let _agents = [1, 2].map(|number| world.node(number).agent());
    for number in [1, 2] {
        world.node(number).wait_verdict("10.96.0.1:80", "translate", 1);
        let mut pod = world.pod(number, &format!("dialler-{number}")).peer();
        for to in ["10.96.0.1:80", "[fd00:10:96::1]:80"] {
            assert_eq!(pod.tcp(to).unwrap().by, "far", "from node-{number} to {to}");
        }
    }
}

#[test]
fn the_demos_servers_are_reached_from_either_node() {
    let outside = Outside::start(&[]).unwrap();
    for number in [1, 2] {
        let host = &outside.world().node(number).host;
        let answers = |protocol, to| {
            let dialled = outside.dial(host, protocol, to).unwrap();
            dialled.answers.keys().cloned().collect::<Vec<_>>()
        };
        for (protocol, to) in [
            (Protocol::Tcp, "10.96.0.90:80"),
            (Protocol::Tcp, "[fd00:10:96::90]:80"),
            (Protocol::Udp, "10.96.0.90:5300"),
        ] {
            assert_eq!(answers(protocol, to), ["outlet-1", "outlet-2"], "from node-{number} to {to}");
        }
        assert_eq!(answers(Protocol::Tcp, "10.96.0.91:80"), ["counter-1"]);
    }
}
