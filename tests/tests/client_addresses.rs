//! Endpoints see the pod that asks, though the redirector stands between: its address, in both families, on bridges, by
//! routes and from another node. Where that cannot be, they see the node's, and `sluice status` says why.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use sluice_tests::{
    http::{curl, nginx},
    manifest,
    peer::{Answer, Command, Peer, address},
    shop::{Shop, shop},
    wait,
    world::{Node, Pod, TwoNodes, World, kill, sluice_binary},
};

/// Connections go through the redirector and are led to the Service itself.
const RULES: &str = "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\n\
    metadata: {name: cart, namespace: shop}\nspec:\n  hosts: [cart]\n  tcp:\n\
    \x20 - match: [{destinationSubnets: [0.0.0.0/0, \"::/0\"]}]\n    route: [{destination: {host: cart}}]\n";
const VIPS: [&str; 2] = ["10.96.0.1:80", "[fd00:96::1]:80"];

fn service() -> String {
    manifest::service("cart", &["10.96.0.1", "fd00:96::1"], &["tcp:80:8080"])
}

fn wait_steered(node: &Node) {
    wait::until("steered", || {
        let rows = node.json(&["frontend"]);
        let rows = rows.as_array().unwrap();
        let steered = rows.iter().filter(|row| row["service"] == "shop/cart");
        let paths: Vec<_> = steered.map(|row| row["path"].clone()).collect();
        let done = !paths.is_empty() && paths.iter().all(|path| path == "redirector");
        if done { Ok(()) } else { Err((paths, node.log())) }
    });
    node.wait_healthy();
}

fn count(node: &Node, reason: &str) -> u64 {
    let rows = node.json(&["reasons"]);
    rows.as_array().unwrap().iter().find(|row| row["name"] == reason).unwrap()["count"].as_u64().unwrap()
}

fn warnings(node: &Node) -> String {
    node.json(&["status"])["warnings"].to_string()
}

/// Whether the server saw one of these addresses: endpoints have both families, whichever is dialled.
fn saw(answer: &Answer, own: &[String]) -> bool {
    own.contains(&answer.client_ip().to_string())
}

/// Dials until the server saw `own`: what the redirector knows of devices and settings comes a moment later.
fn until_seen(node: &Node, peer: &mut Peer, to: &str, own: &[String]) {
    let mut in_a_row = 0;
    wait::until(&format!("{to} as {own:?}"), || match peer.tcp(to) {
        Ok(answer) if saw(&answer, own) && in_a_row == 8 => Ok(()),
        Ok(answer) => {
            in_a_row = if saw(&answer, own) { in_a_row + 1 } else { 0 };
            Err(format!("{answer:?} {} {}", warnings(node), node.log()))
        }
        // Answers to an address that is lent no more lead nowhere: README's limits say so.
        Err(error) => {
            in_a_row = 0;
            Err(format!("{error} {}", node.log()))
        }
    });
}

/// Every one of several dials is seen as coming from `own`.
fn assert_seen(node: &Node, peer: &mut Peer, to: &str, own: &[String]) {
    for _ in 0..12 {
        let answer = peer.tcp(to).unwrap_or_else(|error| panic!("{to}: {error} {}", node.log()));
        assert!(saw(&answer, own), "{to}: {answer:?}, not {own:?} {}", warnings(node));
        assert_eq!(answer.peer, Some(address(to)));
    }
}

/// One node with two endpoints on a bridge, and the client's pod among the manifests.
fn steered_shop() -> (Shop, Pod) {
    let shop = shop(2);
    let client = shop.world.find("client").clone();
    let [v4, v6] = client.addresses();
    shop.world.apply("client", &manifest::pod("client", "client", &[&v4, &v6]));
    shop.world.apply("shop", &service());
    shop.world.apply("rules", RULES);
    wait_steered(&shop.world);
    (shop, client)
}

#[test]
fn endpoints_on_a_bridge_see_the_pod_that_asks() {
    let (mut shop, client) = steered_shop();
    let own = client.addresses();
    for to in VIPS {
        until_seen(&shop.world, &mut shop.client, to, &own);
        let before = count(&shop.world, "reply_steered");
        assert_seen(&shop.world, &mut shop.client, to, &own);
        assert!(count(&shop.world, "reply_steered") > before, "{to}: replies came back by the mark");
    }
    // Much of it, both ways.
    let id = shop.client.id();
    shop.client.command(&Command::Tcp { id, to: address(VIPS[0]) }).unwrap();
    shop.client.command(&Command::TcpEcho { id, bytes: 3 << 20 }).unwrap();
    // The node itself has no pod's address.
    let mut host = shop.world.peer(shop.world.node());
    for to in VIPS {
        assert_seen(&shop.world, &mut host, to, &shop.world.node().addresses());
    }
    // No other packet is taken from a pod: its own connections from the same ports go on.
    let (server, _) = &shop.pods[0];
    for (family, own) in client.addresses().iter().enumerate() {
        let at = |address: &str, port| {
            let text = if family == 0 { format!("{address}:{port}") } else { format!("[{address}]:{port}") };
            sluice_tests::peer::address(&text)
        };
        for port in [61_001, 63_000, 65_535] {
            let (from, to) = (at(own, port), at(&server.addresses()[family], 8080));
            let id = shop.client.id();
            let answer = shop.client.command(&Command::TcpFrom { id, from, to });
            assert!(answer.is_ok(), "{from} to {to}: {answer:?}");
        }
    }
}

#[test]
fn an_endpoint_that_asks_itself_sees_the_node() {
    let (mut shop, _) = steered_shop();
    let (name, own) = (shop.pods[0].0.name.clone(), shop.pods[0].0.addresses());
    let pod = shop.pods[0].0.clone();
    let mut asker = shop.world.peer(&pod);
    let node = shop.world.node().addresses();
    for to in VIPS {
        let (mut itself, mut other) = (false, false);
        wait::until("both endpoints", || {
            let answer = asker.tcp(to).unwrap_or_else(|error| panic!("{to}: {error}"));
            if answer.by == name {
                assert!(saw(&answer, &node), "a pod must not answer itself: {answer:?}");
                itself = true;
            } else {
                other |= saw(&answer, &own);
            }
            if itself && other { Ok(()) } else { Err(answer) }
        });
    }
    shop.kill_agent();
}

#[test]
fn routed_pods_see_the_pod_that_asks_with_strict_reverse_path_filters() {
    let mut world = World::new();
    let (server, client) = (world.routed_pod("cart-1"), world.routed_pod("asker"));
    let _server = server.serve(&[(8080, false)]);
    let mut peer = client.peer();
    let pod = |pod: &Pod, app| manifest::pod(&pod.name, app, &[&pod.v4.to_string()]);
    let service = manifest::service("cart", &["10.96.0.1"], &["tcp:80:8080"]);
    world.apply("shop", &(service + &pod(&server, "cart") + &pod(&client, "client") + RULES));
    sysctl(&world, "rp_filter", "all", "1");
    let _agent = world.agent();
    wait_steered(&world);
    let own = [client.v4.to_string()];
    until_seen(&world, &mut peer, VIPS[0], &own);
    assert_seen(&world, &mut peer, VIPS[0], &own);
}

#[test]
fn connections_to_endpoints_are_shared_by_requests_of_one_pod_only() {
    let mut world = World::new();
    let server = world.pod("cart-1");
    let clients = ["one", "two"].map(|name| world.pod(name));
    let _nginx = nginx(&world, &server, 8080);
    let pod = |pod: &Pod, app| manifest::pod(&pod.name, app, &[&pod.v4.to_string()]);
    let pods: String = clients.iter().map(|client| pod(client, "client")).collect();
    let service = manifest::service("cart", &["10.96.0.1"], &["http:80:8080"]);
    let rules = RULES
        .replace("tcp:\n", "http:\n")
        .replace("match: [{destinationSubnets: [0.0.0.0/0, \"::/0\"]}]", "name: all");
    world.apply("shop", &(service + &pod(&server, "cart") + &pods + &rules));
    let _agent = world.agent();
    wait_steered(&world);
    let ask = |client: &Pod| {
        let response = curl(client, &["http://10.96.0.1/"]);
        (response.status, response.seen("client").trim_start_matches("::ffff:").to_owned())
    };
    let own = |client: &Pod| (200, client.v4.to_string());
    for client in &clients {
        wait::until("its own address", || if ask(client) == own(client) { Ok(()) } else { Err(ask(client)) });
    }
    // In turns, while the other's connections lie idle.
    for _ in 0..10 {
        for client in &clients {
            assert_eq!(ask(client), own(client), "{}", client.name);
        }
    }
}

#[test]
fn a_setting_that_loses_replies_is_named_and_the_node_asks_instead() {
    let (mut shop, client) = steered_shop();
    let ([v4, v6], [node, _]) = (client.addresses(), shop.world.node().addresses());
    until_seen(&shop.world, &mut shop.client, VIPS[0], &[v4.clone(), v6.clone()]);
    sysctl(&shop.world, "src_valid_mark", "all", "1");
    // The setting is one of IPv4.
    wait::until("the warning", || {
        let text = warnings(&shop.world);
        if text.contains("net.ipv4.conf.all.src_valid_mark is 1") { Ok(()) } else { Err(text) }
    });
    wait::until("the node's address", || {
        // What was dialled before the redirector knew is lost.
        let answer = shop.client.tcp(VIPS[0]);
        if answer.as_ref().is_ok_and(|answer| saw(answer, std::slice::from_ref(&node))) {
            Ok(())
        } else {
            Err(answer)
        }
    });
    assert_seen(&shop.world, &mut shop.client, VIPS[0], &[node, v6.clone()]);
    sysctl(&shop.world, "src_valid_mark", "all", "0");
    until_seen(&shop.world, &mut shop.client, VIPS[0], &[v4, v6]);
    wait::until("the warning goes", || {
        let text = warnings(&shop.world);
        if text.contains("src_valid_mark") { Err(text) } else { Ok(()) }
    });
}

fn sysctl(world: &World, setting: &str, name: &str, value: &str) {
    let script = format!("echo {value} > /proc/sys/net/ipv4/conf/{name}/{setting}");
    assert!(world.node().command("sh").args(["-ec", &script]).status().unwrap().success());
}

#[test]
fn without_programs_at_pods_devices_the_node_asks_and_status_says_so() {
    for (flags, said) in
        [(&["--pod-devices", "none"][..], Some("see --pod-devices")), (&["--upstream-source", "node"], None)]
    {
        let (mut shop, _) = steered_shop();
        shop.kill_agent();
        let _agent = shop.world.agent_with(flags);
        wait_steered(&shop.world);
        let node = shop.world.node().addresses();
        for to in VIPS {
            until_seen(&shop.world, &mut shop.client, to, &node);
            assert_seen(&shop.world, &mut shop.client, to, &node);
        }
        let text = warnings(&shop.world);
        assert_eq!(text.contains("X-Forwarded-For"), said.is_some(), "{flags:?}: {text}");
        assert!(said.is_none_or(|said| text.contains(said)), "{flags:?}: {text}");
    }
}

#[test]
fn a_redirector_without_the_capability_serves_under_the_nodes_address_and_says_so() {
    let (mut shop, _) = steered_shop();
    shop.kill_agent();
    let manifests = shop.world.manifests().display().to_string();
    let _agent = shop.world.spawn_agent(&["--manifests", &manifests, "--redirector", "external"]);
    let binary = sluice_binary().display().to_string();
    let mut command = shop.world.node().command("setpriv");
    command.args(["--bounding-set", "-net_raw", &binary, "redirector", "--run-dir"]);
    command.arg(shop.world.folder().join("run")).arg("--bpffs").arg(shop.world.bpffs());
    let mut child = command.spawn().unwrap();
    wait::until("the warning", || {
        let text = warnings(&shop.world);
        if text.contains("lacks CAP_NET_RAW") { Ok(()) } else { Err(text) }
    });
    wait_steered(&shop.world);
    let node = shop.world.node().addresses();
    until_seen(&shop.world, &mut shop.client, VIPS[0], &node);
    assert_seen(&shop.world, &mut shop.client, VIPS[0], &node);
    kill(&mut child);
}

#[test]
fn the_redirector_keeps_one_capability_and_cleanup_takes_the_rules_away() {
    let (mut shop, client) = steered_shop();
    until_seen(&shop.world, &mut shop.client, VIPS[0], &client.addresses());
    let pids = std::fs::read_to_string(shop.world.node().cgroup.join("cgroup.procs")).unwrap();
    let is_redirector = |pid: &&str| {
        std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default().contains("\0redirector\0")
    };
    let pid = pids.lines().find(is_redirector).unwrap();
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    for task in tasks {
        let status = std::fs::read_to_string(task.unwrap().path().join("status")).unwrap();
        let field = |name: &str| {
            let line = status.lines().find(|line| line.starts_with(name)).unwrap();
            line.split_whitespace().nth(1).unwrap().to_owned()
        };
        assert_eq!(field("Uid:"), "65534", "{status}");
        for set in ["CapEff:", "CapPrm:"] {
            // Bit 13 is CAP_NET_RAW.
            assert_eq!(u64::from_str_radix(&field(set), 16), Ok(1 << 13), "{set} {status}");
        }
        for set in ["CapInh:", "CapAmb:"] {
            assert_eq!(u64::from_str_radix(&field(set), 16), Ok(0), "{set} {status}");
        }
        assert_eq!(field("NoNewPrivs:"), "1");
    }
    let rules = |world: &World| {
        let list = |family: &str| {
            let command = world
                .node()
                .command(&sluice_tests::world::tool_path("ip"))
                .args([family, "rule"])
                .output()
                .unwrap();
            String::from_utf8(command.stdout).unwrap()
        };
        ["-4", "-6"].map(|family| list(family).contains("0x51000000"))
    };
    assert_eq!(rules(&shop.world), [true, true]);
    shop.kill_agent();
    assert!(shop.world.sluice(&["cleanup"]).status.success());
    assert_eq!(rules(&shop.world), [false, false]);
}

#[test]
fn pods_of_another_node_see_the_pod_that_asks() {
    let mut world = TwoNodes::new();
    let (far, _far) = world.server(2, "far", &[(8080, false)]);
    let (near, _near) = world.server(1, "near", &[(8080, false)]);
    let client = world.pod(1, "asker");
    let pod = |node: &str, pod: &Pod, app| {
        let [v4, v6] = pod.addresses();
        manifest::pod_on(node, &pod.name, app, &[&v4, &v6])
    };
    let pods =
        pod("node-2", &far, "cart") + &pod("node-1", &near, "cart") + &pod("node-1", &client, "client");
    world.apply("shop", &(service() + &pods + RULES));
    let _agent = world.node(1).agent();
    wait_steered(world.node(1));
    let (mut peer, own) = (client.peer(), client.addresses());
    for to in VIPS {
        for server in ["far", "near"] {
            wait::until(server, || {
                let answer = peer.tcp(to).unwrap_or_else(|error| panic!("{to}: {error}"));
                if answer.by == server && saw(&answer, &own) {
                    Ok(())
                } else {
                    Err((answer, warnings(world.node(1))))
                }
            });
        }
        assert_seen(world.node(1), &mut peer, to, &own);
    }
}
