//! What a socket on the node sees when it dials Services: each test is one rule.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::{BTreeMap, BTreeSet};

use sluice_tests::{
    manifest,
    peer::{Answer, Command, Outcome, Peer, address},
    wait,
    world::{Pod, World},
};

const HTTP: (u16, bool) = (8080, false);
const DNS: (u16, bool) = (5353, true);

/// The Service shop/cart, dual-stack, TCP 80 and UDP 53, with this many pods; a client in a pod of its own.
struct Shop {
    world: World,
    pods: Vec<(Pod, Peer)>,
    client: Peer,
    _agent: sluice_tests::world::Agent,
}

fn shop(count: usize) -> Shop {
    let mut world = World::new();
    let pods: Vec<(Pod, Peer)> =
        (1..=count).map(|index| world.server(&format!("cart-{index}"), &[HTTP, DNS])).collect();
    let client_pod = world.pod("client");
    let client = world.peer(&client_pod);
    world.apply(
        "shop",
        &(manifest::service("cart", &["10.96.0.1", "fd00:96::1"], &["http:80:8080", "dns:53:5353/UDP"])
            + &manifest::service(
                "empty",
                &["10.96.0.2", "fd00:96::2"],
                &["http:80:8080", "dns:53:5353/UDP"],
            )),
    );
    let shop = Shop { _agent: world.agent(), world, pods, client };
    shop.scale(count);
    shop
}

impl Shop {
    /// Makes the first `count` pods the Service's endpoints.
    fn scale(&self, count: usize) {
        let pods = self.pods[..count].iter().map(|(pod, _)| {
            let addresses = pod.addresses();
            manifest::pod(&pod.name, "cart", &[&addresses[0], &addresses[1]])
        });
        self.world.apply("pods", &pods.collect::<String>());
        let verdict = if count == 0 { "reject" } else { "translate" };
        for destination in ["10.96.0.1:80", "[fd00:96::1]:80", "10.96.0.1:53/udp", "[fd00:96::1]:53/udp"] {
            self.world.wait_verdict(destination, verdict, count);
        }
    }
}

type Dial = fn(&mut Peer, &str) -> Outcome;
const TCP: Dial = Peer::tcp;
const UDP: Dial = Peer::udp;
const UDP_CONNECTED: Dial = Peer::udp_connected;

/// Every way to dial the Service: name, how, address.
const WAYS: [(&str, Dial, &str); 9] = [
    ("TCP over IPv4", TCP, "10.96.0.1:80"),
    ("TCP over IPv6", TCP, "[fd00:96::1]:80"),
    ("TCP, IPv4 mapped", TCP, "[::ffff:10.96.0.1]:80"),
    ("UDP over IPv4", UDP, "10.96.0.1:53"),
    ("UDP over IPv6", UDP, "[fd00:96::1]:53"),
    ("UDP, IPv4 mapped", UDP, "[::ffff:10.96.0.1]:53"),
    ("connected UDP over IPv4", UDP_CONNECTED, "10.96.0.1:53"),
    ("connected UDP over IPv6", UDP_CONNECTED, "[fd00:96::1]:53"),
    ("connected UDP, IPv4 mapped", UDP_CONNECTED, "[::ffff:10.96.0.1]:53"),
];

fn assert_peer(case: &str, answer: &Answer, dialled: &str) {
    let peer = answer.peer.expect("a peer");
    assert_eq!(peer, address(dialled), "{case}: the client sees the address it dialled");
}

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
fn scaling_takes_effect_for_new_connections_and_leaves_open_ones_alone() {
    let mut shop = shop(3);
    let id = shop.client.id();
    let first = shop.client.command(&Command::Tcp { id, to: address("10.96.0.1:80") }).unwrap();
    for count in [1, 0, 2] {
        shop.scale(count);
        for _ in 0..10 {
            match shop.client.tcp("10.96.0.1:80") {
                Ok(answer) => assert!(shop.pods[..count].iter().any(|(pod, _)| pod.name == answer.by)),
                Err(error) => assert_eq!((count, error.as_str()), (0, "ECONNREFUSED")),
            }
        }
        assert_eq!(shop.client.command(&Command::AskAgain { id }), Ok(first.clone()));
    }
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
    assert!(shop.client.tcp("10.96.0.1:53").is_err(), "TCP to a port that is UDP only");
    assert_eq!(shop.world.json(&["explain", "10.96.0.1:53"])["verdict"], "pass");
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
