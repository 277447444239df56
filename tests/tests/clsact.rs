//! Programs at devices as filters, which kernels before 6.6 need, beside filters and disciplines of others.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeSet;

use sluice_tests::{
    outside::Outside,
    peer::Command,
    wait,
    world::{Node, ip, text, tool},
};

const CLSACT: [&str; 2] = ["--tc", "clsact"];
const BOTH: [&str; 2] = ["ingress", "egress"];

/// Runs `tc` in the node's namespace.
fn tc(node: &Node, words: &str) -> String {
    let output = tool("tc").args(["-n", &node.host.netns]).args(words.split(' ')).output().unwrap();
    assert!(output.status.success(), "tc {words}: {}", text(&output));
    text(&output)
}

/// The kernel's ids of our programs at eth0, ingress and egress.
fn ids(node: &Node) -> Vec<String> {
    let lines = BOTH.map(|direction| tc(node, &format!("filter show dev eth0 {direction}")));
    let ours = lines.iter().flat_map(|text| text.lines()).filter(|line| line.contains("sluice/"));
    let ids = ours.filter_map(|line| line.split(" id ").nth(1)?.split(' ').next());
    ids.map(str::to_owned).collect()
}

fn has_qdisc(node: &Node, device: &str) -> bool {
    tc(node, &format!("qdisc show dev {device}")).contains("clsact")
}

/// Hooks of tc in `sluice status`, without the devices.
fn hooks(node: &Node) -> BTreeSet<String> {
    let status = node.json(&["status"]);
    let rows = status["programs"].as_array().unwrap().iter();
    let hooks = rows.filter(|row| row["attached"] == true).map(|row| row["hook"].as_str().unwrap());
    hooks.filter(|hook| hook.ends_with("gress")).map(str::to_owned).collect()
}

fn set<const N: usize>(names: [&str; N]) -> BTreeSet<String> {
    names.map(str::to_owned).into()
}

#[test]
fn clients_outside_are_served_by_filters_and_cleanup_takes_all_of_it_away() {
    let mut outside = Outside::new(&[1, 2], &CLSACT);
    let node = outside.world.node(1);
    assert_eq!(hooks(node), set(["clsact/ingress", "clsact/egress"]));
    for [tcp, udp] in outside.dialled(1) {
        assert!(outside.client.tcp(&tcp).is_ok() && outside.client.udp(&udp).is_ok(), "{tcp}");
    }
    outside.agents.remove(0).kill();
    let [tcp, udp] = outside.dialled(1)[0].clone();
    assert!(outside.client.tcp(&tcp).is_ok() && outside.client.udp(&udp).is_ok(), "with the agent away");
    let node = outside.world.node(1);
    assert_eq!(hooks(node), set(["clsact/ingress", "clsact/egress"]), "without an agent too");
    assert!(node.sluice(&["cleanup"]).status.success());
    assert_eq!(ids(node), [""; 0]);
    assert!(!has_qdisc(node, "eth0") && !has_qdisc(node, "vxlan0") && !has_qdisc(node, "pod1"));
    assert_eq!(outside.client.tcp(&tcp), Err("ECONNREFUSED".to_owned()), "nobody listens there");
}

#[test]
fn a_new_agent_takes_the_filters_over_in_place() {
    let mut outside = Outside::new(&[1, 2], &CLSACT);
    let to = outside.dialled(1)[0][0].clone();
    let mut client = outside.world.client().peer();
    let id = client.id();
    let first = client.command(&Command::Tcp { id, to: to.parse().unwrap() }).unwrap();
    let before = ids(outside.world.node(1));
    assert_eq!(before.len(), 2, "{before:?}");
    outside.agents.remove(0).kill();
    assert_eq!(client.command(&Command::AskAgain { id }).as_ref(), Ok(&first), "with the agent away");
    outside.agents.insert(0, outside.world.node(1).agent_with(&CLSACT));
    let after = ids(outside.world.node(1));
    assert!(after.len() == 2 && after[0] != before[0] && after[1] != before[1], "{before:?} {after:?}");
    assert_eq!(client.command(&Command::AskAgain { id }).as_ref(), Ok(&first));
    assert!(client.tcp(&to).is_ok());
}

#[test]
fn filters_that_somebody_removed_are_put_back() {
    let mut outside = Outside::new(&[1, 2], &CLSACT);
    let to = outside.dialled(1)[0][0].clone();
    for words in ["filter del dev eth0 ingress", "qdisc del dev eth0 clsact"] {
        let node = outside.world.node(1);
        tc(node, words);
        assert!(ids(node).len() < 2, "{words}");
        wait::until(words, || if ids(node).len() == 2 { Ok(()) } else { Err(node.log()) });
        assert!(outside.client.tcp(&to).is_ok(), "{words}");
    }
}

#[test]
fn filters_and_disciplines_of_others_stay() {
    let mut outside = Outside::new(&[1], &["--tc", "clsact", "--devices", "none"]);
    let to = outside.dialled(1)[0][0].clone();
    outside.agents.remove(0).kill();
    let node = outside.world.node(1);
    // Somebody has a discipline already, and captures what passes.
    let netns = node.host.netns.clone();
    ip(&format!("-n {netns} link add capture type veth peer name captured"));
    ip(&format!("-n {netns} link set capture up"));
    tc(node, "qdisc add dev eth0 clsact");
    for direction in BOTH {
        let every = "protocol ip u32 match ip protocol 6 0xff action mirred egress mirror dev capture";
        tc(node, &format!("filter add dev eth0 {direction} {every}"));
    }
    let seen = |node: &Node| {
        BOTH.map(|direction| {
            let text = tc(node, &format!("-s filter show dev eth0 {direction}"));
            let mut counts = text.lines().filter_map(|line| line.trim().strip_prefix("Sent "));
            counts.next().map(|rest| rest.split(' ').nth(2).unwrap().parse::<u64>().unwrap())
        })
    };
    outside.agents.insert(0, node.agent_with(&CLSACT));
    let before = seen(outside.world.node(1));
    assert!(outside.client.tcp(&to).is_ok());
    let after = seen(outside.world.node(1));
    assert!(after[0] > before[0] && after[1] > before[1], "{before:?} {after:?}");
    outside.agents.remove(0).kill();
    let node = outside.world.node(1);
    assert!(node.sluice(&["cleanup"]).status.success());
    assert_eq!(ids(node), [""; 0]);
    assert!(has_qdisc(node, "eth0") && !has_qdisc(node, "pod1"));
    assert!(seen(node).iter().all(Option::is_some));
}

#[test]
fn an_agent_of_the_other_way_takes_over_and_leaves_nothing_twice() {
    let mut outside = Outside::new(&[1], &CLSACT);
    let to = outside.dialled(1)[0][0].clone();
    for (flags, want, filters) in [
        (&["--tc", "tcx"][..], set(["tc/ingress", "tc/egress"]), 0),
        (&CLSACT, set(["clsact/ingress", "clsact/egress"]), 2),
        (&["--tc", "auto"], set(["tc/ingress", "tc/egress"]), 0),
    ] {
        outside.agents.remove(0).kill();
        outside.agents.insert(0, outside.world.node(1).agent_with(flags));
        let node = outside.world.node(1);
        assert_eq!(hooks(node), want, "{flags:?}");
        assert_eq!(ids(node).len(), filters, "{flags:?}");
        assert_eq!(has_qdisc(node, "eth0"), filters > 0, "{flags:?}");
        assert!(outside.client.tcp(&to).is_ok(), "{flags:?}");
    }
}
