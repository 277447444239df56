//! Services that become something else, and news in any order: what counts is what there is.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeSet;

use sluice_tests::{
    canonical,
    cluster::{Cluster, on_every_api_server},
    manifest,
    peer::{Command, address},
    reference::{Random, ZONE},
    wait,
    world::ip,
};

const KINDS: [&str; 5] = ["ClusterIP", "NodePort", "LoadBalancer", "headless", "ExternalName"];

/// Every kind after every other, each pair once.
const WALK: [usize; 21] = [0, 1, 0, 2, 0, 3, 0, 4, 1, 2, 1, 3, 1, 4, 2, 3, 2, 4, 3, 4, 0];

/// shop/cart as one of [`KINDS`], with whatever it may have had as another.
fn service(kind: &str) -> String {
    let (address, spec) = match kind {
        "headless" => ("None", "  type: ClusterIP\n".to_owned()),
        "ExternalName" => {
            ("10.96.0.1", "  type: ExternalName\n  externalName: shop.example.com\n".to_owned())
        }
        other => ("10.96.0.1", format!("  type: {other}\n")),
    };
    let text = manifest::service("cart", &[address], &["http:80:8080"])
        .replace("spec:\n", &format!("spec:\n  externalIPs: [192.0.2.9]\n{spec}"))
        .replace("port: 80,", "port: 80, nodePort: 30080,");
    text + "status: {loadBalancer: {ingress: [{ip: 203.0.113.9}]}}\n"
}

/// Where it is dialled, and as which kinds that is its own.
fn destinations(cluster: &Cluster) -> Vec<(String, Vec<&'static str>)> {
    let node = cluster.world.node().v4;
    vec![
        ("10.96.0.1:80".to_owned(), vec!["ClusterIP", "NodePort", "LoadBalancer"]),
        ("192.0.2.9:80".to_owned(), vec!["ClusterIP", "NodePort", "LoadBalancer"]),
        (format!("{node}:30080"), vec!["NodePort", "LoadBalancer"]),
        ("203.0.113.9:80".to_owned(), vec!["LoadBalancer"]),
        (format!("{}:80", cluster.pods[0].0.v4), vec!["headless"]),
    ]
}

#[test]
fn a_service_that_changes_its_type_has_the_addresses_of_the_new_one_and_no_others() {
    let pairs: BTreeSet<&[usize]> = WALK.windows(2).collect();
    assert_eq!(pairs.len(), KINDS.len() * (KINDS.len() - 1), "every kind after every other");
    let mut cluster = Cluster::new();
    let netns = cluster.world.find("client").netns.clone();
    for network in ["10.96.0.0/16", "192.0.2.0/24", "203.0.113.0/24"] {
        // What passes untranslated fails at once instead of after a time-out.
        ip(&format!("-n {netns} route add unreachable {network}"));
    }
    cluster.api.apply(&cluster.slice("cart", 2, &[]));
    let pods = cluster.pods.iter().map(|(pod, _)| manifest::pod(&pod.name, "cart", &[&pod.v4.to_string()]));
    cluster.api.apply(&pods.collect::<String>());
    cluster.api.apply(&service(KINDS[0]));
    let _agent = cluster.agent();
    cluster.world.wait_verdict("10.96.0.1:80", "translate", 2);
    let open = cluster.client.id();
    let by = cluster.client.command(&Command::Tcp { id: open, to: address("10.96.0.1:80") }).unwrap();
    for pair in WALK.windows(2) {
        let (before, kind) = (KINDS[pair[0]], KINDS[pair[1]]);
        cluster.api.apply(&service(kind));
        for (to, kinds) in destinations(&cluster) {
            let case = format!("{to}, {before} that became {kind}");
            let ours = kinds.contains(&kind);
            // A headless Service's address is one pod's.
            let count = if kind == "headless" { 1 } else { 2 };
            let (verdict, count) = if ours { ("translate", count) } else { ("pass", 0) };
            cluster.world.wait_verdict(&to, verdict, count);
            match cluster.client.tcp(&to) {
                Ok(answer) => assert!(ours && answer.by.starts_with("cart-"), "{case}: {answer:?}"),
                Err(error) => assert!(!ours, "{case}: {error}"),
            }
        }
        // An unknown port of a cluster IP is refused; an address that nobody has is not ours.
        let other = if matches!(kind, "headless" | "ExternalName") { "pass" } else { "reject" };
        cluster.world.wait_verdict("10.96.0.1:81", other, 0);
        assert_eq!(
            cluster.client.tcp("10.96.0.1:81").unwrap_err() == "ECONNREFUSED",
            other == "reject",
            "{before} that became {kind}"
        );
        let again = cluster.client.command(&Command::AskAgain { id: open });
        assert_eq!(again, Ok(by.clone()), "an open connection goes on: {before} that became {kind}");
    }
}

/// Objects that touch each other: an address that two want, an endpoint in two slices, hints, this node's zone.
fn entangled(cluster: &Cluster) -> Vec<(&'static str, &'static str, String)> {
    let service = |name: &str, address: &str, spec: &str| {
        let text = manifest::service(name, &[address], &["http:80:8080"]);
        text.replace("spec:\n", &format!("spec:\n{spec}"))
    };
    let unready = cluster.slice("cart", 1, &["elsewhere"]).replace("cart-1,", "cart-2,");
    let vip = "  type: LoadBalancer\n  allocateLoadBalancerNodePorts: false\n";
    let zone = format!("{{topology.kubernetes.io/zone: {ZONE}}}");
    vec![
        ("Service", "shop/cart", service("cart", "10.96.0.1", "  externalIPs: [192.0.2.1, 10.96.0.2]\n")),
        (
            "Service",
            "shop/vip",
            service("vip", "10.96.0.2", vip) + "status: {loadBalancer: {ingress: [{ip: 192.0.2.1}]}}\n",
        ),
        ("Service", "shop/bare", manifest::headless("bare", &["http:80:8080"])),
        ("EndpointSlice", "shop/cart-1", cluster.slice("cart", 2, &[ZONE, "elsewhere"])),
        ("EndpointSlice", "shop/cart-2", unready.replace("\"ready\":true", "\"ready\":false")),
        ("EndpointSlice", "shop/vip-1", cluster.slice("vip", 1, &[])),
        ("EndpointSlice", "shop/bare-1", cluster.slice("bare", 1, &[])),
        ("Pod", "shop/bare-1", manifest::pod("bare-1", "bare", &[&cluster.pods[0].0.v4.to_string()])),
        (
            "Node",
            "node-1",
            format!("apiVersion: v1\nkind: Node\nmetadata: {{name: node-1, labels: {zone}}}\n"),
        ),
    ]
}

#[test]
fn whatever_the_order_in_which_objects_come_and_go_the_maps_say_the_same() {
    let seed =
        std::env::var("SLUICE_SEED").map_or(u64::from(std::process::id()), |seed| seed.parse().unwrap());
    println!("SLUICE_SEED={seed}");
    on_every_api_server(|cluster| in_any_order(&cluster, seed));
}

fn in_any_order(cluster: &Cluster, seed: u64) {
    let mut random = Random::new(seed);
    let mut objects = entangled(cluster);
    for (_, _, text) in &objects {
        cluster.api.apply(text);
    }
    let _agent = cluster.agent();
    // Pods are asked for once a headless Service needs them.
    cluster.world.wait_verdict(&format!("{}:80", cluster.pods[0].0.v4), "translate", 1);
    let contents = || {
        cluster.catch_up();
        wait::until("maps at rest", || {
            canonical::contents(&cluster.world).map_err(|error| format!("{error:#}"))
        })
    };
    let wanted = contents();
    assert!(wanted.iter().filter(|line| line.starts_with("frontend")).count() >= 4, "{wanted:#?}");
    let shuffle = |objects: &mut Vec<_>, random: &mut Random| {
        for index in (1..objects.len()).rev() {
            objects.swap(index, random.below(index as u64 + 1) as usize);
        }
    };
    for round in 0..12 {
        shuffle(&mut objects, &mut random);
        // The node stays: what is known of it is kept.
        let gone: Vec<_> = objects.iter().filter(|(kind, _, _)| *kind != "Node").collect();
        for (kind, name, _) in &gone[..=random.below(gone.len() as u64 - 1) as usize] {
            cluster.api.delete(kind, name);
        }
        if random.once_in(2) {
            cluster.catch_up();
        }
        shuffle(&mut objects, &mut random);
        for (_, _, text) in &objects {
            cluster.api.apply(text);
        }
        let order: Vec<_> = objects.iter().map(|(_, name, _)| *name).collect();
        // Some of it comes in the wake of the rest, such as ports that pods declare.
        wait::until("the same contents", || {
            let difference = canonical::difference(&contents(), &wanted);
            if difference.is_empty() {
                return Ok(());
            }
            Err(format!("SLUICE_SEED={seed}, round {round}: {order:?}\n{difference}"))
        });
    }
}
