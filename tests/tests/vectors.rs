//! The golden vectors of kube-proxy's own tests (`pkg/proxy/nftables/proxier_test.go`), as a socket on the node meets
//! them. A row is named by source, destination and traffic policies; L is the endpoint on this node, R another node's.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeSet;

use sluice_tests::{
    manifest,
    peer::Peer,
    shop::{Dial, TCP, UDP, UDP_CONNECTED, assert_peer},
    wait,
    world::{Agent, Pod, World, ip},
};

/// Enough that an endpoint that may answer does, but for once in 4,000 million.
const DIALS: usize = 32;

struct Vectors {
    world: World,
    agent: Agent,
    pod: Peer,
    host: Peer,
    local: (Pod, Peer),
    remote: (Pod, Peer),
}

/// The Service of a row; `spec` and `status` are more lines of it.
fn service(kind: &str, policies: &str, addresses: &str) -> String {
    let base = manifest::service("cart", &["10.96.0.1", "fd00:96::1"], &["http:80:8080", "dns:53:5353/UDP"]);
    let base = base
        .replace("port: 80,", "port: 80, nodePort: 30080,")
        .replace("port: 53,", "port: 53, nodePort: 30053,");
    base.replace(
        "spec:\n",
        &format!("spec:\n  type: {kind}\n{policies}  externalIPs: [192.0.2.9, \"2001:db8::9\"]\n"),
    ) + addresses
}

const VIP: &str =
    "status: {loadBalancer: {ingress: [{ip: 203.0.113.9}, {ip: \"2001:db8:1::9\", ipMode: VIP}]}}\n";

fn endpoint(pod: &Pod, node: &str) -> String {
    manifest::pod(&pod.name, "cart", &[&pod.v4.to_string(), &pod.v6.to_string()]).replace("node-1", node)
}

impl Vectors {
    fn start() -> Self {
        let mut world = World::new();
        let ports = [(8080, false), (5353, true)];
        let (local, remote) = (world.server("l", &ports), world.server("r", &ports));
        let client = world.pod("client");
        for pod in [&client, &world.node().clone(), &local.0] {
            // What passes untranslated fails at once instead of after a time-out.
            for network in ["10.96.0.0/16", "fd00:96::/64", "192.0.2.0/24", "203.0.113.0/24", "2001:db8::/32"]
            {
                ip(&format!("-n {} route add unreachable {network}", pod.netns));
            }
        }
        let (pod, host) = (world.peer(&client), world.peer(world.node()));
        world.apply("cart", &service("LoadBalancer", "", VIP));
        Self { agent: world.agent(), world, pod, host, local, remote }
    }

    fn endpoints(&self, local: bool, remote: bool) {
        let text = [(local, &self.local.0, "node-1"), (remote, &self.remote.0, "node-2")];
        let text = text.iter().filter(|(there, _, _)| *there).map(|(_, pod, node)| endpoint(pod, node));
        self.world.apply("pods", &text.collect::<String>());
    }

    /// Every address of the Service, as `KIND ADDRESS`, with its port for TCP and for UDP.
    fn destinations(&self) -> Vec<(&'static str, [String; 2])> {
        let (node4, node6) = (self.world.node().v4.to_string(), format!("[{}]", self.world.node().v6));
        let plain = |kind, address: &str| (kind, [format!("{address}:80"), format!("{address}:53")]);
        let node = |address: &str| ("NodePort", [format!("{address}:30080"), format!("{address}:30053")]);
        vec![
            plain("ClusterIP", "10.96.0.1"),
            plain("ClusterIP", "[fd00:96::1]"),
            node(&node4),
            node(&node6),
            plain("LB", "203.0.113.9"),
            plain("LB", "[2001:db8:1::9]"),
            plain("ExternalIP", "192.0.2.9"),
            plain("ExternalIP", "[2001:db8::9]"),
        ]
    }

    /// Waits until the maps say of every destination what `want` says of its kind.
    fn wait(&self, want: impl Fn(&str) -> (&'static str, usize)) {
        for (kind, [tcp, udp]) in self.destinations() {
            let (verdict, count) = want(kind);
            self.world.wait_verdict(&tcp, verdict, count);
            self.world.wait_verdict(&format!("{udp}/udp"), verdict, count);
        }
    }

    /// Who answers, over all ways to dial.
    fn answers(&mut self, from: &str, tcp: &str, udp: &str) -> BTreeSet<String> {
        let client = if from == "pod" { &mut self.pod } else { &mut self.host };
        let mut by = BTreeSet::new();
        for (dial, to) in [(TCP, tcp), (UDP, udp), (UDP_CONNECTED, udp)] {
            let dial: Dial = dial;
            for _ in 0..DIALS / 2 {
                let answer = dial(client, to).unwrap_or_else(|error| panic!("{from} to {to}: {error}"));
                assert_peer(from, &answer, to);
                by.insert(answer.by);
            }
        }
        by
    }

    /// What dialling comes to when nobody answers.
    fn refused(&mut self, from: &str, to: &str, udp: bool) -> bool {
        let client = if from == "pod" { &mut self.pod } else { &mut self.host };
        let met = if udp { client.udp(to) } else { client.tcp(to) };
        met.expect_err(to) == "ECONNREFUSED"
    }
}

#[test]
fn endpoints_by_source_destination_and_policy() {
    let mut vectors = Vectors::start();
    vectors.endpoints(true, true);
    let both = BTreeSet::from(["l".to_owned(), "r".to_owned()]);
    let local = BTreeSet::from(["l".to_owned()]);
    for (policies, text) in [
        ("eTP Cluster, iTP Cluster", ""),
        ("eTP Local", "  externalTrafficPolicy: Local\n"),
        ("iTP Local", "  internalTrafficPolicy: Local\n"),
    ] {
        vectors.world.apply("cart", &service("LoadBalancer", text, VIP));
        let only_local = |kind: &str| policies == "iTP Local" && kind == "ClusterIP";
        vectors.wait(|kind| ("translate", if only_local(kind) { 1 } else { 2 }));
        for (kind, [tcp, udp]) in vectors.destinations() {
            for from in ["pod", "node"] {
                let want = if only_local(kind) { &local } else { &both };
                assert_eq!(&vectors.answers(from, &tcp, &udp), want, "{from} -> {kind} {tcp}, {policies}");
            }
        }
    }
}

#[test]
fn etp_local_without_a_local_endpoint_leads_pods_and_the_node_to_the_others() {
    let mut vectors = Vectors::start();
    vectors.endpoints(false, true);
    vectors.world.apply("cart", &service("LoadBalancer", "  externalTrafficPolicy: Local\n", VIP));
    vectors.wait(|_| ("translate", 1));
    for (kind, [tcp, udp]) in vectors.destinations() {
        for from in ["pod", "node"] {
            assert_eq!(
                vectors.answers(from, &tcp, &udp),
                BTreeSet::from(["r".to_owned()]),
                "{from} -> {kind}"
            );
        }
    }
}

#[test]
fn itp_local_without_a_local_endpoint_drops_and_rejects_once_the_slice_is_gone() {
    let mut vectors = Vectors::start();
    vectors.endpoints(false, true);
    vectors.world.apply("cart", &service("LoadBalancer", "  internalTrafficPolicy: Local\n", VIP));
    vectors.wait(|kind| if kind == "ClusterIP" { ("drop", 0) } else { ("translate", 1) });
    for from in ["pod", "node"] {
        assert!(!vectors.refused(from, "10.96.0.1:80", false), "{from}: dropped is not refused");
    }
    vectors.endpoints(false, false);
    vectors.wait(|_| ("reject", 0));
    for (kind, [tcp, udp]) in vectors.destinations() {
        for from in ["pod", "node"] {
            assert!(vectors.refused(from, &tcp, false), "{from} -> {kind} {tcp}: no endpoints");
            assert!(vectors.refused(from, &udp, true), "{from} -> {kind} {udp}/UDP: no endpoints");
        }
    }
}

#[test]
fn a_pod_that_is_its_own_endpoint_reaches_itself() {
    let mut vectors = Vectors::start();
    vectors.endpoints(true, false);
    vectors.wait(|_| ("translate", 1));
    let mut hairpin = vectors.world.peer(&vectors.local.0);
    for (kind, [tcp, udp]) in vectors.destinations() {
        assert_eq!(hairpin.tcp(&tcp).unwrap().by, "l", "{kind}");
        assert_eq!(hairpin.udp(&udp).unwrap().by, "l", "{kind}");
    }
    assert_eq!(vectors.answers("pod", "10.96.0.1:80", "10.96.0.1:53"), BTreeSet::from(["l".to_owned()]));
}

#[test]
fn unknown_ports_of_a_cluster_ip_are_rejected_and_those_of_other_addresses_are_not_ours() {
    let mut vectors = Vectors::start();
    vectors.endpoints(true, true);
    vectors.wait(|_| ("translate", 2));
    for from in ["pod", "node"] {
        for (case, to, udp, want) in [
            ("TCP-only port hit by UDP", "10.96.0.1:80", true, true),
            ("TCP-only port hit by UDP, IPv6", "[fd00:96::1]:80", true, true),
            ("UDP-only port hit by TCP", "10.96.0.1:53", false, true),
            ("unknown port", "10.96.0.1:81", false, true),
            ("unknown port, IPv6", "[fd00:96::1]:81", false, true),
            ("unknown port, IPv4 mapped", "[::ffff:10.96.0.1]:81", false, true),
            ("a ClusterIP that no Service has", "10.96.0.77:80", false, false),
            ("unknown port of a LoadBalancer VIP", "203.0.113.9:81", false, false),
            ("unknown port of an externalIP", "192.0.2.9:81", false, false),
        ] {
            assert_eq!(vectors.refused(from, to, udp), want, "{from}: {case}");
        }
    }
    let explained = vectors.world.json(&["explain", "10.96.0.1:81"]);
    assert_eq!((&explained["verdict"], &explained["reason"]), (&"reject".into(), &"unknown_port".into()));
}

#[test]
fn what_is_not_the_services_is_left_to_the_host() {
    let mut vectors = Vectors::start();
    vectors.endpoints(true, true);
    let second = "10.244.99.1";
    ip(&format!("-n {} addr add {second}/32 dev pods", vectors.world.node().netns));
    vectors.wait(|_| ("translate", 2));
    let verdict = |vectors: &Vectors, to: &str| vectors.world.json(&["explain", to])["verdict"].to_string();
    assert_eq!(verdict(&vectors, &format!("{second}:30080")), "\"pass\"", "a secondary address of the node");
    for (case, kind, status, vip) in [
        ("ipMode VIP", "LoadBalancer", "{ip: 203.0.113.9, ipMode: VIP}", "translate"),
        ("ipMode Proxy", "LoadBalancer", "{ip: 203.0.113.9, ipMode: Proxy}", "pass"),
        ("no ipMode", "LoadBalancer", "{ip: 203.0.113.9}", "translate"),
        ("not a load balancer any more", "NodePort", "{ip: 203.0.113.9}", "pass"),
    ] {
        let text = service(kind, "", &format!("status: {{loadBalancer: {{ingress: [{status}]}}}}\n"));
        vectors.world.apply("cart", &text);
        wait::until(case, || {
            let got = verdict(&vectors, "203.0.113.9:80");
            if got == format!("{vip:?}") { Ok(()) } else { Err(got) }
        });
        assert_eq!(vectors.pod.tcp("203.0.113.9:80").is_ok(), vip == "translate", "{case}");
    }
    let external = service("ExternalName", "  externalName: example.com\n", "");
    vectors.world.apply("cart", &external);
    vectors.wait(|_| ("pass", 0));
    assert!(vectors.pod.tcp("10.96.0.1:80").is_err(), "ExternalName, even with a ClusterIP, is no entry");
    vectors.world.apply("cart", &manifest::headless("cart", &["http:8080:8080"]));
    vectors.wait(|_| ("pass", 0));
}

#[test]
fn node_ports_on_the_networks_that_are_named() {
    let mut vectors = Vectors::start();
    vectors.endpoints(true, true);
    let node = vectors.world.node().clone();
    ip(&format!("-n {} addr add 10.244.99.1/32 dev pods", node.netns));
    let manifests = vectors.world.manifests().display().to_string();
    vectors.agent.kill();
    let flags = ["--manifests", &manifests, "--nodeport-addresses", "10.244.99.0/24,192.168.1.0/24"];
    let _agent = vectors.world.spawn_agent(&flags);
    vectors.world.wait_verdict("10.244.99.1:30080", "translate", 2);
    vectors.world.wait_verdict(&format!("{}:30080", node.v4), "pass", 0);
    assert!(vectors.pod.tcp("10.244.99.1:30080").is_ok());
    assert!(vectors.pod.tcp(&format!("{}:30080", node.v4)).is_err());
}
