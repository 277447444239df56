//! Sluice comes to a node where kube-proxy translates connections: those that are open go on, with --beside-kube-proxy.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use sluice_tests::{
    manifest,
    peer::{Command, address},
    wait,
    world::{World, tool, tool_path},
};

const CONNECTIONS: usize = 8;

/// What kube-proxy in nftables mode comes to for one Service with one endpoint, in the node's network.
fn translate(world: &World, to: &str) {
    let rules = format!(
        "table ip others {{ chain services {{ type nat hook prerouting priority dstnat; \
         ip daddr 10.96.0.1 tcp dport 80 dnat to {to}:8080; }}; }}"
    );
    let mut command = tool("nsenter");
    command.arg(format!("--net=/run/netns/{}", world.node().netns)).arg(tool_path("nft")).arg(rules);
    let output = command.output().unwrap();
    assert!(output.status.success(), "nft: {}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn connections_that_kube_proxy_translates_go_on_when_sluice_comes() {
    let mut world = World::new();
    let servers: Vec<_> =
        (1..=4).map(|index| world.server(&format!("cart-{index}"), &[(8080, false)])).collect();
    let pod = world.pod("client");
    let mut client = world.peer(&pod);
    translate(&world, &servers[0].0.v4.to_string());
    let open: Vec<u32> = (0..CONNECTIONS)
        .map(|_| {
            let id = client.id();
            let answer = client.command(&Command::Tcp { id, to: address("10.96.0.1:80") }).unwrap();
            assert_eq!(answer.by, "cart-1");
            id
        })
        .collect();
    let pods = (1..).zip(&servers);
    let pods =
        pods.map(|(index, (pod, _))| manifest::pod(&format!("cart-{index}"), "cart", &[&pod.v4.to_string()]));
    world.apply("pods", &pods.collect::<String>());
    world.apply("shop", &manifest::service("cart", &["10.96.0.1"], &["http:80:8080"]));
    let manifests = world.manifests().display().to_string();
    let _agent = world.spawn_agent(&["--manifests", &manifests, "--beside-kube-proxy"]);
    world.wait_healthy();
    let count = |world: &World| {
        let rows = world.json(&["reasons"]);
        let row = rows.as_array().unwrap().iter().find(|row| row["name"] == "begun_elsewhere").cloned();
        row.unwrap()["count"].as_u64().unwrap()
    };
    // Programs come to pods' devices a moment after those at the cgroup: from then on packets meet them.
    wait::until("packets of open connections meet our programs", || {
        for id in &open {
            let answer = client.command(&Command::AskAgain { id: *id });
            assert_eq!(answer.map(|answer| answer.by), Ok("cart-1".to_owned()), "an open connection goes on");
        }
        let count = count(&world);
        if count >= CONNECTIONS as u64 { Ok(()) } else { Err(count) }
    });
    let mut by = std::collections::BTreeSet::new();
    wait::until("new ones are balanced", || {
        by.insert(client.tcp("10.96.0.1:80").map_err(|error| (error, by.clone()))?.by);
        if by.len() == 4 { Ok(()) } else { Err((String::new(), by.clone())) }
    });
}
