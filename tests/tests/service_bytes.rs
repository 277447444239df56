//! Bytes of each Service, where somebody wants them counted: by the kernel, as connections of sockets end.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::{collections::BTreeMap, ops::RangeInclusive, time::Duration};

use sluice_tests::{
    http::curl,
    manifest,
    peer::{Command, Peer},
    wait,
    world::World,
};

const METRIC: &str =
    "sluice_service_bytes_total{namespace=\"shop\",service=\"cart\",port=\"http\",direction=";
/// What is sent before an echo: a question, and how much comes.
const HEADS: u64 = 1 + 9;

fn page(world: &World) -> String {
    curl(world.node(), &["http://127.0.0.1:10249/metrics"]).body
}

/// What is told of bytes, by direction.
fn told(world: &World) -> BTreeMap<String, u64> {
    let page = page(world);
    let samples = page.lines().filter_map(|line| line.strip_prefix(METRIC)?.split_once("} "));
    samples
        .map(|(direction, count)| (direction.trim_matches('"').to_owned(), count.parse().unwrap()))
        .collect()
}

/// The programs of `sluice status` that count.
fn counting(world: &World) -> usize {
    let status = world.json(&["status"]);
    status["programs"].as_array().unwrap().iter().filter(|row| row["hook"] == "cgroup/sock_ops").count()
}

/// One connection with so many bytes there and back; how many there were in all, each way. It stays open.
fn exchange(client: &mut Peer, to: &str, bytes: u64) -> [u64; 2] {
    let answer = client.tcp(to).unwrap_or_else(|error| panic!("{to}: {error}"));
    client.command(&Command::TcpEcho { id: 0, bytes }).unwrap();
    [HEADS + bytes, (answer.by.len() + 1 + answer.client.len()) as u64 + bytes]
}

#[test]
fn bytes_of_connections_by_sockets_are_told_once_they_have_ended() {
    let mut world = World::new();
    let (pod, _server) = world.server("cart-1", &[(8080, false), (5353, true)]);
    let client_pod = world.pod("client");
    let mut client = world.peer(&client_pod);
    let service =
        manifest::service("cart", &["10.96.0.1", "fd00:96::1"], &["http:80:8080", "dns:53:5353/UDP"])
            .replace("spec:\n", "spec:\n  type: NodePort\n")
            .replace("targetPort: 8080,", "targetPort: 8080, nodePort: 30080,");
    let addresses = pod.addresses();
    world.apply("shop", &(service + &manifest::pod("cart-1", "cart", &[&addresses[0], &addresses[1]])));
    let agent = world.agent_with(&["--service-metrics"]);
    world.wait_verdict("10.96.0.1:80", "translate", 1);
    assert_eq!(counting(&world), 1);
    let mut want = [0; 2];
    let node_port = format!("{}:30080", world.node().v4);
    let ways = ["10.96.0.1:80", "[fd00:96::1]:80", "[::ffff:10.96.0.1]:80", &node_port];
    for (to, bytes) in ways.into_iter().zip([3_000_000, 50_000, 700, 11]) {
        let had = exchange(&mut client, to, bytes);
        want = [want[0] + had[0], want[1] + had[1]];
    }
    // Not the Service's, though it ends the one before.
    exchange(&mut client, &format!("{}:8080", pod.v4), 1_000_000);
    // Not by TCP.
    client.udp("10.96.0.1:53").unwrap();
    // Each may count a byte for its beginning and one for its end.
    let ranges = want.map(|bytes| bytes..=bytes + 2 * ways.len() as u64);
    let is_right = |told: &BTreeMap<String, u64>| {
        let within = |direction, range: &RangeInclusive<u64>| {
            told.get(direction).is_some_and(|count| range.contains(count))
        };
        within("sent", &ranges[0]) && within("received", &ranges[1])
    };
    // The agent looks each half minute.
    wait::until_within(Duration::from_secs(60), &format!("{ranges:?}"), || {
        let told = told(&world);
        if is_right(&told) { Ok(()) } else { Err(told) }
    });
    assert!(!page(&world).contains("port=\"dns\",direction="), "{}", page(&world));
    drop(agent);
    assert_eq!(counting(&world), 1, "the next agent may want it");
    let _agent = world.agent();
    assert_eq!(counting(&world), 0, "nobody wants it any more");
    assert!(!world.bpffs().join("links/count_bytes").exists());
    assert_eq!(told(&world), BTreeMap::new());
    exchange(&mut client, "10.96.0.1:80", 1_000);
}
