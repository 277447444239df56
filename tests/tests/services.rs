//! What Services promise beyond an address: affinity, NodePorts.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::{
    collections::BTreeSet,
    sync::atomic::{AtomicBool, Ordering},
};

use sluice_tests::{
    manifest,
    peer::Command,
    shop::{Shop, TCP, UDP, UDP_CONNECTED, assert_peer, shop},
    wait,
    world::{Pod, World},
};

/// Turns session affinity of shop/cart on, or off without a timeout.
fn affinity(shop: &Shop, timeout_s: Option<u32>) {
    let plain = manifest::service("cart", &["10.96.0.1", "fd00:96::1"], &["http:80:8080", "dns:53:5353/UDP"]);
    let text = match timeout_s {
        None => plain,
        Some(timeout_s) => plain.replace(
            "spec:\n",
            &format!(
                "spec:\n  sessionAffinity: ClientIP\n  externalIPs: [192.0.2.1]\n  \
                 sessionAffinityConfig: {{clientIP: {{timeoutSeconds: {timeout_s}}}}}\n"
            ),
        ),
    };
    shop.world.apply("shop", &text);
    let wanted = timeout_s.unwrap_or(0);
    wait::until("affinity is programmed", || {
        let rows = shop.world.json(&["frontend"]);
        let rows = rows.as_array().unwrap();
        let right = rows.iter().all(|row| row["affinityTimeoutSeconds"] == wanted);
        if right && !rows.is_empty() { Ok(()) } else { Err(rows.clone()) }
    });
}

#[test]
fn a_client_keeps_its_backend_over_all_addresses_of_a_service_port() {
    let mut shop = shop(3);
    affinity(&shop, Some(10_800));
    let first = shop.client.tcp("10.96.0.1:80").unwrap().by;
    for to in ["10.96.0.1:80", "192.0.2.1:80", "[::ffff:10.96.0.1]:80"].repeat(8) {
        assert_eq!(shop.client.tcp(to).unwrap().by, first, "{to}");
    }
    for (dial, to) in [(TCP, "[fd00:96::1]:80"), (UDP, "10.96.0.1:53"), (UDP_CONNECTED, "[fd00:96::1]:53")] {
        let other = dial(&mut shop.client, to).unwrap().by;
        for _ in 0..8 {
            assert_eq!(dial(&mut shop.client, to).unwrap().by, other, "{to}: a service port of its own");
        }
    }
    let rows = shop.world.json(&["affinity"]);
    assert_eq!(rows.as_array().unwrap().len(), 4, "{rows}");
    assert_eq!((&rows[0]["service"], &rows[0]["live"]), (&"shop/cart".into(), &true.into()));
    assert!(
        shop.world.json(&["explain", "shop/cart:http"])["steps"]
            .to_string()
            .contains("keeps its endpoint for 10800 s")
    );
    // Twelve clients, three backends: all the same once in 3^11 runs.
    let pods: Vec<Pod> = (0..12).map(|index| shop.world.pod(&format!("client-{index}"))).collect();
    let by: BTreeSet<String> =
        pods.iter().map(|pod| shop.world.peer(pod).tcp("10.96.0.1:80").unwrap().by).collect();
    assert!(by.len() > 1, "clients are apart: {by:?}");
}

#[test]
fn affinity_obeys_the_usable_set_and_ends_at_once_when_switched_off() {
    let mut shop = shop(3);
    affinity(&shop, Some(60));
    let first = shop.client.tcp("10.96.0.1:80").unwrap().by;
    let rest: Vec<String> =
        shop.pods.iter().map(|(pod, _)| pod.name.clone()).filter(|name| *name != first).collect();
    let only = |names: &[String]| {
        let pods = shop.pods.iter().filter(|(pod, _)| names.contains(&pod.name));
        let text: String =
            pods.map(|(pod, _)| manifest::pod(&pod.name, "cart", &[&pod.v4.to_string()])).collect();
        shop.world.apply("pods", &text);
        shop.world.wait_verdict("10.96.0.1:80", "translate", names.len());
    };
    only(&rest);
    let second = shop.client.tcp("10.96.0.1:80").unwrap().by;
    assert_ne!(second, first, "the first is gone");
    only(&[rest.clone(), vec![first]].concat());
    for _ in 0..12 {
        assert_eq!(shop.client.tcp("10.96.0.1:80").unwrap().by, second, "and does not come back");
    }
    affinity(&shop, None);
    let by: BTreeSet<String> = (0..40).map(|_| shop.client.tcp("10.96.0.1:80").unwrap().by).collect();
    assert_eq!(by.len(), 3, "one of three is missed by 40 even choices once in three million runs");
}

#[test]
fn affinity_expires_after_its_timeout_without_a_new_connection() {
    let mut shop = shop(3);
    affinity(&shop, Some(1));
    let mut by = BTreeSet::new();
    wait::until("another backend after the timeout", || {
        by.insert(shop.client.tcp("10.96.0.1:80").unwrap().by);
        // Nothing but the passing of time ends it: the entry itself tells when.
        wait::until("expiry", || {
            let rows = shop.world.json(&["affinity"]);
            if rows[0]["live"] == false { Ok(()) } else { Err(rows) }
        });
        if by.len() > 1 { Ok(()) } else { Err(by.clone()) }
    });
}

#[test]
fn node_ports_are_served_on_the_nodes_addresses_and_on_its_own_loopback() {
    let mut shop = shop(2);
    let node_port =
        manifest::service("cart", &["10.96.0.1", "fd00:96::1"], &["http:80:8080", "dns:53:5353/UDP"])
            .replace("spec:\n", "spec:\n  type: NodePort\n")
            .replace("port: 80,", "port: 80, nodePort: 30080,")
            .replace("port: 53,", "port: 53, nodePort: 30053,");
    let write = "echo 50000 > /proc/sys/net/ipv4/ip_local_reserved_ports";
    assert!(shop.world.node().command("sh").args(["-c", write]).status().unwrap().success());
    shop.world.apply("shop", &node_port);
    shop.world.wait_verdict("127.0.0.1:30080", "translate", 2);
    let mut host = shop.world.peer(shop.world.node());
    let node = shop.world.node().clone();
    for (case, dial, port) in
        [("TCP", TCP, 30080), ("UDP", UDP, 30053), ("connected UDP", UDP_CONNECTED, 30053)]
    {
        for to in [
            format!("{}:{port}", node.v4),
            format!("[{}]:{port}", node.v6),
            format!("[::ffff:{}]:{port}", node.v4),
        ] {
            for client in [&mut shop.client, &mut host] {
                let answer = dial(client, &to).unwrap_or_else(|error| panic!("{case} {to}: {error}"));
                assert_peer(case, &answer, &to);
            }
        }
        for to in [format!("127.0.0.1:{port}"), format!("[::1]:{port}")] {
            let answer = dial(&mut host, &to).unwrap_or_else(|error| panic!("{case} {to}: {error}"));
            assert_peer(case, &answer, &to);
            assert!(dial(&mut shop.client, &to).is_err(), "{case} {to}: a pod's loopback is its own");
        }
    }
    let unspecified = shop.client.tcp("0.0.0.0:30080");
    assert!(unspecified.is_err(), "0.0.0.0 is the pod's own loopback too: {unspecified:?}");
    let client = shop.world.find("client").v4.to_string();
    assert_eq!(shop.world.json(&["explain", "--from", &client, "127.0.0.1:30080"])["verdict"], "pass");
    assert_eq!(
        shop.world.json(&["explain", "--from", &client, &format!("{}:30080", node.v4)])["verdict"],
        "translate"
    );
    let rows = shop.world.json(&["service", "shop/cart"]);
    let frontends = rows[0]["ports"][1]["frontends"].to_string();
    assert!(
        frontends.contains(&format!(
            "{{\"address\":\"{}\",\"kind\":\"nodePort\",\"path\":\"kernel\",\"port\":30080}}",
            node.v4
        )),
        "{frontends}"
    );
    // No client's own port may be one: a port within the ephemeral range is reserved, beside what others reserved.
    let reserved = || {
        let output = node.command("cat").arg("/proc/sys/net/ipv4/ip_local_reserved_ports").output().unwrap();
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    assert_eq!(reserved(), "50000", "30080 lies outside the ephemeral range");
    let high = node_port.replace("nodePort: 30053", "nodePort: 40053");
    for (text, want) in [(&high, "40053,50000"), (&node_port, "50000"), (&high, "40053,50000")] {
        shop.world.apply("shop", text);
        wait::until(want, || if reserved() == want { Ok(()) } else { Err(reserved()) });
    }
    shop.restart_agent();
    assert_eq!(reserved(), "40053,50000");
    shop.world.apply("shop", &node_port);
    wait::until("freed", || if reserved() == "50000" { Ok(()) } else { Err(reserved()) });
    // A process of the node cannot take the port; a pod can, for its network is its own.
    for (who, peer, refused) in [("host", &mut host, true), ("pod", &mut shop.client, false)] {
        for (port, udp) in [(30080, false), (30053, true)] {
            let bound = peer.command(&Command::Serve { name: who.to_owned(), port, udp });
            let taken = matches!(&bound, Err(error) if error.contains("Address already in use"));
            assert_eq!(taken, refused, "{who} {port}: {bound:?}");
        }
        assert!(
            peer.command(&Command::Serve { name: who.to_owned(), port: 30081, udp: false }).is_ok(),
            "another port"
        );
    }
    let plain = node_port.replace("type: NodePort", "type: ClusterIP");
    shop.world.apply("shop", &plain);
    shop.world.wait_verdict("127.0.0.1:30080", "pass", 0);
    assert!(host.tcp("127.0.0.1:30080").is_err());
    assert!(
        host.command(&Command::Serve { name: "host".to_owned(), port: 30080, udp: false }).is_ok(),
        "free again"
    );
}

#[test]
fn sockets_are_told_when_their_backend_is_gone_and_not_before() {
    let mut shop = shop(2);
    let address = |to: &str| sluice_tests::peer::address(to);
    let mut host = shop.world.peer(shop.world.node());
    // One TCP connection, one connected and one unconnected UDP socket to each backend, in a pod and on the node;
    // and connections that are no Service's business.
    let gone = shop.pods[1].0.clone();
    let mut held = Vec::new();
    for (who, peer) in [("pod", &mut shop.client), ("host", &mut host)] {
        for round in 0..12 {
            let to = ["10.96.0.1:80", "[fd00:96::1]:80", "[::ffff:10.96.0.1]:80"][round % 3];
            let id = peer.id();
            let answer = peer.command(&Command::Tcp { id, to: address(to) }).unwrap();
            held.push((who, id, None, answer.by));
            let to = ["10.96.0.1:53", "[fd00:96::1]:53"][round % 2];
            let (id, v6) = (peer.id(), to.starts_with('['));
            peer.command(&Command::UdpOpen { id, v6 }).unwrap();
            let ask = if round < 6 {
                peer.command(&Command::UdpConnect { id, to: address(to) }).unwrap();
                Command::UdpAsk { id, to: None }
            } else {
                Command::UdpAsk { id, to: Some(address(to)) }
            };
            let answer = peer.command(&ask).unwrap();
            held.push((who, id, Some(ask), answer.by));
        }
    }
    let direct = shop.client.id();
    shop.client.command(&Command::Tcp { id: direct, to: address(&format!("{}:8080", gone.v4)) }).unwrap();
    let all_alive = |shop: &mut Shop, host: &mut sluice_tests::peer::Peer| {
        // An unconnected socket chooses anew with each datagram: it moves on by itself.
        let stay = |ask: &Option<Command>| !matches!(ask, Some(Command::UdpAsk { to: Some(_), .. }));
        for (who, id, ask, by) in held.iter().filter(|(_, _, ask, _)| stay(ask)) {
            let peer = if *who == "pod" { &mut shop.client } else { &mut *host };
            let again = ask.clone().unwrap_or(Command::AskAgain { id: *id });
            assert_eq!(&peer.command(&again).unwrap().by, by, "{who} {id}");
        }
    };
    // Not ready is not gone.
    let unready = |pod: &Pod, ready: bool| {
        let text = manifest::pod(&pod.name, "cart", &[&pod.v4.to_string(), &pod.v6.to_string()]);
        if ready {
            text
        } else {
            text.replace("status: {", "status: {conditions: [{type: Ready, status: \"False\"}], ")
        }
    };
    let kept = shop.pods[0].0.clone();
    shop.world.apply("pods", &(unready(&kept, true) + &unready(&gone, false)));
    shop.world.wait_verdict("10.96.0.1:80", "translate", 1);
    all_alive(&mut shop, &mut host);
    shop.world.apply("pods", &unready(&kept, true));
    let expected = held.iter().filter(|(_, _, _, by)| *by == gone.name).count();
    assert!(expected > 0, "some sockets hold it");
    wait::until("all are told", || {
        let output = shop
            .world
            .node()
            .command("curl")
            .args(["-s", "http://127.0.0.1:10249/metrics"])
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let count = text
            .lines()
            .find_map(|line| line.strip_prefix("sluice_sockets_destroyed_total "))
            .unwrap()
            .to_owned();
        if count == expected.to_string() { Ok(()) } else { Err(format!("{count} of {expected}")) }
    });
    for (who, id, ask, by) in &held {
        let peer = if *who == "pod" { &mut shop.client } else { &mut host };
        let again = ask.clone().unwrap_or(Command::AskAgain { id: *id });
        let outcome = peer.command(&again);
        if *by == kept.name {
            assert_eq!(outcome.unwrap().by, kept.name, "{who} {id}: held by a backend that is there");
        } else {
            assert!(!matches!(&outcome, Ok(answer) if answer.by == gone.name), "{who} {id}: {outcome:?}");
        }
    }
    assert!(
        shop.client.command(&Command::AskAgain { id: direct }).is_ok(),
        "a direct connection is nobody's business"
    );
}

#[test]
fn namespaces_and_processes_that_vanish_in_the_middle_keep_nobody_from_being_told() {
    let mut shop = shop(2);
    let (client, gone) = (shop.world.find("client").clone(), shop.pods[1].0.name.clone());
    let other = shop.world.pod("other");
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        // Short lives: processes in the client's namespace, and some that take a namespace with them.
        for (pod, script) in [
            (&client, "sleep 0.01"),
            (&client, "true"),
            (&other, "exec unshare --net sleep 0.01"),
            (&other, "exec unshare --net true"),
        ] {
            let done = &done;
            scope.spawn(move || {
                while !done.load(Ordering::Relaxed) {
                    let status = pod.command("sh").args(["-c", script]).status();
                    assert!(status.is_ok_and(|status| status.success()), "{script}");
                }
            });
        }
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for round in 0..8 {
                let id = wait::until("a connection to the one that goes", || {
                    let id = shop.client.id();
                    let to = sluice_tests::peer::address("10.96.0.1:80");
                    let by = shop.client.command(&Command::Tcp { id, to }).map(|answer| answer.by);
                    if by == Ok(gone.clone()) { Ok(id) } else { Err(by) }
                });
                shop.scale(1);
                wait::until(&format!("it is told, round {round}"), || {
                    let answer = shop.client.command(&Command::AskAgain { id });
                    if answer.is_err() { Ok(()) } else { Err((answer, shop.world.log())) }
                });
                shop.scale(2);
            }
        }));
        done.store(true, Ordering::Relaxed);
        if let Err(panic) = result {
            std::panic::resume_unwind(panic);
        }
    });
}

#[test]
fn a_connected_datagram_socket_remembers_its_service_when_the_map_has_forgotten() {
    let mut world = World::new();
    let (pod, _server) = world.server("cart-1", &[(5353, true)]);
    let client_pod = world.pod("client");
    let mut client = world.peer(&client_pod);
    let text = manifest::service("cart", &["10.96.0.1"], &["dns:53:5353/UDP"]);
    world.apply("shop", &(text + &manifest::pod("cart-1", "cart", &[&pod.v4.to_string()])));
    let manifests = world.manifests().display().to_string();
    let _agent = world.spawn_agent(&["--manifests", &manifests, "--max-udp-flows", "16"]);
    world.wait_healthy();
    let to = sluice_tests::peer::address("10.96.0.1:53");
    client.command(&Command::UdpOpen { id: 1, v6: false }).unwrap();
    client.command(&Command::UdpConnect { id: 1, to }).unwrap();
    for _ in 0..300 {
        client.udp("10.96.0.1:53").unwrap();
    }
    let answer = client.command(&Command::UdpAsk { id: 1, to: None }).unwrap();
    assert_eq!(answer.peer, Some(to), "shown by what the socket itself remembers");
}
