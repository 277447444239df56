//! Devices that come and go while the agent runs, those that flags name, and programs of others beside ours.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeSet;

use sluice_tests::{
    outside::{Outside, until},
    peer::Peer,
    wait,
    world::{Node, Pod, ip, text, tool},
};

/// Interface index of a device in a namespace.
fn index(netns: &str, device: &str) -> String {
    let output = tool("ip").args(["-n", netns, "-o", "link", "show", device]).output().unwrap();
    text(&output).split(':').next().unwrap().to_owned()
}

/// The programs at a device: those that are pinned, and filters.
fn programs(node: &Node, index: &str) -> BTreeSet<String> {
    let names = std::fs::read_dir(node.bpffs().join("links")).unwrap();
    let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let pinned = names.filter_map(|name| name.strip_prefix(&format!("device-{index}-")).map(str::to_owned));
    let output = tool("ip").args(["-n", &node.host.netns, "-o", "link"]).output().unwrap();
    let links = text(&output);
    let link = links.lines().find_map(|line| line.strip_prefix(&format!("{index}: ")));
    let device = link.and_then(|rest| rest.split([':', '@']).next());
    let status = node.json(&["status"]);
    let is_filter = |row: &&serde_json::Value| {
        row["hook"].as_str().unwrap().starts_with("clsact/")
            && row["attached"] == true
            && row["target"].as_str() == device
    };
    let rows = status["programs"].as_array().unwrap().iter().filter(is_filter);
    pinned.chain(rows.map(|row| row["name"].as_str().unwrap().to_owned())).collect()
}

/// Waits until these programs are at the device, and no others.
fn wait_programs(node: &Node, index: &str, want: &[&str]) {
    let want: BTreeSet<String> = want.iter().map(|name| (*name).to_owned()).collect();
    wait::until(&format!("device {index} has {want:?}"), || match programs(node, index) {
        met if met == want => Ok(()),
        met => Err(met),
    });
}

/// A client in the pod whose sockets no hook sees.
fn without_hooks(pod: &Pod) -> Peer {
    Pod { cgroup: sluice::loader::find_cgroup(None).unwrap(), ..pod.clone() }.peer()
}

const OF_NODE: [&str; 2] = ["from_network", "to_network"];
const OF_POD: [&str; 2] = ["from_pod", "to_pod"];

#[test]
fn pods_that_come_are_served_and_those_that_go_leave_no_pins() {
    let mut outside = Outside::new(&[1, 2], &[]);
    // Pods are numbered through: this is the third.
    let pod = outside.world.pod(1, "late");
    let node = outside.world.node(1);
    let of_pod = index(&node.host.netns, "pod3");
    wait_programs(node, &of_pod, &OF_POD);
    let mut client = without_hooks(&pod);
    for to in ["10.96.0.1:80", "[fd00:10:96::1]:80"] {
        assert!(client.tcp(to).is_ok(), "{to}");
    }
    drop(client);
    ip(&format!("-n {} link del pod3", node.host.netns));
    wait_programs(node, &of_pod, &[]);
    node.wait_healthy();
}

#[test]
fn a_device_that_is_added_later_is_balanced_at_and_one_that_goes_leaves_no_pins() {
    let mut outside = Outside::new(&[1, 2], &[]);
    let (client, node) = (outside.world.client().netns.clone(), outside.world.node(1));
    let netns = &node.host.netns;
    ip(&format!("-n {netns} link add link eth0 name second type macvlan mode bridge"));
    ip(&format!("-n {netns} link set second up"));
    for (netns, device, number) in [(&client, "eth0", 2), (netns, "second", 11)] {
        ip(&format!("-n {netns} addr add 192.168.70.{number}/24 dev {device}"));
        ip(&format!("-n {netns} addr add fd00:70::{number}/64 dev {device}"));
    }
    let second = index(netns, "second");
    wait_programs(node, &second, &OF_NODE);
    ip(&format!("-n {client} route replace 203.0.113.0/24 via 192.168.70.11 src 192.168.70.2"));
    ip(&format!("-n {client} route replace 2001:db8:50::/64 via fd00:70::11 src fd00:70::2"));
    for to in ["203.0.113.10:80", "[2001:db8:50::10]:80"] {
        let mut met = BTreeSet::new();
        let _both = until(
            to,
            || {
                met.extend(outside.client.tcp(to).map(|answer| answer.by).ok());
                met.len()
            },
            |count| *count == 2,
        );
        let own = if to.starts_with('[') { "fd00:70::2" } else { "192.168.70.2" };
        let _near = until(
            to,
            || outside.client.tcp(to),
            |met| {
                met.as_ref().is_ok_and(|answer| answer.by == "near" && answer.client_ip().to_string() == own)
            },
        );
    }
    ip(&format!("-n {} link del second", node.host.netns));
    wait_programs(node, &second, &[]);
    outside.world.route_services_to(1);
    assert!(outside.client.tcp("203.0.113.10:80").is_ok(), "by the wire again");
}

#[test]
fn a_second_wire_with_a_default_route_is_the_nodes_own() {
    let outside = Outside::new(&[1], &[]);
    let (client, node) = (outside.world.client().clone(), outside.world.node(1));
    let netns = &node.host.netns;
    ip(&format!("-n {netns} link add eth1 type veth peer name eth1 netns {}", client.netns));
    for (netns, number) in [(&client.netns, 2), (netns, 11)] {
        ip(&format!("-n {netns} addr add 192.168.60.{number}/24 dev eth1"));
        ip(&format!("-n {netns} link set eth1 up"));
    }
    let second = index(netns, "eth1");
    // The end of a wire into another namespace looks like a pod's, until it is known better.
    wait_programs(node, &second, &OF_POD);
    ip(&format!("-n {netns} route add default via 192.168.60.2 dev eth1 metric 2000"));
    wait_programs(node, &second, &OF_NODE);
    ip(&format!("-n {} route replace 203.0.113.0/24 via 192.168.60.11", client.netns));
    let answer = client.peer().tcp("203.0.113.10:80").unwrap();
    assert_eq!(answer.client_ip().to_string(), "192.168.60.2");
}

#[test]
fn flags_name_the_devices() {
    for (flags, eth0, overlay, pod) in [
        (&["--devices", "eth0"][..], &OF_NODE[..], &[][..], &OF_POD[..]),
        (&["--pod-devices", "none"], &OF_NODE, &OF_NODE, &[]),
        (&["--pod-devices", "pod*"], &OF_NODE, &OF_NODE, &OF_POD),
        (&["--pod-devices", "cali*"], &OF_NODE, &OF_NODE, &[]),
        (&["--devices", "vxlan0", "--pod-devices", "none"], &[], &OF_NODE, &[]),
    ] {
        let mut outside = Outside::new(&[1], flags);
        let node = outside.world.node(1);
        for (device, want) in [("eth0", eth0), ("vxlan0", overlay), ("pod1", pod)] {
            println!("{flags:?} {device}");
            wait_programs(node, &index(&node.host.netns, device), want);
        }
        let node_port = outside.dialled(1)[0][0].clone();
        assert_eq!(outside.client.tcp(&node_port).is_ok(), !eth0.is_empty(), "{flags:?}");
    }
}

#[test]
fn a_device_that_flags_name_and_nobody_has_is_a_warning_until_it_comes() {
    let outside = Outside::new(&[1], &["--devices", "eth0,eth7", "--pod-devices", "cali*"]);
    let (node, client) = (outside.world.node(1), outside.world.client().netns.clone());
    let warnings = || node.json(&["status"])["warnings"].to_string();
    let told = |wanted: [bool; 2]| {
        wait::until(&format!("told: {wanted:?}"), || {
            let text = warnings();
            let of_node = text.contains("--devices eth7: there is no such device");
            let of_pods = text.contains("--pod-devices cali*: no device has such a name");
            if [of_node, of_pods] == wanted { Ok(()) } else { Err(text) }
        });
    };
    told([true, true]);
    assert_eq!(node.json(&["status"])["healthy"], true);
    let netns = &node.host.netns;
    ip(&format!("-n {netns} link add eth7 type veth peer name eth7 netns {client}"));
    told([false, true]);
    wait_programs(node, &index(netns, "eth7"), &OF_NODE);
    ip(&format!("-n {netns} link add cali1 type veth peer name cali1 netns {client}"));
    told([false, false]);
    ip(&format!("-n {netns} link del eth7"));
    told([true, false]);
}

#[test]
fn a_device_without_xdp_in_its_driver_is_a_warning_and_is_balanced_at_by_tc() {
    let mut outside = Outside::new(&[1, 2], &["--xdp", "native"]);
    let node = outside.world.node(1);
    let early = ["early_native", "from_network", "to_network"];
    wait_programs(node, &index(&node.host.netns, "eth0"), &early);
    wait_programs(node, &index(&node.host.netns, "vxlan0"), &OF_NODE);
    let status = node.json(&["status"]);
    assert_eq!(status["healthy"], true, "{status}");
    let warnings = status["warnings"].as_array().unwrap();
    let about = |text: &str| warnings.iter().any(|warning| warning.as_str().unwrap().starts_with(text));
    assert!(about("vxlan0: packets are balanced by tc alone: no XDP in its driver"), "{status}");
    assert!(!about("eth0"), "{status}");
    for [tcp, udp] in outside.dialled(1) {
        assert!(outside.client.tcp(&tcp).is_ok() && outside.client.udp(&udp).is_ok(), "{tcp}");
    }
}

#[test]
fn a_device_that_has_somebody_elses_xdp_program_is_told_apart_from_one_without_xdp() {
    let mut outside = Outside::new(&[1], &["--xdp", "native"]);
    let of_eth0 = index(&outside.world.node(1).host.netns, "eth0");
    let pins = outside.world.node(1).bpffs();
    let (own, others) = (pins.join(format!("links/device-{of_eth0}-early_native")), pins.join("somebodys"));
    outside.agents.remove(0).kill();
    // A link that no agent knows holds on to its program.
    std::fs::rename(&own, &others).unwrap();
    let manifests = outside.world.node(1).manifests().display().to_string();
    let node = outside.world.node(1);
    let _agent = node.spawn_agent(&["--manifests", &manifests, "--xdp", "native"]);
    wait::until("a problem", || {
        let output = node.sluice(&["status", "-o", "json"]);
        let status: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        let problems = status["problems"].to_string();
        let named = problems.contains("eth0 (xdp/native): another XDP program is at the device already");
        if named { Ok(()) } else { Err(text(&output)) }
    });
    std::fs::remove_file(&others).unwrap();
    node.wait_healthy();
    wait_programs(node, &of_eth0, &["early_native", "from_network", "to_network"]);
}

#[test]
fn a_veth_that_xdp_auto_leaves_to_tc_is_named() {
    let outside = Outside::new(&[1], &["--xdp", "auto"]);
    let node = outside.world.node(1);
    wait_programs(node, &index(&node.host.netns, "eth0"), &OF_NODE);
    let warnings = node.json(&["status"])["warnings"].to_string();
    assert!(
        warnings.contains("eth0: packets are balanced by tc alone: a veth leaves checksums"),
        "{warnings}"
    );
}

/// Runs `tc` in the node's namespace.
fn tc(node: &Node, words: &str) -> String {
    let output = tool("tc").args(["-n", &node.host.netns]).args(words.split(' ')).output().unwrap();
    assert!(output.status.success(), "tc {words}: {}", text(&output));
    text(&output)
}

/// Packets that the filter has seen.
fn seen(node: &Node, direction: &str) -> u64 {
    let text = tc(node, &format!("-s filter show dev eth0 {direction}"));
    let sent =
        text.lines().find_map(|line| line.trim().strip_prefix("Sent ")).unwrap_or_else(|| panic!("{text}"));
    sent.split(' ').nth(2).unwrap().parse().unwrap()
}

#[test]
fn programs_of_others_at_the_same_device_go_on() {
    let mut outside = Outside::new(&[1], &[]);
    let netns = outside.world.node(1).host.netns.clone();
    let node = outside.world.node(1);
    // Somebody captures what passes, by mirroring it to a wire of his own.
    ip(&format!("-n {netns} link add capture type veth peer name captured"));
    ip(&format!("-n {netns} link set capture up"));
    ip(&format!("-n {netns} link set captured up"));
    // There already, where our own are filters.
    tc(node, "qdisc replace dev eth0 clsact");
    for direction in ["ingress", "egress"] {
        let every =
            "protocol ip pref 40000 u32 match ip protocol 6 0xff action mirred egress mirror dev capture";
        tc(node, &format!("filter add dev eth0 {direction} {every}"));
    }
    let before = ["ingress", "egress"].map(|direction| seen(node, direction));
    let to = outside.dialled(1)[0][0].clone();
    assert!(outside.client.tcp(&to).is_ok());
    let node = outside.world.node(1);
    let after = ["ingress", "egress"].map(|direction| seen(node, direction));
    assert!(after[0] > before[0] && after[1] > before[1], "{before:?} {after:?}");
    // And the agent's end takes nothing of theirs away.
    outside.agents.remove(0).kill();
    let node = outside.world.node(1);
    assert!(node.sluice(&["cleanup"]).status.success());
    tc(node, "qdisc del dev eth0 clsact");
}
