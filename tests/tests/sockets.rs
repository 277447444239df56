//! What a socket on the node sees when it dials Services: each test is one rule.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeMap;

use sluice_tests::{
    manifest,
    peer::{Command, address},
    shop::{TCP, UDP, UDP_CONNECTED, WAYS, assert_peer, shop},
    world::World,
};

#[test]
fn pods_and_host_reach_every_endpoint_and_see_the_address_they_dialled() {
    let mut shop = shop(2);
    let mut host = shop.world.peer(shop.world.node());
    for (case, dial, to) in WAYS {
        for (who, client) in [("pod", &mut shop.client), ("host", &mut host)] {
            let mut by: BTreeMap<String, u32> = BTreeMap::new();
            for _ in 0..30 {
                let answer = dial(client, to).unwrap_or_else(|error| panic!("{case} from {who}: {error}"));
                assert_peer(case, &answer, to);
                *by.entry(answer.by).or_default() += 1;
            }
            // Of 30 even choices one of two pods is missed once in 2^29 runs.
            assert_eq!(by.keys().collect::<Vec<_>>(), ["cart-1", "cart-2"], "{case} from {who}: {by:?}");
        }
    }
}

#[test]
fn backends_see_the_clients_own_address() {
    let mut shop = shop(1);
    let answer = shop.client.tcp("10.96.0.1:80").unwrap();
    assert!(answer.client.starts_with("[::ffff:10.244.0.3]:"), "{}", answer.client);
}

#[test]
fn a_service_without_endpoints_refuses() {
    let mut shop = shop(0);
    for (case, dial, to) in WAYS {
        for to in [to.to_owned(), to.replace("96.0.1", "96.0.2").replace("96::1", "96::2")] {
            // A connected UDP socket learns of it only from the packet path, which is not built yet.
            if case.starts_with("connected") {
                continue;
            }
            assert_eq!(dial(&mut shop.client, &to), Err("ECONNREFUSED".to_owned()), "{case} {to}");
        }
    }
    assert_eq!(shop.world.json(&["explain", "shop/empty"])["verdict"], "reject");
}

#[test]
fn connecting_a_udp_socket_never_fails_for_want_of_endpoints() {
    let mut shop = shop(0);
    shop.client.command(&Command::UdpOpen { id: 1, v6: false }).unwrap();
    let answer = shop.client.command(&Command::UdpConnect { id: 1, to: address("10.96.0.2:53") }).unwrap();
    assert_eq!(answer.peer, Some(address("10.96.0.2:53")));
}

#[test]
fn scaling_takes_effect_for_new_connections_and_leaves_open_ones_to_living_backends_alone() {
    let mut shop = shop(3);
    // A connection to the pod that stays. Of 40 even choices, one of three is missed once in ten million runs.
    let open = (1..40).find_map(|id| {
        let answer = shop.client.command(&Command::Tcp { id, to: address("10.96.0.1:80") }).unwrap();
        (answer.by == "cart-1").then_some((id, answer))
    });
    let (id, first) = open.expect("a connection to cart-1");
    for count in [1, 3, 2] {
        shop.scale(count);
        for _ in 0..10 {
            let answer = shop.client.tcp("10.96.0.1:80").unwrap();
            assert!(shop.pods[..count].iter().any(|(pod, _)| pod.name == answer.by), "{answer:?} of {count}");
        }
        assert_eq!(shop.client.command(&Command::AskAgain { id }), Ok(first.clone()));
    }
    shop.scale(0);
    assert_eq!(shop.client.tcp("10.96.0.1:80"), Err("ECONNREFUSED".to_owned()));
}

#[test]
fn what_is_no_service_passes_untouched() {
    let mut shop = shop(1);
    let [v4, v6] = shop.pods[0].0.addresses();
    for (case, dial, to) in [
        ("TCP", TCP, format!("{v4}:8080")),
        ("TCP over IPv6", TCP, format!("[{v6}]:8080")),
        ("UDP", UDP, format!("{v4}:5353")),
        ("connected UDP over IPv6", UDP_CONNECTED, format!("[{v6}]:5353")),
    ] {
        let answer = dial(&mut shop.client, &to).unwrap_or_else(|error| panic!("{case}: {error}"));
        assert_peer(case, &answer, &to);
    }
    assert_eq!(shop.client.tcp(&format!("{v4}:80")), Err("ECONNREFUSED".to_owned()), "the pod's own refusal");
}

#[test]
fn the_protocol_is_part_of_the_address() {
    let mut shop = shop(1);
    let refused = Err("ECONNREFUSED".to_owned());
    assert_eq!(shop.client.tcp("10.96.0.1:53"), refused, "TCP to a port that is UDP only");
    assert_eq!(shop.world.json(&["explain", "10.96.0.1:53"])["verdict"], "reject");
}

#[test]
fn one_udp_socket_talks_to_services_and_pods_and_sees_each_as_it_dialled_it() {
    let mut shop = shop(1);
    let direct = format!("{}:5353", shop.pods[0].0.v4);
    shop.world.apply(
        "more",
        &manifest::service("cart2", &["10.96.0.3"], &["dns:53:5353/UDP"]).replace("app: cart2", "app: cart"),
    );
    shop.world.wait_verdict("10.96.0.3:53/udp", "translate", 1);
    shop.client.command(&Command::UdpOpen { id: 1, v6: false }).unwrap();
    for to in ["10.96.0.1:53", "10.96.0.3:53", &direct, "10.96.0.1:53", &direct, &direct, "10.96.0.3:53"] {
        let answer = shop.client.command(&Command::UdpAsk { id: 1, to: Some(address(to)) }).unwrap();
        assert_peer(to, &answer, to);
    }
}

#[test]
fn a_udp_socket_that_connects_elsewhere_forgets_the_service() {
    let mut shop = shop(1);
    let direct = format!("{}:5353", shop.pods[0].0.v4);
    shop.client.command(&Command::UdpOpen { id: 1, v6: false }).unwrap();
    for to in ["10.96.0.1:53", &direct, "10.96.0.1:53", &direct] {
        let connected = shop.client.command(&Command::UdpConnect { id: 1, to: address(to) }).unwrap();
        assert_eq!(connected.peer, Some(address(to)), "getpeername");
        let answer = shop.client.command(&Command::UdpAsk { id: 1, to: None }).unwrap();
        assert_peer(to, &answer, to);
    }
}

#[test]
fn datagrams_of_one_unconnected_socket_reach_one_backend() {
    let mut shop = shop(3);
    for id in 1..=8 {
        shop.client.command(&Command::UdpOpen { id, v6: false }).unwrap();
        let ask = Command::UdpAsk { id, to: Some(address("10.96.0.1:53")) };
        let first = shop.client.command(&ask).unwrap().by;
        for _ in 0..10 {
            assert_eq!(shop.client.command(&ask).unwrap().by, first);
        }
    }
}

#[test]
fn a_headless_services_port_leads_to_the_pods_own_port() {
    let mut shop = shop(2);
    shop.world.apply(
        "headless",
        &manifest::headless("peers", &["http:80:8080", "same:8080:8080"]).replace("app: peers", "app: cart"),
    );
    for (pod, _) in shop.pods.iter().take(2) {
        for to in [format!("{}:80", pod.v4), format!("[{}]:80", pod.v6)] {
            shop.world.wait_verdict(&to, "translate", 1);
            let answer = shop.client.tcp(&to).unwrap();
            assert_eq!(answer.by, pod.name, "the very endpoint that was dialled");
            assert_peer(&to, &answer, &to);
        }
    }
    let untouched = format!("{}:8080", shop.pods[0].0.v4);
    assert_eq!(shop.world.json(&["explain", &untouched])["verdict"], "pass", "the pod uses that port itself");
    let annotated =
        manifest::headless("peers", &["http:80:8080"]).replace("app: peers", "app: cart").replace(
            "namespace: shop",
            "namespace: shop, annotations: {sluice.dev/headless-port-translation: \"false\"}",
        );
    shop.world.apply("headless", &annotated);
    shop.world.wait_verdict(&format!("{}:80", shop.pods[0].0.v4), "pass", 0);
    assert!(shop.client.tcp(&format!("{}:80", shop.pods[0].0.v4)).is_err());
}

#[test]
fn reasons_are_counted() {
    let mut shop = shop(1);
    let read = |world: &World| {
        let metrics =
            world.node().command("curl").args(["-s", "http://127.0.0.1:10249/metrics"]).output().unwrap();
        let text = String::from_utf8(metrics.stdout).unwrap();
        let value = |reason: &str| -> u64 {
            let line = format!("sluice_reasons_total{{reason=\"{reason}\"}} ");
            text.lines().find_map(|row| row.strip_prefix(&line)).unwrap().parse().unwrap()
        };
        [
            value("connect_translated"),
            value("send_translated"),
            value("reply_translated"),
            value("peer_translated"),
            value("no_endpoints"),
        ]
    };
    let before = read(&shop.world);
    shop.client.tcp("10.96.0.1:80").unwrap();
    shop.client.udp("10.96.0.1:53").unwrap();
    shop.client.tcp("10.96.0.2:80").unwrap_err();
    let after = read(&shop.world);
    let grown: Vec<u64> = after.iter().zip(before).map(|(after, before)| after - before).collect();
    assert_eq!(grown, [1, 1, 1, 1, 1]);
}
