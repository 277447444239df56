//! `sluice monitor`: what is told, to whom, and what it costs nobody.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::time::{Duration, Instant};

use aya::maps::{Array, Map, MapData, RingBuf};
use rustix::process::Signal;
use serde_json::Value;
use sluice_common::layout::{CONFIG_WATCHED, CONFIG_WATCHED_EACH};
use sluice_tests::{
    manifest,
    monitor::{Monitor, check},
    peer::{Command, address},
    shop::{Shop, shop},
    wait,
    world::{Node, Pod, text},
};

/// Whether the backend is one of the pods of the shop, and is called so.
fn leads_to_a_pod(shop: &Shop, row: &Value, port: u16) -> bool {
    let is_it = |pod: &Pod| {
        [format!("{}:{port}", pod.v4), format!("[{}]:{port}", pod.v6)].iter().any(|at| row["backend"] == *at)
    };
    let found = shop.pods.iter().find(|(pod, _)| is_it(pod));
    found.is_some_and(|(pod, _)| row["pod"] == format!("shop/{}", pod.name))
}

#[test]
fn sockets_are_told_of_with_the_names_of_what_they_dial() {
    let mut shop = shop(2);
    let client = shop.world.find("client").clone();
    let mut monitor = Monitor::start(&shop.world, &[]);
    for (to, hook, own) in [
        ("10.96.0.1:80", "connect4", client.v4.to_string()),
        ("[fd00:96::1]:80", "connect6", client.v6.to_string()),
    ] {
        shop.client.tcp(to).unwrap();
        let row = monitor.event("connect_translated", to);
        check(
            &row,
            &[
                ("hook", hook.into()),
                ("verdict", "translate".into()),
                ("protocol", "TCP".into()),
                ("service", "shop/cart".into()),
                ("port", "http".into()),
                ("client", own.into()),
                ("clientPort", ().into()),
                ("node", "node-1".into()),
            ],
        );
        assert!(leads_to_a_pod(&shop, &row, 8080), "{row}");
    }
    for (to, service, reason) in
        [("10.96.0.2:80", "shop/empty".into(), "no_endpoints"), ("10.96.0.1:81", Value::Null, "unknown_port")]
    {
        assert_eq!(shop.client.tcp(to), Err("ECONNREFUSED".to_owned()));
        let row = monitor.event(reason, to);
        check(&row, &[("verdict", "reject".into()), ("service", service), ("backend", Value::Null)]);
    }
    let mut host = shop.world.peer(shop.world.node());
    host.tcp("10.96.0.1:80").unwrap();
    check(&monitor.event("connect_translated", "10.96.0.1:80"), &[("client", "host".into())]);
    let (status, rest, said) = monitor.end();
    assert!(status.success() && rest.is_empty(), "{status} {rest:?}");
    assert_eq!(said, ["5 shown, 0 filtered out, 0 lost"], "the self-probe is not shown");
}

#[test]
fn datagrams_are_told_of_once_for_each_exchange_unless_each_is_asked_for() {
    let mut shop = shop(2);
    let (to, marker) = ("10.96.0.1:53", "10.96.0.2:80");
    for (flags, want) in [
        (&[][..], &["send_translated"][..]),
        (&["--each"], &["send_translated", "reply_translated", "send_translated", "reply_translated"]),
        (&["--reason", "reply_translated", "--reason", "no_endpoints"], &["reply_translated"; 2]),
    ] {
        let mut monitor = Monitor::start(&shop.world, flags);
        shop.client.udp(to).unwrap();
        shop.client.command(&Command::UdpAsk { id: 0, to: Some(address(to)) }).unwrap();
        shop.client.tcp(marker).unwrap_err();
        let rows = monitor.until("no_endpoints", marker);
        let told = &rows[..rows.len() - 1];
        let reasons: Vec<&Value> = told.iter().map(|row| &row["reason"]).collect();
        assert_eq!(reasons, want, "{flags:?}");
        for row in told {
            check(
                row,
                &[("dialled", to.into()), ("service", "shop/cart".into()), ("protocol", "UDP".into())],
            );
            assert!(leads_to_a_pod(&shop, row, 5353), "{row}");
        }
    }
}

#[test]
fn filters_leave_out_and_counts_end() {
    let mut shop = shop(1);
    let client = shop.world.find("client").v4.to_string();
    let mut host = shop.world.peer(shop.world.node());
    for (flags, want) in [
        (vec!["--drops"], vec!["10.96.0.2:80", "10.96.0.1:81"]),
        (vec!["--reason", "unknown_port"], vec!["10.96.0.1:81"]),
        (vec!["--service", "shop/cart", "--protocol", "tcp"], vec!["10.96.0.1:80", "10.96.0.1:80"]),
        (vec!["--protocol", "udp"], vec!["10.96.0.1:53"]),
        (vec!["--from", "host"], vec!["10.96.0.1:80"]),
        (vec!["--from", &client, "--to", "10.96.0.1"], vec!["10.96.0.1:80", "10.96.0.1:81", "10.96.0.1:53"]),
        (vec!["--to", "10.96.0.1:81"], vec!["10.96.0.1:81"]),
    ] {
        let count = want.len().to_string();
        let mut monitor = Monitor::start(&shop.world, &[&flags[..], &["--count", &count]].concat());
        shop.client.tcp("10.96.0.1:80").unwrap();
        shop.client.tcp("10.96.0.2:80").unwrap_err();
        shop.client.tcp("10.96.0.1:81").unwrap_err();
        shop.client.udp("10.96.0.1:53").unwrap();
        host.tcp("10.96.0.1:80").unwrap();
        let dialled: Vec<Value> = want.iter().map(|_| monitor.row()["dialled"].clone()).collect();
        assert_eq!(dialled, want, "{flags:?}");
        let (status, rest, said) = monitor.ended();
        assert!(status.success() && rest.is_empty(), "{flags:?}: {status} {rest:?}");
        assert!(said[0].starts_with(&format!("{count} shown, ")), "{flags:?}: {said:?}");
    }
    let node: &Node = &shop.world;
    let words = ["monitor", "--duration", "1", "--drops"];
    let output = node.sluice(&words);
    assert!(output.status.success() && text(&output).contains("TIME (UTC)"), "{}", text(&output));
    for wrong in [["--reason", "packet_known"], ["--to", "shop/cart"], ["--from", "cart-1"], ["--count", "0"]]
    {
        let output = node.sluice(&[&["monitor"], &wrong[..]].concat());
        assert_eq!(output.status.code(), Some(2), "{wrong:?}: {}", text(&output));
    }
}

#[test]
fn people_read_lines() {
    let mut shop = shop(1);
    let mut monitor = Monitor::spawn(&shop.world, &["--count", "2"]);
    assert!(monitor.said().starts_with("watching"));
    shop.client.tcp("10.96.0.1:80").unwrap();
    shop.client.tcp("10.96.0.2:80").unwrap_err();
    let (status, lines, said) = monitor.ended();
    assert!(status.success(), "{said:?}");
    let words: Vec<String> =
        lines.iter().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    let (client, pod) = (shop.world.find("client").v4, shop.pods[0].0.v4);
    for (line, want) in words.iter().zip([
        "TIME (UTC) HOOK VERDICT REASON CLIENT → DIALLED → BACKEND SERVICE".to_owned(),
        format!(
            "connect4 translate connect_translated {client} → 10.96.0.1:80/TCP → {pod}:8080 shop/cart:http by shop/cart-1 on node-1"
        ),
        format!("connect4 reject no_endpoints {client} → 10.96.0.2:80/TCP shop/empty:http"),
    ]) {
        assert!(line.ends_with(&want), "{line:?}, wanted {want:?}");
    }
}

/// The ring buffer as another reader sees it.
fn ring(node: &Node) -> RingBuf<MapData> {
    let map = MapData::from_pin(node.bpffs().join("maps/EVENTS")).unwrap();
    Map::RingBuf(map).try_into().unwrap()
}

/// Takes what is there; how much that was.
fn drain(ring: &mut RingBuf<MapData>) -> usize {
    let mut count = 0;
    while ring.next().is_some() {
        count += 1;
    }
    count
}

fn config(node: &Node, index: u32) -> u64 {
    let map = MapData::from_pin(node.bpffs().join("maps/CONFIG")).unwrap();
    Array::<_, u64>::try_from(Map::Array(map)).unwrap().get(&index, 0).unwrap()
}

#[test]
fn while_nobody_watches_nothing_is_written() {
    let mut shop = shop(1);
    let mut dial = || {
        shop.client.tcp("10.96.0.1:80").unwrap();
        shop.client.udp("10.96.0.1:53").unwrap();
        shop.client.tcp("10.96.0.2:80").unwrap_err();
    };
    let node: &Node = &shop.world;
    let mut ring = ring(node);
    dial();
    assert_eq!(drain(&mut ring), 0, "nobody has watched yet");
    let mut monitor = Monitor::start(node, &["--each"]);
    dial();
    assert_eq!(monitor.until("no_endpoints", "10.96.0.2:80").len(), 4);
    drop(monitor.end());
    assert_eq!((config(node, CONFIG_WATCHED), config(node, CONFIG_WATCHED_EACH)), (0, 0));
    let mut ring = self::ring(node);
    drain(&mut ring);
    dial();
    assert_eq!(drain(&mut ring), 0, "it has ended");
    // One that dies without a word is believed for two seconds more.
    let monitor = Monitor::start(node, &[]);
    monitor.signal(Signal::KILL);
    drop(monitor.ended());
    let died = Instant::now();
    let mut ring = self::ring(node);
    wait::until("silence", || {
        drain(&mut ring);
        dial();
        if drain(&mut ring) == 0 { Ok(()) } else { Err("still told") }
    });
    assert!(died.elapsed() < Duration::from_secs(4), "{:?}", died.elapsed());
    assert_eq!(config(node, CONFIG_WATCHED), 0, "and forgotten by who noticed");
}

#[test]
fn a_second_watcher_is_told_of_the_first() {
    let mut shop = shop(1);
    let mut monitor = Monitor::start(&shop.world, &[]);
    let output = shop.world.sluice(&["monitor", "--count", "1"]);
    assert_eq!(output.status.code(), Some(1));
    let said = text(&output);
    assert!(said.contains(&format!("another `sluice monitor` with pid {} watches", monitor.pid())), "{said}");
    shop.client.tcp("10.96.0.1:80").unwrap();
    monitor.event("connect_translated", "10.96.0.1:80");
    // An agent that is replaced changes nothing for it.
    shop.restart_agent();
    shop.client.tcp("10.96.0.1:80").unwrap();
    monitor.event("connect_translated", "10.96.0.1:80");
    shop.kill_agent();
    shop.client.tcp("10.96.0.1:80").unwrap();
    monitor.event("connect_translated", "10.96.0.1:80");
    assert!(shop.world.sluice(&["cleanup"]).status.success());
    let (status, _, said) = monitor.ended();
    assert_eq!(status.code(), Some(1));
    assert!(said[0].contains("removed or made anew"), "{said:?}");
    let output = shop.world.sluice(&["monitor"]);
    assert!(text(&output).contains("is Sluice running here"), "{}", text(&output));
}

#[test]
fn a_reader_that_goes_ends_it_without_a_word() {
    let mut shop = shop(1);
    let mut monitor = Monitor::start(&shop.world, &[]);
    monitor.stop_reading();
    shop.client.tcp("10.96.0.1:80").unwrap();
    let (status, _, said) = monitor.ended();
    assert!(status.success() && said.is_empty(), "{status} {said:?}");
}

#[test]
fn what_finds_no_room_is_counted_and_told() {
    let mut shop = shop(1);
    let monitor = Monitor::start(&shop.world, &["--to", "10.96.0.2:53"]);
    monitor.signal(Signal::STOP);
    // More than the ring buffer has room for, in less time than a watcher's word counts.
    let to = address("10.96.0.1:53");
    wait::until("a full ring buffer", || {
        monitor.signal(Signal::CONT);
        std::thread::yield_now();
        monitor.signal(Signal::STOP);
        shop.client.measure(&Command::Measure { to, count: 3_000, udp: true }).unwrap();
        let rows = shop.world.json(&["reasons"]);
        let lost = rows.as_array().unwrap().iter().find(|row| row["name"] == "event_lost").unwrap();
        if lost["count"].as_u64() > Some(0) { Ok(()) } else { Err(lost.clone()) }
    });
    monitor.signal(Signal::CONT);
    let (status, rest, said) = monitor.end();
    assert!(status.success() && rest.is_empty());
    assert!(said[0].contains("events lost: they come faster"), "{said:?}");
    assert!(said[1].starts_with("0 shown, ") && !said[1].ends_with(" 0 lost"), "{said:?}");
}

/// A rule that leads to the Service itself, and asks for the address that was dialled, which is nothing for the kernel.
const RULES: &str = "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\n\
    metadata: {name: cart, namespace: shop}\nspec:\n  hosts: [cart]\n  tcp:\n\
    \x20 - match: [{destinationSubnets: [0.0.0.0/0, \"::/0\"]}]\n    route: [{destination: {host: cart}}]\n";

#[test]
fn what_is_steered_is_told_of_twice_and_so_is_what_may_not_be_bound() {
    let mut shop = shop(1);
    let service = manifest::service("cart", &["10.96.0.1", "fd00:96::1"], &["tcp:80:8080"])
        .replace("spec:\n", "spec:\n  type: NodePort\n")
        .replace("port: 80,", "port: 80, nodePort: 30080,");
    shop.world.apply("shop", &service);
    shop.world.apply("rules", RULES);
    wait::until("the redirector", || {
        let answer = shop.world.json(&["explain", "10.96.0.1:80"]);
        if answer["reason"] == "redirected" { Ok(()) } else { Err(answer) }
    });
    let client = shop.world.find("client").clone();
    let mut monitor = Monitor::start(&shop.world, &[]);
    for (to, own) in [("10.96.0.1:80", client.v4.to_string()), ("[fd00:96::1]:80", client.v6.to_string())] {
        shop.client.tcp(to).unwrap();
        for (reason, netns) in [("redirected", true), ("steered", false)] {
            let row = monitor.event(reason, to);
            check(
                &row,
                &[
                    ("client", own.clone().into()),
                    ("service", "shop/cart".into()),
                    ("verdict", "translate".into()),
                    ("backend", Value::Null),
                ],
            );
            assert_eq!(row["netns"].is_u64(), netns, "{row}");
            assert_eq!(row["clientPort"].is_u64(), !netns, "{row}");
        }
    }
    let mut host = shop.world.peer(shop.world.node());
    let command = Command::Serve { name: "daemon".to_owned(), port: 30_080, udp: false };
    host.command(&command).unwrap_err();
    let row = loop {
        let row = monitor.row();
        if row["reason"] == "node_port_in_use" {
            break row;
        }
    };
    check(&row, &[("client", "host".into()), ("verdict", "reject".into()), ("dialled", "[::]:30080".into())]);
}
