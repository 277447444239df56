//! Clients outside of the cluster while the agent of the node that they dial dies, stays away and is replaced.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::{
    collections::{BTreeMap, BTreeSet},
    os::unix::fs::MetadataExt as _,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
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
        let (done, rounds) = (AtomicBool::new(false), [const { AtomicUsize::new(0) }; 4]);
        std::thread::scope(|scope| {
            let _done = Done(&done);
            let threads: Vec<_> = clients
                .into_iter()
                .zip(&rounds)
                .map(|(mut client, count)| {
                    let done = &done;
                    scope.spawn(move || {
                        while !done.load(Ordering::Relaxed) {
                            client.round();
                            count.fetch_add(1, Ordering::Relaxed);
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
            for _ in 0..2 {
                wait_rounds();
                outside.agents.remove(0).kill();
                wait_rounds();
                outside.agents.insert(0, outside.world.node(1).agent_with(flags));
            }
            wait_rounds();
        });
        assert_eq!(pins(outside.world.node(1)), before, "{flags:?}: every link and map is the same");
    }
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
