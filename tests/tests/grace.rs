//! Connections that are older than the rules for what they dialled: kept for a while, then ended. All others stay.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::time::{Duration, Instant};

use sluice_tests::{
    manifest,
    outside::Outside,
    peer::{Command, Outcome, Peer, address},
    shop::{Shop, shop},
    wait,
    world::{Node, World},
};

/// Only the redirector can tell clients apart by what they dialled.
const RULES: &str = "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\n\
    metadata: {name: cart, namespace: shop}\nspec:\n  hosts: [cart]\n  tcp:\n\
    \x20 - match: [{destinationSubnets: [0.0.0.0/0, \"::/0\"]}]\n    route: [{destination: {host: cart}}]\n";

/// The Service that gets rules, and one with the same pods that does not.
fn services() -> String {
    let cart = manifest::service("cart", &["10.96.0.1", "fd00:96::1"], &["tcp:80:8080"])
        .replace("spec:\n", "spec:\n  type: LoadBalancer\n")
        .replace("port: 80,", "port: 80, nodePort: 30080,");
    let other = manifest::service("other", &["10.96.0.3"], &["tcp:80:8080"])
        .replace("spec:\n", "spec:\n  type: NodePort\n")
        .replace("port: 80,", "port: 80, nodePort: 30090,")
        .replace("app: other", "app: cart");
    cart + "status: {loadBalancer: {ingress: [{ip: 198.51.100.7}]}}\n" + &other
}

fn open(peer: &mut Peer, to: &str) -> u32 {
    let id = peer.id();
    wait::until(to, || peer.command(&Command::Tcp { id, to: address(to) }));
    id
}

fn ask(peer: &mut Peer, id: u32) -> Outcome {
    peer.command(&Command::AskAgain { id })
}

/// Waits until the connection is ended, and not only silent.
fn wait_ended(peer: &mut Peer, id: u32, case: &str) -> String {
    wait::until(case, || match ask(peer, id) {
        Err(error) if error != "timeout" => Ok(error),
        outcome => Err(outcome),
    })
}

fn wait_ruled(node: &Node) {
    wait::until("rules hold", || {
        let rows = node.json(&["frontend"]);
        let of_cart = |row: &&serde_json::Value| row["protocol"] == "TCP" && row["service"] == "shop/cart";
        let mut tcp = rows.as_array().unwrap().iter().filter(of_cart).peekable();
        let right = tcp.peek().is_some() && tcp.all(|row| row["path"] == "redirector");
        if right { Ok(()) } else { Err((rows, node.log())) }
    });
}

fn count(node: &Node, reason: &str) -> u64 {
    let rows = node.json(&["reasons"]);
    rows.as_array().unwrap().iter().find(|row| row["name"] == reason).unwrap()["count"].as_u64().unwrap()
}

fn wait_metric(node: &Node, name: &str, right: impl Fn(usize) -> bool) {
    wait::until(name, || {
        let curl = node.host.command("curl").args(["-s", "http://127.0.0.1:10249/metrics"]).output().unwrap();
        let text = String::from_utf8(curl.stdout).unwrap();
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
        if value.is_some_and(&right) { Ok(()) } else { Err((value, node.log())) }
    });
}

fn plain_shop(count: usize) -> Shop {
    let mut shop = shop(count);
    shop.kill_agent();
    shop.world.apply("shop", &services());
    shop
}

/// As pods and the node dial it.
fn addresses(world: &World) -> [String; 6] {
    let node = world.node();
    [
        "10.96.0.1:80".to_owned(),
        "[fd00:96::1]:80".to_owned(),
        "[::ffff:10.96.0.1]:80".to_owned(),
        "198.51.100.7:80".to_owned(),
        format!("{}:30080", node.v4),
        format!("[{}]:30080", node.v6),
    ]
}

#[test]
fn connections_from_before_the_rules_end_when_their_time_is_over_and_no_others() {
    const TIME: Duration = Duration::from_secs(5);
    let mut shop = plain_shop(2);
    let _agent = shop.world.agent_with(&["--l7-grace", "5"]);
    let mut host = shop.world.peer(shop.world.node());
    let mut old = Vec::new();
    for to in addresses(&shop.world) {
        old.push(("pod", to.clone(), open(&mut shop.client, &to)));
        old.push(("node", to.clone(), open(&mut host, &to)));
    }
    old.push(("node", "loopback".to_owned(), open(&mut host, "127.0.0.1:30080")));
    let pod = format!("{}:8080", shop.pods[0].0.v4);
    let others = ["10.96.0.3:80", &format!("{}:30090", shop.world.node().v4), &pod];
    let mut stay = others.map(|to| open(&mut shop.client, to)).to_vec();
    let start = Instant::now();
    shop.world.apply("rules", RULES);
    wait_ruled(&shop.world);
    // The second one is led to the redirector by the cluster IP: its backend is no endpoint.
    stay.extend(["10.96.0.1:80", "198.51.100.7:80"].map(|to| open(&mut shop.client, to)));
    for (who, to, id) in &old {
        let peer = if *who == "pod" { &mut shop.client } else { &mut host };
        let outcome = ask(peer, *id);
        assert!(outcome.is_ok() || start.elapsed() >= TIME, "{who} to {to} is kept: {outcome:?}");
    }
    for (who, to, id) in &old {
        let peer = if *who == "pod" { &mut shop.client } else { &mut host };
        wait_ended(peer, *id, &format!("{who} to {to}"));
    }
    assert!(start.elapsed() >= TIME);
    wait_metric(&shop.world, "sluice_sockets_destroyed_total", |count| count == old.len());
    for id in stay {
        let outcome = ask(&mut shop.client, id);
        assert!(outcome.is_ok(), "{id} stays: {outcome:?}");
    }
    let before = count(&shop.world, "steered");
    assert!(shop.client.tcp("10.96.0.1:80").is_ok());
    assert_eq!(count(&shop.world, "steered"), before + 1, "a new one meets the rules");
}

#[test]
fn with_never_they_are_kept_and_an_agent_that_starts_anew_begins_the_time_anew() {
    let mut shop = plain_shop(1);
    let agent = shop.world.agent_with(&["--l7-grace", "never"]);
    let id = open(&mut shop.client, "10.96.0.1:80");
    shop.world.apply("rules", RULES);
    wait_ruled(&shop.world);
    assert!(ask(&mut shop.client, id).is_ok());
    drop(agent);
    let _agent = shop.world.agent_with(&["--l7-grace", "0"]);
    wait_ended(&mut shop.client, id, "of a port that had rules before");
}

#[test]
fn clients_outside_are_reset_with_their_next_packet_and_other_services_are_not() {
    let mut outside = Outside::new(&[1, 2], &["--l7-grace", "0"]);
    let other = services().split("---\n").last().unwrap().to_owned();
    let text = outside.text("").replace("{name: http,", "{name: tcp,");
    outside.world.apply("shop", &(text + "---\n" + &other));
    let node_port = format!("{}:30090", outside.world.node(1).host.v4);
    let stays = open(&mut outside.client, &node_port);
    let dialled: Vec<String> = outside.dialled(1).into_iter().map(|[tcp, _]| tcp).collect();
    let old: Vec<u32> = dialled.iter().map(|to| open(&mut outside.client, to)).collect();
    outside.world.apply("rules", RULES);
    wait_ruled(outside.world.node(1));
    for (to, id) in dialled.iter().zip(&old) {
        let error = wait_ended(&mut outside.client, *id, to);
        assert!(error.contains("reset") || error.contains("Broken pipe"), "{to}: {error}");
    }
    wait_metric(outside.world.node(1), "sluice_flows_removed_total{reason=\"ruled\"}", |count| {
        count >= old.len()
    });
    assert!(ask(&mut outside.client, stays).is_ok(), "another Service with the same pods");
    let before = count(outside.world.node(1), "steered");
    for to in &dialled {
        let outcome = outside.client.tcp(to);
        assert!(outcome.is_ok(), "{to}: {outcome:?}");
    }
    assert_eq!(count(outside.world.node(1), "steered"), before + dialled.len() as u64);
}
