//! Clients outside of the cluster while the agent of the node that they dial dies, stays away and is replaced.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::{
    collections::{BTreeMap, BTreeSet},
    os::unix::fs::MetadataExt as _,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    time::Duration,
};

use sluice_tests::{
    outside::Outside,
    peer::{Answer, Command, Peer, address},
    wait,
    world::{Node, Pod, text, tool},
};

/// What each of a client's sockets carries, over and over.
const BYTES: u64 = 1 << 18;
/// Rounds of every client that make a pause with no agent, or with the next one.
const ROUNDS: usize = 3;
/// Between two rounds, so that clients leave the CPU to the agent that starts: this is no load test.
const BREATH: Duration = Duration::from_millis(50);

/// A client with sockets to both pods by the addresses of one family and kind.
struct Client {
    peer: Peer,
    tcp: String,
    udp: String,
    /// Number of the socket, and what it was answered first.
    streams: BTreeMap<u32, Answer>,
    datagrams: BTreeMap<u32, Answer>,
}

impl Client {
    /// Dials until sockets of both kinds lead to each of the pods.
    fn new(mut peer: Peer, [tcp, udp]: [String; 2]) -> Self {
        let to = address(&udp);
        let streams = one_for_each_pod(|| {
            let id = peer.id();
            (id, peer.command(&Command::Tcp { id, to: address(&tcp) }).unwrap())
        });
        let datagrams = one_for_each_pod(|| {
            let id = peer.id();
            peer.command(&Command::UdpOpen { id, v6: to.is_ipv6() }).unwrap();
            (id, peer.command(&Command::UdpAsk { id, to: Some(to) }).unwrap())
        });
        Self { peer, tcp, udp, streams, datagrams }
    }

    /// Uses each socket once more; each is led to where it was.
    fn round(&mut self) {
        let to = address(&self.udp);
        for (id, first) in &self.streams {
            let echo = self.peer.command(&Command::TcpEcho { id: *id, bytes: BYTES });
            echo.unwrap_or_else(|error| panic!("{} {}: {error}", self.tcp, first.by));
            let again = self.peer.command(&Command::AskAgain { id: *id });
            assert_eq!(again.as_ref(), Ok(first), "{}", self.tcp);
        }
        for (id, first) in &self.datagrams {
            let again = self.peer.command(&Command::UdpAsk { id: *id, to: Some(to) });
            assert_eq!(again.as_ref(), Ok(first), "{}", self.udp);
        }
        for outcome in [self.peer.tcp(&self.tcp), self.peer.udp(&self.udp)] {
            assert!(outcome.is_ok(), "a new connection to {}: {outcome:?}", self.tcp);
        }
    }
}

/// Ends the clients, also when the test fails.
struct Done<'d>(&'d AtomicBool);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn one_for_each_pod(mut dial: impl FnMut() -> (u32, Answer)) -> BTreeMap<u32, Answer> {
    let mut by_pod = BTreeMap::new();
    wait::until("both pods", || {
        let (id, answer) = dial();
        by_pod.entry(answer.by.clone()).or_insert((id, answer));
        if by_pod.len() == 2 { Ok(()) } else { Err(by_pod.len()) }
    });
    by_pod.into_values().collect()
}

/// Inode numbers of all pins: a pin that was made anew has another.
fn pins(node: &Node) -> BTreeMap<String, u64> {
    let folders = ["links", "maps"].map(|folder| std::fs::read_dir(node.bpffs().join(folder)).unwrap());
    let entries = folders.into_iter().flatten().map(Result::unwrap);
    entries.map(|entry| (entry.file_name().into_string().unwrap(), entry.metadata().unwrap().ino())).collect()
}

/// Kills the agent of node 1 and starts one with the next of these flags, until there are none left, while the clients go on.
fn replace_under_traffic(outside: &mut Outside, clients: Vec<Client>, next: &[&[&str]]) {
    let (done, rounds) = (AtomicBool::new(false), [const { AtomicUsize::new(0) }; 4]);
    assert!(clients.len() <= rounds.len());
    let rounds = &rounds[..clients.len()];
    std::thread::scope(|scope| {
        let _done = Done(&done);
        let threads: Vec<_> = clients
            .into_iter()
            .zip(rounds)
            .map(|(mut client, count)| {
                let done = &done;
                scope.spawn(move || {
                    while !done.load(Ordering::Relaxed) {
                        client.round();
                        count.fetch_add(1, Ordering::Relaxed);
                        std::thread::sleep(BREATH);
                    }
                })
            })
            .collect();
        let wait_rounds = || {
            let seen: Vec<usize> = rounds.iter().map(|count| count.load(Ordering::Relaxed)).collect();
            wait::until("clients go on", || {
                let ended = threads.iter().any(|thread| thread.is_finished());
                let now = rounds.iter().map(|count| count.load(Ordering::Relaxed));
                let enough = now.zip(&seen).all(|(now, seen)| now >= seen + ROUNDS);
                if enough || ended { Ok(()) } else { Err("still waiting") }
            });
        };
        for flags in next {
            wait_rounds();
            outside.agents.remove(0).kill();
            wait_rounds();
            outside.agents.insert(0, outside.world.node(1).agent_with(flags));
        }
        wait_rounds();
    });
}

#[test]
fn connections_from_outside_outlive_agents_and_new_ones_need_none() {
    for flags in [&[][..], &["--forwarding", "dsr"], &["--xdp", "native"], &["--tc", "clsact"]] {
        let mut outside = Outside::new(&[1, 2], flags);
        // NodePort and load balancer of IPv4 and IPv6.
        let dialled = outside.dialled(1);
        let clients: Vec<Client> = [0, 1, 4, 5]
            .into_iter()
            .map(|index| Client::new(outside.world.client().peer(), dialled[index].clone()))
            .collect();
        let before = pins(outside.world.node(1));
        let has_links = before.keys().any(|name| name.contains("from_network"));
        assert!(
            has_links || std::env::var_os("SLUICE_TC").is_some() || flags.contains(&"clsact"),
            "{before:?}"
        );
        replace_under_traffic(&mut outside, clients, &[flags, flags]);
        assert_eq!(pins(outside.world.node(1)), before, "{flags:?}: every link and map is the same");
    }
}

/// Sizes of all maps whose contents clients hang on, and of those that name their backends.
const OTHER_SIZES: [&str; 12] = [
    "--max-flows",
    "5000",
    "--max-udp-flows",
    "4000",
    "--max-affinities",
    "3000",
    "--max-slots",
    "6000",
    "--max-source-ranges",
    "700",
    "--max-frontends",
    "900",
];

/// Entries and capacity of a map, as `status` has them.
fn filled(node: &Node, name: &str) -> (u64, u64) {
    let status = node.json(&["status"]);
    let maps = status["maps"].as_array().unwrap();
    let map = maps.iter().find(|map| map["name"] == name).unwrap();
    (map["entries"].as_u64().unwrap(), map["capacity"].as_u64().unwrap())
}

/// Who is remembered for whom: services and backends by name.
fn remembered(node: &Node) -> BTreeSet<String> {
    let rows = node.json(&["affinity"]);
    let rows = rows.as_array().unwrap().iter();
    rows.map(|row| format!("{} {} {}", row["client"], row["service"], row["backend"])).collect()
}

#[test]
fn connections_outlive_agents_with_maps_of_other_sizes() {
    let mut outside = Outside::new(&[1, 2], &[]);
    let dialled = outside.dialled(1);
    let clients: Vec<Client> = [0, 1, 4, 5]
        .into_iter()
        .map(|index| Client::new(outside.world.client().peer(), dialled[index].clone()))
        .collect();
    replace_under_traffic(&mut outside, clients, &[&OTHER_SIZES, &[], &["--max-flows", "4000"]]);
    let node = outside.world.node(1);
    assert_eq!(filled(node, "FLOWS").1, 4000);
    for folder in
        [sluice::maps::Pins::at(&node.bpffs()).before().root().to_owned(), node.bpffs().join("spent")]
    {
        assert!(!folder.exists(), "{} is not needed any more", folder.display());
    }
}

#[test]
fn choices_and_ways_back_outlive_agents_with_maps_of_other_sizes() {
    let mut outside = Outside::new(&[1, 2], &[]);
    outside.apply("sessionAffinity: ClientIP\n");
    let dialled = outside.dialled(1);
    wait::until("affinity", || {
        outside.client.tcp(&dialled[0][0]).unwrap();
        if remembered(outside.world.node(1)).is_empty() { Err("nobody is remembered") } else { Ok(()) }
    });
    let mut inside = outside.world.pod(1, "inside").peer();
    let dns = Command::UdpAsk { id: 1, to: Some(address("10.96.0.1:53")) };
    inside.command(&Command::UdpOpen { id: 1, v6: false }).unwrap();
    let asked = inside.command(&dns).unwrap();
    inside.tcp("10.96.0.1:80").unwrap();
    outside.client.udp(&dialled[4][1]).unwrap();
    let node = outside.world.node(1);
    let (before, ids) = (remembered(node), node.json(&["frontend"]));
    let ways_back = filled(node, "UDP_REVNAT").0;
    assert!(before.len() >= 3 && ways_back > 0, "{before:?}, {ways_back}");
    for (flags, capacity) in [(&OTHER_SIZES[..], 3000), (&[], 65_536)] {
        outside.agents.remove(0).kill();
        outside.agents.insert(0, outside.world.node(1).agent_with(flags));
        let node = outside.world.node(1);
        assert_eq!(filled(node, "AFFINITY").1, capacity);
        assert_eq!(remembered(node), before);
        assert_eq!(filled(node, "UDP_REVNAT").0, ways_back);
        assert_eq!(node.json(&["frontend"]), ids, "ids are what they were");
    }
    assert_eq!(inside.command(&dns), Ok(asked), "the dialogue goes on");
}

/// Waits until the agent has looked at what the packet path remembers.
fn wait_looked(node: &Node) {
    wait::until("a look at FLOWS", || {
        let metrics =
            node.host.command("curl").args(["-s", "http://127.0.0.1:10249/metrics"]).output().unwrap();
        let metrics = String::from_utf8(metrics.stdout).unwrap();
        if metrics.contains("sluice_map_entries{map=\"FLOWS\"}") { Ok(()) } else { Err(metrics) }
    });
}

#[test]
fn connections_of_pods_without_hooks_outlive_agents_that_found_none_before() {
    let mut outside = Outside::new(&[1, 2], &[]);
    wait_looked(outside.world.node(1));
    let pod = outside.world.pod(1, "alone");
    let cgroup = sluice::loader::find_cgroup(None).unwrap();
    let peer = Pod { cgroup, ..pod.clone() }.peer();
    // The load balancer's address in IPv4: programs at the pod's device begin these connections, and must know them.
    let mut client = Client::new(peer, outside.dialled(1)[1].clone());
    for _ in 0..2 {
        client.round();
        outside.agents.remove(0).kill();
        client.round();
        outside.agents.insert(0, outside.world.node(1).agent_with(&[]));
        wait_looked(outside.world.node(1));
        client.round();
    }
}

/// Devices of the node at which `ip` shows an XDP program.
fn with_xdp(node: &Node) -> BTreeSet<String> {
    let output = tool("ip").args(["-n", &node.host.netns, "-d", "-o", "link"]).output().unwrap();
    let text = text(&output);
    let lines = text.lines().filter(|line| line.contains("prog/xdp"));
    lines.filter_map(|line| Some(line.split([':', '@']).nth(1)?.trim().to_owned())).collect()
}

#[test]
fn cleanup_detaches_everything_from_devices() {
    let mut outside = Outside::new(&[1, 2], &["--xdp", "native"]);
    let node_port = outside.dialled(1)[0][0].clone();
    assert!(outside.client.tcp(&node_port).is_ok());
    let node = outside.world.node(1);
    assert!(with_xdp(node).contains("eth0"), "{:?}", with_xdp(node));
    outside.agents.remove(0).kill();
    assert!(outside.client.tcp(&node_port).is_ok(), "with the agent away");
    let output = node.sluice(&["cleanup"]);
    assert!(output.status.success(), "{}", text(&output));
    wait::until("no XDP program", || if with_xdp(node).is_empty() { Ok(()) } else { Err(with_xdp(node)) });
    for folder in ["maps", "links"] {
        assert!(!node.bpffs().join(folder).exists(), "no pin is left in {folder}");
    }
    assert_eq!(outside.client.tcp(&node_port), Err("ECONNREFUSED".to_owned()), "nobody listens there");
    outside.agents.insert(0, node.agent_with(&[]));
    assert!(outside.client.tcp(&node_port).is_ok(), "and it starts again");
}
