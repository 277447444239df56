//! The side channel: connections to Services with rules end at the redirector, and no others do.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeSet;

use sluice_tests::{
    http::curl,
    manifest,
    peer::{Command, Peer, address},
    shop::{Shop, shop},
    wait,
    world::World,
};

/// A VirtualService whose only rule leads to the Service itself. It asks for the address that was dialled, which is
/// nothing for the kernel: connections go through the redirector.
const RULES: &str = "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\n\
    metadata: {name: cart, namespace: shop}\nspec:\n  hosts: [cart]\n  tcp:\n\
    \x20 - match: [{destinationSubnets: [0.0.0.0/0, \"::/0\"]}]\n    route: [{destination: {host: cart}}]\n";

/// Every address of the Service for TCP that rules can hold for.
fn addresses(world: &World) -> Vec<String> {
    let node = world.node();
    let plain = ["10.96.0.1:80", "[fd00:96::1]:80", "[::ffff:10.96.0.1]:80"].map(str::to_owned);
    let of_node = [format!("{}:30080", node.v4), format!("[{}]:30080", node.v6), format!("{}:80", node.v4)];
    // They are nobody's in this world, and the node must not make them its own.
    let of_others =
        ["192.0.2.9:80", "[2001:db8::9]:80", "198.51.100.7:80", "[2001:db8::7]:80"].map(str::to_owned);
    plain.into_iter().chain(of_node).chain(of_others).collect()
}

/// One of its external addresses is the node's own.
fn service(world: &World) -> String {
    manifest::service("cart", &["10.96.0.1", "fd00:96::1"], &["tcp:80:8080", "dns:53:5353/UDP"])
        .replace(
            "spec:\n",
            &format!(
                "spec:\n  type: LoadBalancer\n  externalIPs: [192.0.2.9, \"2001:db8::9\", {}]\n",
                world.node().v4
            ),
        )
        .replace("port: 80,", "port: 80, nodePort: 30080,")
        + "status: {loadBalancer: {ingress: [{ip: 198.51.100.7}, {ip: \"2001:db8::7\"}]}}\n"
}

fn wait_path(world: &World, path: &str) {
    wait::until(path, || {
        let rows = world.json(&["frontend"]);
        let tcp = rows
            .as_array()
            .unwrap()
            .iter()
            .filter(|row| row["protocol"] == "TCP" && row["service"] == "shop/cart");
        let paths: Vec<_> = tcp.map(|row| row["path"].clone()).collect();
        if !paths.is_empty() && paths.iter().all(|found| found == path) { Ok(()) } else { Err(rows) }
    });
    wait::until("healthy", || {
        let status = world.json(&["status"]);
        if status["healthy"] == true { Ok(()) } else { Err(format!("{status}{}", world.log())) }
    });
}

fn count(world: &World, reason: &str) -> u64 {
    let rows = world.json(&["reasons"]);
    rows.as_array().unwrap().iter().find(|row| row["name"] == reason).unwrap()["count"].as_u64().unwrap()
}

fn steered_shop(count: usize) -> Shop {
    let shop = shop(count);
    shop.world.apply("shop", &service(&shop.world));
    shop.world.apply("rules", RULES);
    wait_path(&shop.world, "redirector");
    shop
}

/// Dials every address; each answers, and shows itself as the peer. Returns whom the servers took for the client.
fn dial_all(world: &World, peer: &mut Peer, who: &str) -> BTreeSet<String> {
    let mut clients = BTreeSet::new();
    for to in addresses(world) {
        let answer = peer.tcp(&to).unwrap_or_else(|error| panic!("{who} to {to}: {error}: {}", world.log()));
        assert_eq!(answer.peer, Some(address(&to)), "{who} to {to}");
        assert!(answer.by.starts_with("cart-"), "{who} to {to}: {answer:?}");
        clients.insert(answer.client);
    }
    clients
}

#[test]
fn pods_and_the_node_are_steered_at_every_address_and_back_when_the_rules_go() {
    let mut shop = steered_shop(2);
    let mut host = shop.world.peer(shop.world.node());
    let before = count(&shop.world, "steered");
    dial_all(&shop.world, &mut shop.client, "pod");
    dial_all(&shop.world, &mut host, "node");
    for loopback in ["127.0.0.1:30080", "[::1]:30080"] {
        let answer = host.tcp(loopback).unwrap_or_else(|error| panic!("{loopback}: {error}"));
        assert!(answer.by.starts_with("cart-") && answer.peer == Some(address(loopback)), "{answer:?}");
    }
    let dialled = 2 * addresses(&shop.world).len() as u64 + 2;
    assert_eq!(
        count(&shop.world, "steered") - before,
        dialled,
        "each connection went through the redirector"
    );
    // UDP of the same Service stays in the kernel.
    assert!(shop.client.udp("10.96.0.1:53").is_ok());
    assert_eq!(count(&shop.world, "steered") - before, dialled);
    let open = shop.client.id();
    shop.client.command(&Command::Tcp { id: open, to: address("10.96.0.1:80") }).unwrap();
    let dialled = dialled + 1;
    std::fs::remove_file(shop.world.manifests().join("rules.yaml")).unwrap();
    wait_path(&shop.world, "kernel");
    shop.client.command(&Command::AskAgain { id: open }).expect("a connection that is open goes on");
    dial_all(&shop.world, &mut shop.client, "pod");
    assert_eq!(count(&shop.world, "steered") - before, dialled, "none any more");
}

#[test]
fn clients_outside_are_steered_through_node_ports() {
    let mut shop = steered_shop(1);
    // A pod that the hooks do not see is as good as another machine.
    let outside = shop.world.pod("outside");
    let outside = sluice_tests::world::Pod { cgroup: sluice::loader::find_cgroup(None).unwrap(), ..outside };
    let mut client = shop.world.peer(&outside);
    for to in addresses(&shop.world) {
        let answer = client.tcp(&to).unwrap_or_else(|error| panic!("{to}: {error}"));
        assert_eq!((answer.by.as_str(), answer.peer), ("cart-1", Some(address(&to))), "{to}");
    }
    // No daemon of the node becomes reachable by the Service's address.
    let mut host = shop.world.peer(shop.world.node());
    host.serve("daemon", 2222, false);
    assert_eq!(client.tcp(&format!("{}:2222", shop.world.node().v4)).unwrap().by, "daemon");
    let guarded = count(&shop.world, "unknown_port");
    assert_eq!(client.tcp("10.96.0.1:2222"), Err("ECONNREFUSED".to_owned()), "guarded");
    assert!(count(&shop.world, "unknown_port") > guarded, "by the packet path, before sk_lookup has to");
    drop(shop.client);
}

#[test]
fn a_redirector_that_dies_is_replaced_and_nobody_is_refused_meanwhile() {
    let mut shop = steered_shop(2);
    let pids = || {
        let folder = shop.world.node().cgroup.join("cgroup.procs");
        let pids = std::fs::read_to_string(folder).unwrap();
        let named = |pid: &&str| {
            let words = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            words.contains("\0redirector\0")
        };
        pids.lines().filter(named).map(str::to_owned).collect::<Vec<_>>()
    };
    let first = pids();
    assert_eq!(first.len(), 1);
    let kill = |signal: &str, pid: &str| {
        assert!(shop.world.node().command("kill").args([signal, pid]).status().unwrap().success());
    };
    // Told to go, it says so first: not one connection is refused.
    kill("-TERM", &first[0]);
    for _ in 0..40 {
        shop.client.tcp("10.96.0.1:80").expect("nobody is refused while it goes");
    }
    let another = |than: &[String]| {
        wait::until("another one", || {
            let now = pids();
            if now.len() == 1 && now != than { Ok(now) } else { Err(now) }
        })
    };
    let second = another(&first);
    wait_path(&shop.world, "redirector");
    kill("-KILL", &second[0]);
    another(&second);
    wait_path(&shop.world, "redirector");
    let before = count(&shop.world, "steered");
    wait::until("it serves", || {
        let answer = shop.client.tcp("10.96.0.1:80");
        if answer.is_ok() && count(&shop.world, "steered") > before { Ok(()) } else { Err(answer) }
    });
}

#[test]
fn a_worker_that_hangs_is_noticed_and_the_redirector_is_replaced() {
    use nix::{
        sys::{ptrace, wait::waitpid},
        unistd::Pid,
    };
    let mut shop = steered_shop(2);
    let redirector = || {
        let pids = std::fs::read_to_string(shop.world.node().cgroup.join("cgroup.procs")).unwrap();
        let named = |pid: &&str| {
            let words = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            words.contains("\0redirector\0")
        };
        pids.lines().find(named).map(str::to_owned)
    };
    let first = redirector().unwrap();
    let tasks = std::fs::read_dir(format!("/proc/{first}/task")).unwrap();
    let worker = tasks
        .map(|task| task.unwrap().path())
        .find(|task| std::fs::read_to_string(task.join("comm")).unwrap().trim() == "redirector-0");
    let worker = Pid::from_raw(worker.unwrap().file_name().unwrap().to_str().unwrap().parse().unwrap());
    // One thread stands still, the others go on.
    ptrace::attach(worker).unwrap();
    waitpid(worker, Some(nix::sys::wait::WaitPidFlag::__WALL)).unwrap();
    wait::until("connections go past it", || {
        let status = shop.world.json(&["status"]);
        if status["problems"].to_string().contains("the redirector is away") { Ok(()) } else { Err(status) }
    });
    for _ in 0..8 {
        assert!(shop.client.tcp("10.96.0.1:80").is_ok(), "balanced by the kernel meanwhile");
    }
    // It ends by itself; the thread's end is ours to take note of.
    let ended =
        std::thread::spawn(
            move || {
                while waitpid(worker, Some(nix::sys::wait::WaitPidFlag::__WALL)).is_ok() {}
            },
        );
    drop(ended);
    wait::until("another one", || {
        let now = redirector();
        if now.as_ref().is_some_and(|now| *now != first) { Ok(()) } else { Err(now) }
    });
    wait_path(&shop.world, "redirector");
    drop(shop.client.tcp("10.96.0.1:80").unwrap());
}

#[test]
fn the_redirector_outlives_the_agent_and_serves_on_without_it() {
    let mut shop = steered_shop(2);
    shop.kill_agent();
    let before = count(&shop.world, "steered");
    dial_all(&shop.world, &mut shop.client, "pod, no agent");
    assert_eq!(count(&shop.world, "steered") - before, addresses(&shop.world).len() as u64);
    shop.restart_agent();
    wait_path(&shop.world, "redirector");
    dial_all(&shop.world, &mut shop.client, "pod, next agent");
}

#[test]
fn an_agent_whose_binary_is_gone_starts_its_redirector_all_the_same() {
    let mut shop = shop(1);
    shop.kill_agent();
    // As where a package was upgraded under an agent that runs.
    let binary = shop.world.folder().join("sluice");
    std::fs::copy(sluice_tests::world::sluice_binary(), &binary).unwrap();
    let manifests = shop.world.manifests().display().to_string();
    let _agent = shop.world.spawn_other_agent(&binary, &["--manifests", &manifests]);
    shop.world.wait_healthy();
    std::fs::remove_file(&binary).unwrap();
    shop.world.apply("shop", &service(&shop.world));
    shop.world.apply("rules", RULES);
    wait_path(&shop.world, "redirector");
    dial_all(&shop.world, &mut shop.client, "its binary is gone");
    shop.world.wait_healthy();
}

/// A redirector that the test runs itself.
fn redirector(world: &World) -> std::process::Child {
    let mut command = world.node().command(&sluice_tests::world::sluice_binary().display().to_string());
    command.arg("redirector").arg("--run-dir").arg(world.folder().join("run"));
    let log = std::fs::File::options().create(true).append(true).open(world.folder().join("agent.log"));
    command.arg("--bpffs").arg(world.bpffs()).stderr(log.unwrap()).spawn().unwrap()
}

/// Waits until metrics tell what the redirector has open, or no more.
fn wait_gauges(world: &World, are_there: bool) {
    wait::until("what the redirector has open", || {
        let page = curl(world.node(), &["http://127.0.0.1:10249/metrics"]).body;
        let mut rows = page.lines().filter(|line| line.starts_with("sluice_redirector_open{"));
        match rows.next() {
            row if row.is_some() == are_there => Ok(()),
            row => Err(format!("{row:?}")),
        }
    });
}

#[test]
fn while_the_redirector_is_away_connections_are_refused_or_balanced_as_the_flag_says() {
    for (case, flags, refused) in [
        ("fail closed", &["--l7-fail-closed"][..], true),
        ("fail open", &[][..], false),
        ("said", &["--l7-fail-open"][..], false),
    ] {
        let mut shop = shop(2);
        shop.kill_agent();
        let manifests = shop.world.manifests().display().to_string();
        let flags = [&["--manifests", &manifests, "--redirector", "external"], flags].concat();
        let agent = shop.world.spawn_agent(&flags);
        shop.world.wait_healthy();
        shop.world.apply("shop", &service(&shop.world));
        shop.world.apply("rules", RULES);
        let mut child = redirector(&shop.world);
        wait_path(&shop.world, "redirector");
        dial_all(&shop.world, &mut shop.client, case);
        wait_gauges(&shop.world, true);
        sluice_tests::world::kill(&mut child);
        let before = count(&shop.world, "no_redirector");
        // Its last heartbeat counts for three seconds; until then connections go to it, and are refused.
        wait::until("the kernel notices", || {
            let answer = shop.client.tcp("10.96.0.1:80").map(|answer| answer.by);
            let noticed = count(&shop.world, "no_redirector") - before;
            if noticed > 0 { Ok(()) } else { Err(answer) }
        });
        let before = count(&shop.world, "no_redirector");
        for to in addresses(&shop.world) {
            let outcome = shop.client.tcp(&to);
            if refused {
                assert_eq!(outcome, Err("ECONNREFUSED".to_owned()), "{case}: {to}");
            } else {
                assert!(outcome.is_ok_and(|answer| answer.by.starts_with("cart-")), "{case}: {to}");
            }
        }
        let noticed = count(&shop.world, "no_redirector") - before;
        assert_eq!(noticed, addresses(&shop.world).len() as u64, "{case}");
        assert!(shop.client.udp("10.96.0.1:53").is_ok(), "{case}: what needs no redirector is served");
        wait::until("status says so", || {
            let problems = shop.world.json(&["status"])["problems"].to_string();
            if problems.contains("the redirector is away") { Ok(()) } else { Err(problems) }
        });
        wait_gauges(&shop.world, false);
        let mut child = redirector(&shop.world);
        wait_path(&shop.world, "redirector");
        dial_all(&shop.world, &mut shop.client, case);
        // Without the agent too: the programs know what to do.
        drop(agent);
        sluice_tests::world::kill(&mut child);
        let before = count(&shop.world, "no_redirector");
        wait::until("the kernel notices without an agent", || {
            let answer = shop.client.tcp("10.96.0.1:80").map(|answer| answer.by);
            if count(&shop.world, "no_redirector") > before { Ok(()) } else { Err(answer) }
        });
        assert_eq!(shop.client.tcp("10.96.0.1:80").is_err(), refused, "{case}: without an agent");
    }
}
