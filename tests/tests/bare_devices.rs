//! Devices whose packets have no Ethernet header: clients behind one, endpoints behind one, and both. tun stands for
//! WireGuard, IPIP and the like, which show packets to programs in the same way.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeSet;

use sluice_tests::{
    outside::{Outside, seen, until},
    wait,
    world::{Pod, Tun, ip, tool_path},
};

const CLIENTS: u8 = 80;
const NODES: u8 = 81;

/// A tun between client and node-1, by which the client sends everything to Services and to node-1.
fn client_behind(outside: &Outside) -> Tun {
    let (client, node) = (outside.world.client(), outside.world.node(1));
    let tun = outside.world.tun("tun0", CLIENTS, [&node.host, client]);
    let [v4, v6] = Tun::addresses(CLIENTS, 2);
    let [host_v4, host_v6] = node.host.addresses();
    let to = ["203.0.113.0/24", "10.96.0.0/16", &host_v4, "2001:db8:50::/64", "fd00:10:96::/112", &host_v6];
    for to in to {
        let src = if to.contains(':') { &v6 } else { &v4 };
        ip(&format!("-n {} route replace {to} dev tun0 src {src}", client.netns));
    }
    tun
}

/// A tun between the nodes, by which node-1 reaches the pod `far`.
fn nodes_behind(outside: &Outside) -> Tun {
    let [one, two] = [1, 2].map(|number| &outside.world.node(number).host);
    let tun = outside.world.tun("tun1", NODES, [one, two]);
    let far = &outside.pods.iter().find(|(pod, _)| pod.name == "far").unwrap().0;
    for address in far.addresses() {
        ip(&format!("-n {} route replace {address} dev tun1", one.netns));
    }
    tun
}

/// Waits until node-1 has its programs at the device.
fn wait_served(outside: &Outside, device: &str) {
    wait::until(&format!("programs at {device}"), || {
        let status = outside.world.node(1).json(&["status"]);
        let rows = status["programs"].as_array().unwrap();
        let at = |row: &&serde_json::Value| row["target"] == device && row["attached"] == true;
        let names: BTreeSet<&str> = rows.iter().filter(at).map(|row| row["name"].as_str().unwrap()).collect();
        if names == BTreeSet::from(["from_network", "to_network"]) { Ok(()) } else { Err(status) }
    });
}

/// The address in whose name node-1 speaks at its end of the tun between the nodes.
fn own_at_tun(to: &str) -> String {
    let [v4, v6] = Tun::addresses(NODES, 1);
    if to.starts_with('[') { v6 } else { v4 }
}

/// Dials each address of the Service by TCP and UDP until both pods have answered, who must see these clients.
fn both_answer(outside: &mut Outside, seen_by: impl Fn(&str, &str) -> String) {
    for to in dialled(outside) {
        for (udp, to) in [(false, &to[0]), (true, &to[1])] {
            let mut by = BTreeSet::new();
            wait::until(&format!("both pods answer at {to}"), || {
                let answer = if udp { outside.client.udp(to) } else { outside.client.tcp(to) };
                let answer = answer.unwrap_or_else(|error| panic!("{to}: {error}"));
                assert_eq!(seen(&answer), seen_by(&answer.by, to), "{to} by {}", answer.by);
                by.insert(answer.by);
                if by.len() == 2 { Ok(()) } else { Err(by.clone()) }
            });
        }
    }
}

/// What [`Outside::dialled`] says, whose routes by Ethernet would take the place of ours.
fn dialled(outside: &Outside) -> Vec<[String; 2]> {
    let [v4, v6] = outside.world.node(1).host.addresses();
    let at = |name: &str, ports: [u16; 2]| ports.map(|port| format!("{name}:{port}"));
    vec![
        at(&v4, [30_080, 30_053]),
        at(&format!("[{v6}]"), [30_080, 30_053]),
        at("203.0.113.10", [80, 53]),
        at("[2001:db8:50::10]", [80, 53]),
        at("10.96.0.1", [80, 53]),
        at("[fd00:10:96::1]", [80, 53]),
    ]
}

fn family(to: &str, of: [String; 2]) -> String {
    let [v4, v6] = of;
    if to.starts_with('[') { v6 } else { v4 }
}

/// Echoes so large that headers are cut from segments and put together, and that the path must tell its MTU.
fn carries_much(outside: &mut Outside) {
    let addresses = dialled(outside);
    let client = &mut outside.client;
    for [tcp, udp] in &addresses {
        for _ in 0..6 {
            client.tcp_echo(tcp, 1 << 20).unwrap_or_else(|error| panic!("1 MB to {tcp}: {error}"));
            for bytes in [1_200, 4_000] {
                // The first one learns of the MTU on the way.
                client
                    .udp_echo_again(udp, bytes)
                    .unwrap_or_else(|error| panic!("{bytes} bytes to {udp}: {error}"));
            }
        }
    }
}

#[test]
fn clients_behind_a_device_without_ethernet_headers_reach_pods_here_and_there() {
    let mut outside = Outside::new(&[1, 2], &[]);
    let _tun = client_behind(&outside);
    wait_served(&outside, "tun0");
    both_answer(&mut outside, |by, to| match by {
        "near" => family(to, Tun::addresses(CLIENTS, 2)),
        _ => family(to, ["10.244.1.0".to_owned(), "fd00:10:244:1::".to_owned()]),
    });
    carries_much(&mut outside);
}

#[test]
fn endpoints_behind_a_device_without_ethernet_headers_are_reached_from_ethernet() {
    let mut outside = Outside::new(&[1, 2], &[]);
    let _tun = nodes_behind(&outside);
    wait_served(&outside, "tun1");
    let own = outside.world.client().addresses();
    both_answer(&mut outside, |by, to| if by == "near" { family(to, own.clone()) } else { own_at_tun(to) });
    carries_much(&mut outside);
}

#[test]
fn clients_and_endpoints_may_both_be_behind_one() {
    let mut outside = Outside::new(&[1, 2], &[]);
    let _tuns = (client_behind(&outside), nodes_behind(&outside));
    for device in ["tun0", "tun1"] {
        wait_served(&outside, device);
    }
    both_answer(&mut outside, |by, to| match by {
        "near" => family(to, Tun::addresses(CLIENTS, 2)),
        _ => own_at_tun(to),
    });
    carries_much(&mut outside);
}

#[test]
fn the_node_itself_reaches_endpoints_behind_one_by_packets() {
    let outside = Outside::new(&[2], &[]);
    let _tun = nodes_behind(&outside);
    wait_served(&outside, "tun1");
    let host = &outside.world.node(1).host;
    // No hook sees its sockets.
    let mut client = Pod { cgroup: sluice::loader::find_cgroup(None).unwrap(), ..host.clone() }.peer();
    for to in ["10.96.0.1:80", "[fd00:10:96::1]:80", "203.0.113.10:80", "[2001:db8:50::10]:80"] {
        let answer = until(to, || client.tcp(to), Result::is_ok).unwrap();
        assert_eq!((answer.by.as_str(), seen(&answer)), ("far", own_at_tun(to)), "{to}");
    }
}

#[test]
fn tunnels_of_dsr_go_through_one_and_come_out_of_one() {
    let mut outside = Outside::new(&[1, 2], &["--forwarding", "dsr"]);
    let _tuns = (client_behind(&outside), nodes_behind(&outside));
    for device in ["tun0", "tun1"] {
        wait_served(&outside, device);
    }
    // node-2 answers the client itself, by the wire.
    let two = &outside.world.node(2).host;
    let [v4, v6] = outside.world.client().addresses();
    let own = Tun::addresses(CLIENTS, 2);
    for (address, via) in own.iter().zip([v4, v6]) {
        ip(&format!("-n {} route replace {address} via {via}", two.netns));
    }
    both_answer(&mut outside, |_, to| family(to, own.clone()));
}

#[test]
fn whoever_dials_in_vain_is_told_through_it() {
    let mut outside = Outside::new(&[1], &[]);
    let _tun = client_behind(&outside);
    wait_served(&outside, "tun0");
    let client = outside.world.client().clone();
    for address in ["10.96.0.1", "203.0.113.10", "fd00:10:96::1", "2001:db8:50::10"] {
        let to = if address.contains(':') { format!("[{address}]:81") } else { format!("{address}:81") };
        for outcome in [outside.client.tcp(&to), outside.client.udp_connected(&to)] {
            assert_eq!(outcome.map(|answer| answer.by), Err("ECONNREFUSED".to_owned()), "{to}");
        }
        let ping = client.command(&tool_path("ping")).args(["-c", "1", "-W", "5", address]).output().unwrap();
        assert!(ping.status.success(), "{address}: {}", String::from_utf8_lossy(&ping.stdout));
    }
}
