//! What a node does to us: no room for logs, no memory for the redirector, pods whose network goes while we are in it. Nothing
//! stops, and the maps say in the end what a fresh start would have written.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::Write as _,
    os::unix::process::ExitStatusExt as _,
    path::PathBuf,
    process::{Child, Stdio},
};

use sluice::{
    loader::{self, Point, Tc},
    maps::Sizes,
};
use sluice_tests::{
    canonical,
    http::{curl, nginx},
    manifest,
    peer::{Command, address},
    wait,
    world::{Agent, World, ip, kill, sluice_binary, text, tool},
};

const DIRECT: &str = "  - directResponse: {status: 418}\n";

/// A VirtualService for cart with these entries of `http`.
fn rules(http: &str) -> String {
    format!(
        "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: cart, namespace: shop}}\n\
         spec:\n  hosts: [cart]\n  http:\n{http}"
    )
}

fn spawn(world: &World) -> Agent {
    let manifests = world.manifests().display().to_string();
    world.spawn_agent(&["--manifests", &manifests, "--redirector", "external"])
}

/// A redirector of the test's own, which logs each request.
fn redirector(world: &World) -> Child {
    let mut command = world.node().command(&sluice_binary().display().to_string());
    command.args(["redirector", "--access-log", "1.0"]).arg("--run-dir").arg(world.folder().join("run"));
    let log = File::options().create(true).append(true).open(world.folder().join("agent.log")).unwrap();
    command.arg("--bpffs").arg(world.bpffs()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    command.spawn().unwrap()
}

fn wait_path(world: &World, path: &str) {
    wait::until(path, || {
        // There may be no maps yet.
        let output = world.sluice(&["explain", "10.96.0.1:80", "-o", "json"]);
        let answer: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        let found = answer["path"].clone();
        if found == path { Ok(()) } else { Err((found, world.log())) }
    });
}

fn contents(world: &World) -> Vec<String> {
    wait::until("maps at rest", || canonical::contents(world).map_err(|error| format!("{error:#}")))
}

/// Ends the agent and the redirector, removes everything, starts anew: the maps must come to say the same.
fn same_as_a_fresh_start(world: &World, agent: Agent, old: Option<Child>) {
    let after = contents(world);
    drop(agent);
    let serves = old.map(|mut old| kill(&mut old)).is_some();
    assert!(world.sluice(&["cleanup"]).status.success());
    let _fresh = spawn(world);
    // It goes with the world.
    let _redirector = serves.then(|| redirector(world));
    wait::until("the contents of a fresh start", || {
        let difference = canonical::difference(&after, &contents(world));
        if difference.is_empty() { Ok(()) } else { Err(difference) }
    });
}

#[test]
fn no_room_for_logs_stops_neither_the_agent_nor_requests() {
    let mut world = World::new();
    let (pod, client) = (world.pod("cart-1"), world.pod("client"));
    let _server = nginx(&world, &pod, 8080);
    let full = world.folder().join("full");
    fs::create_dir(&full).unwrap();
    rustix::mount::mount("tmpfs", &full, "tmpfs", rustix::mount::MountFlags::empty(), Some(c"size=64k"))
        .unwrap();
    let mut filler = File::create(full.join("filler")).unwrap();
    while filler.write(&[0; 512]).is_ok() {}
    let log = full.join("agent.log");
    std::os::unix::fs::symlink(&log, world.folder().join("agent.log")).unwrap();
    world.apply("shop", &manifest::service("cart", &["10.96.0.1"], &["http:80:8080"]));
    world.apply("pods", &manifest::pod("cart-1", "cart", &[&pod.v4.to_string()]));
    let mut agent = spawn(&world);
    world.wait_healthy();
    assert_eq!(curl(&client, &["http://10.96.0.1/kb"]).status, 200);
    world.apply("rules", &rules(DIRECT));
    let mut redirector = redirector(&world);
    wait_path(&world, "redirector");
    for round in 0..50 {
        assert_eq!(curl(&client, &["http://10.96.0.1/"]).status, 418, "{round}");
    }
    // Objects with problems are logged too.
    world.apply("odd", &manifest::service("odd", &["10.96.0.300"], &["http:80:8080"]));
    wait::until("the warning", || {
        let status = world.json(&["status"]);
        if status["warnings"].to_string().contains("10.96.0.300") { Ok(()) } else { Err(status) }
    });
    assert_eq!(fs::metadata(&log).unwrap().len(), 0, "there was no room");
    assert!(agent.ended().is_none() && redirector.try_wait().unwrap().is_none());
    same_as_a_fresh_start(&world, agent, Some(redirector));
}

/// A memory cgroup of its own, and the names of its limit and of its events.
struct Limited {
    folder: PathBuf,
    limit: &'static str,
}

impl Limited {
    /// Without a limit yet. Cgroup v2 if that has the controller, v1 else.
    fn new(world: &World) -> Self {
        let root = loader::find_cgroup(None).unwrap();
        let id = world.folder().file_name().unwrap().to_owned();
        if fs::read_to_string(root.join("cgroup.controllers"))
            .unwrap()
            .split(' ')
            .any(|name| name.trim() == "memory")
        {
            for above in [&root, world.cgroup()] {
                fs::write(above.join("cgroup.subtree_control"), "+memory").unwrap();
            }
            let folder = world.cgroup().join("limited");
            fs::create_dir(&folder).unwrap();
            return Self { folder, limit: "memory.max" };
        }
        let folder = PathBuf::from("/sys/fs/cgroup/memory").join(id);
        fs::create_dir(&folder).expect("a memory cgroup, v2 or v1");
        Self { folder, limit: "memory.limit_in_bytes" }
    }

    /// Takes a process in, which may have this much from now on.
    fn take(&self, pid: u32, bytes: u32) {
        fs::write(self.folder.join(self.limit), bytes.to_string()).unwrap();
        fs::write(self.folder.join("cgroup.procs"), pid.to_string()).unwrap();
    }

    /// How many processes were killed for want of memory.
    fn kills(&self) -> u64 {
        let texts =
            ["memory.events", "memory.oom_control"].map(|name| fs::read_to_string(self.folder.join(name)));
        let text = texts.into_iter().flatten().collect::<String>();
        text.lines().find_map(|line| line.strip_prefix("oom_kill ")).map_or(0, |count| count.parse().unwrap())
    }
}

impl Drop for Limited {
    fn drop(&mut self) {
        let _busy_if_a_test_failed = fs::remove_dir(&self.folder);
    }
}

#[test]
fn a_redirector_that_the_kernel_kills_for_memory_is_gone_round_until_the_next_one_serves() {
    let mut world = World::new();
    let (pod, client) = (world.pod("cart-1"), world.pod("client"));
    let _server = nginx(&world, &pod, 8080);
    world.apply("shop", &manifest::service("cart", &["10.96.0.1"], &["http:80:8080"]));
    world.apply("pods", &manifest::pod("cart-1", "cart", &[&pod.v4.to_string()]));
    world.apply("rules", &rules(DIRECT));
    let agent = spawn(&world);
    let mut first = redirector(&world);
    wait_path(&world, "redirector");
    let limited = Limited::new(&world);
    limited.take(first.id(), 8 << 20);
    assert_eq!(curl(&client, &["http://10.96.0.1/"]).status, 418, "it serves within its limit");
    // Rules of 24 MB, with 8 to put them into.
    let body = "x".repeat(1 << 20);
    let large = |path: u32| {
        format!(
            "  - match: [{{uri: {{exact: /{path}}}}}]\n    directResponse: {{status: 418, body: {{string: {body}}}}}\n"
        )
    };
    world.apply("rules", &rules(&((0..24).map(large).collect::<String>() + DIRECT)));
    let status = wait::until("its end", || first.try_wait().unwrap().ok_or_else(|| world.log()));
    assert_eq!(status.signal(), Some(9), "{status:?}");
    assert_eq!(limited.kills(), 1, "by the kernel, for memory");
    let balanced = || {
        let response = curl(&client, &["http://10.96.0.1/kb"]);
        if response.status == 200 { Ok(()) } else { Err(response) }
    };
    wait::until("balanced without rules", balanced);
    for _ in 0..20 {
        balanced().unwrap();
    }
    // Large rules that it has room for.
    let second = redirector(&world);
    wait::until("the next one serves", || {
        let response = curl(&client, &["http://10.96.0.1/23"]);
        let whole = response.status == 418 && response.body.len() == 1 << 20;
        if whole { Ok(()) } else { Err((response.status, world.log())) }
    });
    world.wait_healthy();
    wait_path(&world, "redirector");
    same_as_a_fresh_start(&world, agent, Some(second));
}

#[test]
fn pods_whose_network_goes_while_the_agent_is_in_it_leave_nothing_behind() {
    const ROUNDS: usize = 12;
    let mut world = World::new();
    let served: Vec<_> =
        (1..=2).map(|index| world.server(&format!("cart-{index}"), &[(5353, true)])).collect();
    let pods = |count: usize| {
        let pod = |(pod, _): &(sluice_tests::world::Pod, _)| {
            manifest::pod(&pod.name, "cart", &[&pod.v4.to_string()])
        };
        served[..count].iter().map(pod).collect::<String>()
    };
    world.apply("shop", &manifest::service("cart", &["10.96.0.1"], &["dns:53:5353/UDP"]));
    world.apply("pods", &pods(2));
    let agent = spawn(&world);
    world.wait_healthy();
    let links = |world: &World| fs::read_dir(world.bpffs().join("links")).unwrap().count();
    wait::until("programs at both pods' devices", || {
        if links(&world) > 4 { Ok(()) } else { Err(links(&world)) }
    });
    let before = links(&world);
    for round in 0..ROUNDS {
        let brief = world.pod(&format!("brief-{round}"));
        let mut peer = world.peer(&brief);
        // Sockets that the agent must end when their backend goes: it enters this namespace for them.
        for id in 0..8 {
            peer.command(&Command::UdpOpen { id, v6: false }).unwrap();
            let to = address("10.96.0.1:53");
            peer.command(&Command::UdpConnect { id, to }).unwrap();
        }
        world.apply("pods", &pods(1 + round % 2));
        // Device and namespace go at once, while a process still holds the namespace, or after its end.
        if round % 3 == 0 {
            drop(peer);
            ip(&format!("netns del {}", brief.netns));
        } else {
            ip(&format!("-n {} link del pod{}", world.node().netns, 3 + round));
            ip(&format!("netns del {}", brief.netns));
            drop(peer);
        }
    }
    world.apply("pods", &pods(2));
    world.wait_verdict("10.96.0.1:53/udp", "translate", 2);
    world.wait_healthy();
    wait::until("no pins of devices that are gone", || {
        let now = links(&world);
        if now == before { Ok(()) } else { Err((now, before)) }
    });
    same_as_a_fresh_start(&world, agent, None);
}

/// Uids of the pods that are left alone.
const UIDS: [&str; 2] = ["0f0e0d0c-1111-2222-3333-444455556666", "0f0e0d0c-1111-2222-3333-444455556667"];

#[test]
fn a_network_that_the_agent_has_visited_goes_with_its_pod() {
    let mut world = World::new();
    let served: Vec<_> =
        (1..=2).map(|index| world.server(&format!("cart-{index}"), &[(5353, true)])).collect();
    let mut visited: Vec<_> = (1..=3).map(|index| world.pod(&format!("client-{index}"))).collect();
    let mut peers: Vec<_> = visited.iter().map(|pod| world.peer(pod)).collect();
    // The last one that is found is where a thread would stay.
    let left_alone = UIDS.map(|uid| world.pod(&format!("pod{uid}")));
    peers.extend(left_alone.iter().map(|pod| world.peer(pod)));
    world.apply("shop", &manifest::service("cart", &["10.96.0.1"], &["dns:53:5353/UDP"]));
    let carts = |count: usize| {
        let pods = served[..count].iter();
        pods.map(|(pod, _)| manifest::pod(&pod.name, "cart", &[&pod.v4.to_string()])).collect::<String>()
    };
    let alone = left_alone.iter().zip(UIDS).map(|(pod, uid)| {
        let annotated =
            format!("metadata: {{uid: \"{uid}\", annotations: {{sluice.dev/socket-lb: \"false\"}}, name:");
        manifest::pod(&format!("alone-{uid}"), "alone", &[&pod.v4.to_string()])
            .replace("metadata: {name:", &annotated)
    });
    world.apply("alone", &alone.collect::<String>());
    world.apply("carts", &carts(2));
    let _agent = spawn(&world);
    for uid in UIDS {
        wait::until("pods are left alone", || {
            let from = format!("alone-{uid}");
            let answer = text(&world.sluice(&["explain", "--from", &from, "10.96.0.1:53/udp"]));
            if answer.contains("opted_out") { Ok(()) } else { Err((answer, world.log())) }
        });
    }
    for (peer, pod) in peers.iter_mut().zip(&visited) {
        for id in 0..8 {
            peer.command(&Command::UdpOpen { id, v6: false }).unwrap();
            peer.command(&Command::UdpConnect { id, to: address("10.96.0.1:53") })
                .unwrap_or_else(|error| panic!("{}: {error}", pod.name));
        }
    }
    world.apply("carts", &carts(1));
    wait::until("sockets are told of the endpoint that went", || {
        let log = world.log();
        if log.contains("told sockets that their backend is gone") { Ok(()) } else { Err(log) }
    });
    drop(peers);
    visited.extend(left_alone);
    // Nobody but the agent could hold them.
    let devices = || text(&tool("ip").args(["-n", &world.node().netns, "-o", "link"]).output().unwrap());
    let numbers = 3..3 + visited.len();
    let name = |number: usize| format!(" pod{number}@");
    assert!(numbers.clone().all(|number| devices().contains(&name(number))), "{}", devices());
    visited.iter().for_each(|pod| ip(&format!("netns del {}", pod.netns)));
    wait::until("their devices go", || {
        let devices = devices();
        let left: Vec<_> = numbers.clone().filter(|number| devices.contains(&name(*number))).collect();
        if left.is_empty() { Ok(()) } else { Err(left) }
    });
}

#[test]
fn a_device_that_goes_between_listing_and_attaching_is_no_failure() {
    let world = World::new();
    let claim = loader::claim(&world.bpffs(), Some(world.cgroup())).unwrap();
    let mut loaded = loader::load(claim, &Sizes::default()).unwrap();
    for tc in [Tc::Clsact, Tc::Auto] {
        // Index 1 is the loopback device's: it is there, and has no such name.
        for (case, ifindex, want) in [("gone", 1_000_000, 0), ("there, but not to be attached to", 1, 2)] {
            let points =
                [Point::EarlyGeneric, Point::EarlyNative].map(|point| ((ifindex, point), "gone0".to_owned()));
            let problems = loaded.attach_devices(&BTreeMap::from(points), tc);
            assert_eq!(problems.len(), want, "{case}, {tc:?}: {problems:?}");
        }
        let points = [Point::FromPod, Point::ToPod].map(|point| ((1_000_000, point), "gone0".to_owned()));
        assert_eq!(loaded.attach_devices(&BTreeMap::from(points), tc), BTreeMap::new(), "{tc:?}");
    }
}
