//! A bond and a VLAN on it, as many nodes are wired. Few machines for tests have such devices: `cargo xtask test --kernels` has.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeSet;

use sluice_tests::{
    outside::{Outside, until},
    wait,
    world::{Node, ip},
};

/// The programs at a device, by its name.
fn programs(node: &Node, device: &str) -> BTreeSet<String> {
    let status = node.json(&["status"]);
    let rows = status["programs"].as_array().unwrap().iter();
    let here = rows.filter(|row| row["target"] == device && row["attached"] == true);
    here.map(|row| row["name"].as_str().unwrap().to_owned()).collect()
}

fn wait_programs(node: &Node, device: &str, want: &[&str]) {
    let want: BTreeSet<String> = want.iter().map(|name| (*name).to_owned()).collect();
    wait::until(&format!("{device} has {want:?}"), || match programs(node, device) {
        met if met == want => Ok(()),
        met => Err((met, node.json(&["status"])["programs"].clone())),
    });
}

#[test]
#[ignore = "wants a kernel with bonding and 8021q: `cargo xtask test --kernels` boots such"]
fn services_are_reached_by_a_bond_and_by_a_vlan_on_it() {
    const OF_NODE: [&str; 2] = ["from_network", "to_network"];
    let mut outside = Outside::new(&[1], &[]);
    let (client, node) = (outside.world.client().netns.clone(), outside.world.node(1));
    let netns = &node.host.netns;
    ip(&format!("-n {netns} link add bond0 type bond mode active-backup miimon 50"));
    ip(&format!("-n {client} link add switch type bridge"));
    ip(&format!("-n {client} link set switch up"));
    for card in ["card0", "card1"] {
        ip(&format!("-n {netns} link add {card} type veth peer name {card} netns {client}"));
        ip(&format!("-n {netns} link set {card} master bond0"));
        ip(&format!("-n {client} link set {card} master switch up"));
    }
    ip(&format!("-n {netns} link set bond0 up"));
    for (netns, device, vlan, number) in [(netns, "bond0", "vlan5", 11), (&client, "switch", "vlan5", 2)] {
        ip(&format!("-n {netns} link add link {device} name {vlan} type vlan id 5"));
        ip(&format!("-n {netns} link set {vlan} up"));
        for (device, net) in [(device, 80), (vlan, 85)] {
            ip(&format!("-n {netns} addr add 192.168.{net}.{number}/24 dev {device}"));
            ip(&format!("-n {netns} addr add fd00:{net}::{number}/64 dev {device} nodad"));
        }
    }
    wait_programs(node, "bond0", &OF_NODE);
    wait_programs(node, "vlan5", &OF_NODE);
    for card in ["card0", "card1"] {
        wait_programs(node, card, &[]);
    }
    for (net, cut) in [(80, None), (85, None), (80, Some("card0")), (85, Some("card1"))] {
        // One of the cards is pulled, and the other goes on; then the other way round.
        for card in ["card0", "card1"] {
            let state = if cut == Some(card) { "down" } else { "up" };
            ip(&format!("-n {client} link set {card} {state}"));
        }
        for (to, by, via) in [
            ("203.0.113.10:80", "203.0.113.0/24", format!("192.168.{net}.11 src 192.168.{net}.2")),
            ("[2001:db8:50::10]:80", "2001:db8:50::/64", format!("fd00:{net}::11 src fd00:{net}::2")),
        ] {
            ip(&format!("-n {client} route replace {by} via {via}"));
            let own = via.rsplit(' ').next().unwrap();
            let _near = until(
                &format!("{to} by {net}, without {cut:?}"),
                || outside.client.tcp(to),
                |met| {
                    met.as_ref()
                        .is_ok_and(|answer| answer.by == "near" && answer.client_ip().to_string() == own)
                },
            );
        }
    }
}
