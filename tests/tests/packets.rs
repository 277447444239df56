//! What a client outside of the cluster meets, packet by packet: NodePorts, load balancer and external addresses, with
//! each way of forwarding. Kube-proxy's golden vectors are in `packet_vectors/`.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::{
    collections::BTreeSet,
    sync::atomic::{AtomicU16, Ordering},
};

use sluice_tests::{
    outside::{Outside, seen, until},
    peer::{Command, Outcome, Peer, address},
    world::{Pod, ip, tool_path},
};

/// Enough that an endpoint that may answer does, but for once in 65,000.
const DIALS: usize = 16;

/// Kinds of address in the order of [`Outside::dialled`], for each family.
const KINDS: [&str; 4] = ["NodePort", "LB", "ExternalIP", "ClusterIP"];

fn timed_out(outcome: &Outcome) -> bool {
    matches!(outcome, Err(error) if error == "timeout" || error == "ETIMEDOUT")
}

fn refused(outcome: &Outcome) -> bool {
    matches!(outcome, Err(error) if error == "ECONNREFUSED")
}

/// Below the ports that sockets get unasked, and NodePorts.
static NEXT_PORT: AtomicU16 = AtomicU16::new(20_000);

/// Who answers, and whether all of them see the client's own address.
fn answers(client: &mut Peer, [tcp, udp]: &[String; 2], own: &str) -> (BTreeSet<String>, bool) {
    let mut by = BTreeSet::new();
    let mut keeps_source = true;
    let any = if udp.starts_with('[') { "[::]" } else { "0.0.0.0" };
    for _ in 0..DIALS {
        // Each datagram from a port of its own: one that was used under an earlier policy is led where it was.
        let from = format!("{any}:{}", NEXT_PORT.fetch_add(1, Ordering::Relaxed));
        for (outcome, to) in [(client.tcp(tcp), tcp), (client.udp_from(&from, udp), udp)] {
            let answer = outcome.unwrap_or_else(|error| panic!("{to}: {error}"));
            keeps_source &= seen(&answer) == own;
            by.insert(answer.by);
        }
    }
    (by, keeps_source)
}

fn names(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[test]
fn a_client_outside_reaches_pods_by_every_address_of_a_service() {
    for (servers, name, xdp) in [
        (&[1][..], "near", "off"),
        (&[2][..], "far", "off"),
        (&[1], "near", "native"),
        (&[2], "far", "native"),
    ] {
        let mut outside = Outside::new(servers, &["--xdp", xdp]);
        for to in outside.dialled(1) {
            let own = outside.own_address(&to[0]);
            let met = answers(&mut outside.client, &to, &own);
            assert_eq!(met, (names(&[name]), name == "near"), "{}", to[0]);
        }
    }
}

#[test]
fn without_an_endpoint_clients_are_refused_and_without_a_local_one_dropped() {
    let mut outside = Outside::new(&[2], &[]);
    outside.apply("externalTrafficPolicy: Local");
    outside.wait_policy("externalTrafficPolicy: Local");
    for (to, kind) in outside.dialled(1).iter().zip(KINDS.iter().cycle()) {
        for outcome in [outside.client.tcp(&to[0]), outside.client.udp(&to[1])] {
            let right = if *kind == "ClusterIP" { outcome.is_ok() } else { timed_out(&outcome) };
            assert!(right, "external -> {kind} {}, eTP Local without a local endpoint: {outcome:?}", to[0]);
        }
    }
    outside.pods.clear();
    outside.apply("externalTrafficPolicy: Local");
    for (to, kind) in outside.dialled(1).iter().zip(KINDS.iter().cycle()) {
        let _refused = until(&to[0], || outside.client.tcp(&to[0]), refused);
        let outcome = outside.client.udp_connected(&to[1]);
        assert!(refused(&outcome), "external -> {kind} {}, no endpoints: {outcome:?}", to[1]);
    }
}

#[test]
fn ports_and_addresses_that_no_service_has_are_refused_and_cluster_ips_answer_ping() {
    let mut outside = Outside::new(&[1], &[]);
    let client = outside.world.client().clone();
    for address in ["10.96.0.1", "203.0.113.10", "203.0.113.20", "fd00:10:96::1", "2001:db8:50::10"] {
        let to = if address.contains(':') { format!("[{address}]:81") } else { format!("{address}:81") };
        assert!(refused(&outside.client.tcp(&to)), "{to}");
        assert!(refused(&outside.client.udp_connected(&to)), "{to}/udp");
        let ping = client.command(&tool_path("ping")).args(["-c", "1", "-W", "5", address]).output().unwrap();
        assert!(ping.status.success(), "{address}: {}", String::from_utf8_lossy(&ping.stdout));
    }
    // TCP only at port 80: UDP to it is a port that no Service has.
    assert!(refused(&outside.client.udp_connected("10.96.0.1:80")));
}

#[test]
fn source_ranges_admit_clients_to_load_balancer_addresses_only() {
    let mut outside = Outside::new(&[1], &[]);
    let (lb, node) = ("203.0.113.10:80", format!("{}:30080", outside.world.node(1).host.v4));
    for (ranges, admitted) in [
        ("[192.168.50.2/32]", true),
        ("[10.0.0.0/8]", false),
        ("[\" 192.168.050.000/30 \"]", true),
        ("[192.168.50.1/32, \"2001:db8::/32\", \"fd00:50::/64\"]", false),
        ("[]", true),
    ] {
        outside.apply(&format!("loadBalancerSourceRanges: {ranges}"));
        // Before it is dialled in earnest: a connection that is known stays so.
        let _settled = until(ranges, || outside.client.tcp(lb), |met| met.is_ok() == admitted);
        let met = outside.client.udp("203.0.113.10:53");
        assert_eq!(met.is_ok(), admitted, "{ranges}: {met:?}");
        assert!(outside.client.tcp(&node).is_ok(), "{ranges}: NodePorts are not restricted");
        let six = outside.client.tcp("[2001:db8:50::10]:80");
        assert!(six.is_ok(), "{ranges}: a list of the one family leaves the other open: {six:?}");
    }
}

/// Sends long streams and datagrams of every kind to servers on these nodes.
fn transfer(servers: &[usize], xdp: &str) {
    let mut outside = Outside::new(servers, &["--xdp", xdp]);
    for [tcp, udp] in outside.dialled(1) {
        outside.client.tcp_echo(&tcp, 4 << 20).unwrap_or_else(|error| panic!("{servers:?} {tcp}: {error}"));
        // Whole, in pieces, and in pieces that must become smaller: the sender is told, and sends again.
        for bytes in [64, 1400, 1422, 1450, 1473, 4000, 9000] {
            outside
                .client
                .udp_echo_again(&udp, bytes)
                .unwrap_or_else(|error| panic!("{servers:?} {udp} {bytes}: {error}"));
        }
    }
}

#[test]
fn long_transfers_and_large_datagrams_pass_to_this_node() {
    transfer(&[1], "off");
}

#[test]
fn long_transfers_and_large_datagrams_pass_to_another_node() {
    transfer(&[2], "off");
}

#[test]
fn long_transfers_and_large_datagrams_pass_through_xdp_in_the_driver() {
    transfer(&[2], "native");
}

#[test]
fn long_transfers_and_large_datagrams_pass_through_generic_xdp() {
    transfer(&[2], "generic");
}

#[test]
fn the_first_large_datagram_arrives_though_the_way_is_narrower_than_its_pieces() {
    let mut outside = Outside::new(&[2], &[]);
    let count = |outside: &Outside| {
        let rows = outside.world.node(1).json(&["reasons"]);
        let mut rows = rows.as_array().unwrap().iter();
        rows.find(|row| row["name"] == "left_to_stack").map_or(0, |row| row["count"].as_u64().unwrap())
    };
    // The overlay is 1,450 wide, the wire 1,500, and nobody has told the client yet.
    for to in ["203.0.113.10:53", "192.168.50.11:30053"] {
        let before = count(&outside);
        outside.client.udp_echo(to, 4_000).unwrap_or_else(|error| panic!("{to}: {error}"));
        assert!(count(&outside) > before, "{to}");
    }
}

/// A client in the pod whose sockets no hook sees, such as the kernel's own or a virtual machine's.
fn without_hooks(pod: &Pod) -> Peer {
    Pod { cgroup: sluice::loader::find_cgroup(None).unwrap(), ..pod.clone() }.peer()
}

#[test]
fn pods_whose_sockets_have_no_hook_reach_services_by_packets() {
    let mut outside = Outside::new(&[1, 2], &[]);
    let pod = outside.world.pod(1, "alone");
    let mut client = without_hooks(&pod);
    for (policy, text) in [
        ("eTP Cluster, iTP Cluster", ""),
        ("eTP Local", "externalTrafficPolicy: Local"),
        ("iTP Local", "internalTrafficPolicy: Local"),
    ] {
        outside.apply(text);
        outside.wait_policy(text);
        for (to, kind) in outside.dialled(1).iter().zip(KINDS.iter().cycle()) {
            let only_local = policy == "iTP Local" && *kind == "ClusterIP";
            let want = if only_local { names(&["near"]) } else { names(&["near", "far"]) };
            let own = &pod.addresses()[usize::from(to[0].starts_with('['))];
            let (by, keeps_source) = answers(&mut client, to, own);
            assert_eq!(by, want, "pod -> {kind} {}, {policy}", to[0]);
            assert!(keeps_source, "pod -> {kind} {}, {policy}: source", to[0]);
        }
    }
    assert!(refused(&client.tcp("10.96.0.1:81")), "an unknown port");
}

#[test]
fn a_pod_that_is_its_own_backend_reaches_itself_by_packets() {
    let outside = Outside::new(&[1], &[]);
    let pod = &outside.pods[0].0;
    let mut client = without_hooks(pod);
    for [tcp, udp] in outside.dialled(1) {
        for outcome in [client.tcp(&tcp), client.udp(&udp)] {
            let answer = outcome.unwrap_or_else(|error| panic!("{tcp}: {error}"));
            assert_eq!(answer.by, "near", "{tcp}");
            assert!(!pod.addresses().contains(&seen(&answer)), "its own address as the source: {answer:?}");
        }
    }
}

#[test]
fn with_direct_server_return_pods_of_other_nodes_see_the_client_and_answer_it_themselves() {
    for (mode, xdp, udp_too) in [("dsr", "off", true), ("hybrid", "off", false), ("dsr", "native", true)] {
        let mut outside = Outside::new(&[2], &["--forwarding", mode, "--xdp", xdp]);
        for [tcp, udp] in outside.dialled(1) {
            let own = outside.own_address(&tcp);
            for (outcome, keeps_source) in
                [(outside.client.tcp(&tcp), true), (outside.client.udp(&udp), udp_too)]
            {
                let answer = outcome.unwrap_or_else(|error| panic!("{mode} {xdp} {tcp}: {error}"));
                assert_eq!(answer.by, "far", "{tcp}");
                assert_eq!(seen(&answer) == own, keeps_source, "{mode} {xdp} {tcp}: {answer:?}");
            }
            outside
                .client
                .tcp_echo(&tcp, 1 << 20)
                .unwrap_or_else(|error| panic!("{mode} {xdp} {tcp}: {error}"));
            for bytes in [64, 1400, 1430, 1472, 4000, 60_000] {
                outside
                    .client
                    .udp_echo_again(&udp, bytes)
                    .unwrap_or_else(|error| panic!("{mode} {xdp} {udp} {bytes}: {error}"));
            }
            // From one socket, whose small datagrams went in a tunnel.
            for bytes in [64, 4000, 64, 1472] {
                let to = Some(address(&udp));
                outside
                    .client
                    .command(&Command::UdpEcho { id: 0, to, bytes, again: true })
                    .unwrap_or_else(|error| panic!("{mode} {xdp} {udp} {bytes}: {error}"));
            }
        }
        let reasons = outside.world.node(2).json(&["reasons"]);
        let received = reasons.as_array().unwrap().iter().find(|row| row["name"] == "tunnel_received");
        assert!(received.unwrap()["count"].as_u64() > Some(0), "{reasons}");
    }
}

#[test]
fn packets_to_cluster_ips_that_no_service_has_end_on_the_node() {
    // The default gateway takes what leaves the node for such an address: it has two of them itself.
    let free = ["10.96.0.77", "fd00:10:96::77"];
    let to = |address: &str| {
        if address.contains(':') { format!("[{address}]:8080") } else { format!("{address}:8080") }
    };
    for guarded in [false, true] {
        let flags: &[&str] = if guarded { &["--service-cidr", "10.96.0.0/16,fd00:10:96::/112"] } else { &[] };
        let mut outside = Outside::new(&[1], flags);
        let gateway = outside.world.client().clone();
        for address in free {
            let bits = if address.contains(':') { 128 } else { 32 };
            ip(&format!("-n {} addr add {address}/{bits} dev lo", gateway.netns));
        }
        let _server = gateway.serve(&[(8080, false), (8080, true)]);
        let pod = outside.world.pod(1, "alone");
        let hookless = Pod { cgroup: sluice::loader::find_cgroup(None).unwrap(), ..pod.clone() };
        let node = outside.world.node(1);
        for (who, mut client) in
            [("node", node.host.peer()), ("pod", pod.peer()), ("pod without hooks", hookless.peer())]
        {
            for address in free {
                // A pod's address is not known outside: only the node's packets come back.
                let answered = !guarded && who == "node";
                let met = client.tcp(&to(address));
                assert_eq!(met.is_ok(), answered, "{who} {address} guarded {guarded}: {met:?}");
                assert!(answered || timed_out(&met), "{who} {address}: {met:?}");
            }
        }
        let counted = || {
            let rows = node.json(&["reasons"]);
            let row =
                rows.as_array().unwrap().iter().find(|row| row["name"] == "unallocated_address").cloned();
            row.unwrap()["count"].as_u64().unwrap()
        };
        assert_eq!(counted() >= 6, guarded, "each of six was met");
        let explained = node.json(&["explain", "--from", &gateway.v4.to_string(), "10.96.0.99:80"]);
        assert_eq!(explained["reason"], if guarded { "unallocated_address" } else { "not_ours" });
        let before = counted();
        assert!(timed_out(&outside.client.tcp("10.96.0.99:80")), "from outside");
        assert_eq!(counted() > before, guarded, "from outside");
        assert!(outside.client.tcp("10.96.0.1:80").is_ok(), "what Services have is theirs");
    }
}

#[test]
fn what_sockets_leave_untranslated_packets_refuse_or_drop() {
    let mut outside = Outside::new(&[2], &[]);
    let mut pod = outside.world.pod(1, "visitor").peer();
    let mut host = outside.world.node(1).host.peer();
    outside.apply("internalTrafficPolicy: Local");
    outside.wait_policy("internalTrafficPolicy: Local");
    for (who, client) in [("pod", &mut pod), ("node", &mut host)] {
        for to in ["10.96.0.1:80", "[fd00:10:96::1]:80"] {
            let met = client.tcp(to);
            assert!(timed_out(&met), "{who} -> {to}, endpoints elsewhere only: {met:?}");
        }
    }
    outside.pods.clear();
    outside.apply("");
    let _refused = until("no endpoints", || pod.tcp("10.96.0.1:80"), refused);
    for (who, client) in [("pod", &mut pod), ("node", &mut host)] {
        for to in ["10.96.0.1:53", "[fd00:10:96::1]:53", "10.96.0.1:54", "203.0.113.10:53"] {
            let met = client.udp_connected(to);
            assert!(refused(&met), "{who} -> {to}, connected UDP: {met:?}");
        }
    }
}
