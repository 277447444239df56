//! The agent may die at any moment, and another one takes over.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::{
    collections::BTreeMap,
    path::Path,
    process::ExitStatus,
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
    time::Duration,
};

use serde_json::Value;
use sluice_tests::{
    manifest,
    peer::{Command, address},
    wait,
    world::{Pod, World, text},
};

fn shop(world: &mut World, count: usize) -> Vec<(Pod, sluice_tests::peer::Peer)> {
    let pods: Vec<_> = (1..=count)
        .map(|index| world.server(&format!("cart-{index}"), &[(8080, false), (5353, true)]))
        .collect();
    world.apply("shop", &manifest::service("cart", &["10.96.0.1"], &["http:80:8080", "dns:53:5353/UDP"]));
    endpoints(world, &pods, count);
    pods
}

fn endpoints(world: &World, pods: &[(Pod, sluice_tests::peer::Peer)], count: usize) {
    let text = pods[..count].iter().map(|(pod, _)| manifest::pod(&pod.name, "cart", &[&pod.v4.to_string()]));
    world.apply("pods", &text.collect::<String>());
}

/// Dials again and again while `during` runs; returns how many connections were made. None may fail.
fn dial_during(world: &World, client: &Pod, during: impl FnOnce()) -> u32 {
    let (done, count) = (AtomicBool::new(false), AtomicU32::new(0));
    let mut peer = world.peer(client);
    std::thread::scope(|scope| {
        let dialler = scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                for result in [peer.tcp("10.96.0.1:80"), peer.udp("10.96.0.1:53")] {
                    let answer = result.expect("no connection is lost");
                    assert!(answer.by.starts_with("cart-"), "{answer:?}");
                }
                count.fetch_add(2, Ordering::Relaxed);
            }
        });
        wait::until("a first connection", || {
            if count.load(Ordering::Relaxed) > 0 { Ok(()) } else { Err(dialler.is_finished()) }
        });
        during();
        let seen = count.load(Ordering::Relaxed);
        wait::until("connections after it", || {
            if count.load(Ordering::Relaxed) > seen + 20 { Ok(()) } else { Err(dialler.is_finished()) }
        });
        done.store(true, Ordering::Relaxed);
    });
    count.into_inner()
}

/// Inode numbers of the pinned links and the programs that they run.
fn links(world: &World) -> Vec<(u64, u32)> {
    let pins = sluice::maps::Pins::at(&world.bpffs());
    let programs = sluice::loader::attachments(&pins, Some(world.cgroup()));
    let id = |hook: &str| {
        use std::os::unix::fs::MetadataExt as _;
        std::fs::metadata(pins.link(hook)).expect("a pinned link").ino()
    };
    programs.iter().map(|item| (id(item.hook), item.program_id.expect("attached"))).collect()
}

#[test]
fn killing_and_replacing_the_agent_loses_no_connection() {
    let mut world = World::new();
    let pods = shop(&mut world, 2);
    let client = world.pod("client");
    let mut long = world.peer(&client);
    let agent = world.agent();
    let open = long.command(&Command::Tcp { id: 1, to: address("10.96.0.1:80") }).unwrap();
    long.command(&Command::UdpOpen { id: 2, v6: false }).unwrap();
    let ask = Command::UdpAsk { id: 2, to: Some(address("10.96.0.1:53")) };
    let asked = long.command(&ask).unwrap();
    let before = (links(&world), world.json(&["backend"]), world.json(&["frontend"]));
    let mut next = None;
    let count = dial_during(&world, &client, || {
        agent.kill();
        assert_eq!(world.json(&["explain", "shop/cart:http"])["verdict"], "translate", "with the agent down");
        next = Some(world.agent());
    });
    assert!(count > 20);
    let after = (links(&world), world.json(&["backend"]), world.json(&["frontend"]));
    assert_eq!((&after.1, &after.2), (&before.1, &before.2), "ids are what they were");
    for (old, new) in before.0.iter().zip(&after.0) {
        assert_eq!(old.0, new.0, "the link is the same");
        assert_ne!(old.1, new.1, "the program is the new agent's");
    }
    assert_eq!(long.command(&Command::AskAgain { id: 1 }), Ok(open), "the open connection goes on");
    assert_eq!(long.command(&ask), Ok(asked), "the datagram socket goes on");
    endpoints(&world, &pods, 1);
    world.wait_verdict("shop/cart:http", "translate", 1);
}

#[test]
fn what_changed_while_no_agent_ran_is_caught_up_with() {
    let mut world = World::new();
    let pods = shop(&mut world, 2);
    let client_pod = world.pod("client");
    let mut client = world.peer(&client_pod);
    world.apply(
        "gone",
        &manifest::service("gone", &["10.96.0.9"], &["http:80:8080"]).replace("app: gone", "app: cart"),
    );
    let agent = world.agent();
    world.wait_verdict("shop/gone", "translate", 2);
    agent.kill();
    std::fs::remove_file(world.manifests().join("gone.yaml")).unwrap();
    endpoints(&world, &pods, 1);
    assert!(client.tcp("10.96.0.9:80").is_ok(), "the kernel goes on with what it has");
    let _agent = world.agent();
    world.wait_verdict("10.96.0.9:80", "pass", 0);
    world.wait_verdict("shop/cart:http", "translate", 1);
    assert!(client.tcp("10.96.0.9:80").is_err());
}

#[test]
fn reading_commands_need_no_agent_and_status_says_that_none_runs() {
    let mut world = World::new();
    shop(&mut world, 1);
    let agent = world.agent();
    let running: Vec<Value> =
        ["service", "frontend", "backend"].map(|command| world.json(&[command])).to_vec();
    agent.kill();
    let alone: Vec<Value> = ["service", "frontend", "backend"].map(|command| world.json(&[command])).to_vec();
    assert_eq!(running, alone);
    let status = world.json(&["status"]);
    assert_eq!(status["healthy"], false);
    assert!(status["problems"][0].as_str().unwrap().starts_with("no agent runs on the pins in "), "{status}");
    let target = world.cgroup().display().to_string();
    for program in status["programs"].as_array().unwrap() {
        assert_eq!(program["attached"], true, "{program}");
        // Those at devices are for devices.
        let of_cgroup = program["hook"].as_str().unwrap().starts_with("cgroup/");
        assert_eq!(program["target"] == target.as_str(), of_cgroup, "{program}");
    }
    assert_eq!(world.sluice(&["status"]).status.code(), Some(1));
}

#[test]
fn maps_of_another_version_are_named_and_made_anew_by_the_next_agent() {
    let mut world = World::new();
    shop(&mut world, 1);
    world.agent().kill();
    // A map of that name with entries of other sizes.
    let maps = world.bpffs().join("maps");
    std::fs::rename(maps.join("NODES"), maps.join("SERVICES")).unwrap();
    let output = world.sluice(&["service"]);
    let said = text(&output);
    assert!(!output.status.success() && said.contains("SERVICES under "), "{said}");
    assert!(said.contains("was made by another version of sluice, with entries of 4 + "), "{said}");
    let _agent = world.agent();
    assert_eq!(world.json(&["service"]).as_array().unwrap().len(), 1);
}

/// Ids of maps, by name.
fn map_ids(world: &World) -> BTreeMap<&'static str, u32> {
    let pins = sluice::maps::Pins::at(&world.bpffs());
    let id = |name| (name, sluice::maps::bpf::shape(&pins.map(name)).expect("a map").id);
    ["FRONTENDS", "SLOTS", "FLOWS", "SOCKETS", "ADDRESSES"].map(id).into()
}

#[test]
fn maps_whose_bytes_meant_something_else_are_made_anew_while_connections_go_on() {
    let mut world = World::new();
    let _pods = shop(&mut world, 2);
    let client = world.pod("client");
    let mut long = world.peer(&client);
    let agent = world.agent();
    let open = long.command(&Command::Tcp { id: 1, to: address("10.96.0.1:80") }).unwrap();
    let (before, services) = (map_ids(&world), world.json(&["service"]));
    agent.kill();
    let pins = sluice::maps::Pins::at(&world.bpffs());
    let noted = aya::maps::MapData::from_pin(pins.map("SCHEMAS")).unwrap();
    let mut noted: aya::maps::HashMap<_, u32, u32> = aya::maps::Map::HashMap(noted).try_into().unwrap();
    for name in ["SLOTS", "FLOWS"] {
        noted.insert(before[name], 77_u32, 0).unwrap();
    }
    let said = text(&world.sluice(&["service"]));
    assert!(said.contains("SLOTS under ") && said.contains("(schema 77 instead of 1)"), "{said}");
    let _agent = world.agent();
    let after = map_ids(&world);
    let anew: Vec<&str> = before.keys().filter(|name| before[**name] != after[**name]).copied().collect();
    assert_eq!(anew, ["FLOWS", "FRONTENDS", "SLOTS"], "with what names their entries, and nothing else");
    assert!(noted.get(&before["FLOWS"], 0).is_err(), "nothing is noted of a map that is gone");
    assert_eq!(world.json(&["service"]), services);
    assert_eq!(long.command(&Command::AskAgain { id: 1 }), Ok(open), "the open connection goes on");
    assert!(long.tcp("10.96.0.1:80").is_ok());
    assert_eq!(map_ids(&world), after, "once");
}

#[test]
fn what_another_release_left_and_this_one_has_no_name_for_goes() {
    let mut world = World::new();
    let _pods = shop(&mut world, 1);
    let client = world.pod("client");
    world.agent().kill();
    let (links, maps) = (world.bpffs().join("links"), world.bpffs().join("maps"));
    let (link, map) = (links.join("connect9"), maps.join("GALAXIES"));
    let leave = || {
        std::fs::hard_link(links.join("connect4"), &link).unwrap();
        std::fs::hard_link(maps.join("NODES"), &map).unwrap();
    };
    leave();
    let agent = world.agent();
    assert!(!link.exists() && !map.exists(), "{}", world.log());
    assert!(world.peer(&client).tcp("10.96.0.1:80").is_ok());
    agent.kill();
    leave();
    let output = world.sluice(&["cleanup"]);
    assert!(output.status.success(), "{}", text(&output));
    assert!(!links.exists() && !maps.exists(), "{}", text(&output));
}

#[test]
fn a_second_agent_is_refused_with_the_pid_of_the_first() {
    let mut world = World::new();
    shop(&mut world, 1);
    let first = world.agent();
    let manifests = world.manifests().display().to_string();
    let mut second = world.spawn_agent(&["--manifests", &manifests]);
    let ended: ExitStatus = wait::until("the second agent ends", || second.ended().ok_or("it runs"));
    assert_eq!(ended.code(), Some(1));
    let message = format!("another agent with pid {} runs on the pins in", first.pid());
    assert!(world.log().contains(&message), "{}", world.log());
    let cleanup = world.sluice(&["cleanup"]);
    assert_eq!(cleanup.status.code(), Some(1));
    assert!(text(&cleanup).contains(&message), "{}", text(&cleanup));
}

#[test]
fn cleanup_leaves_nothing_and_translates_nothing() {
    let mut world = World::new();
    let pods = shop(&mut world, 1);
    let client_pod = world.pod("client");
    let mut client = world.peer(&client_pod);
    let reserved = "/proc/sys/net/ipv4/ip_local_reserved_ports";
    let script = |words: &str| text(&world.node().command("sh").args(["-c", words]).output().unwrap());
    script(&format!("echo 50000 > {reserved}"));
    let node_port = manifest::service("ported", &["10.96.0.3"], &["http:80:8080"])
        .replace("spec:\n", "spec:\n  type: NodePort\n")
        .replace("port: 80,", "port: 80, nodePort: 40080,");
    world.apply("ported", &node_port);
    let agent = world.agent();
    assert!(client.tcp("10.96.0.1:80").is_ok());
    assert_eq!(
        script(&format!("cat {reserved}")),
        "40080,50000\n",
        "NodePorts are kept out of the ephemeral range"
    );
    agent.kill();
    let output = world.sluice(&["cleanup"]);
    assert_eq!(script(&format!("cat {reserved}")), "50000\n", "and what others reserved is left");
    assert!(output.status.success(), "{}", text(&output));
    // The kernel lets go of a link, and with it of the program, a moment after its last pin.
    wait::until("nothing is translated", || match client.tcp("10.96.0.1:80") {
        Ok(answer) => Err(answer),
        Err(_) => Ok(()),
    });
    assert!(client.tcp(&format!("{}:8080", pods[0].0.v4)).is_ok());
    for folder in ["maps", "links"] {
        assert!(!world.bpffs().join(folder).exists(), "no pin is left");
    }
    assert!(world.sluice(&["cleanup"]).status.success(), "a second time is fine");
    let _agent = world.agent();
    assert!(client.tcp("10.96.0.1:80").is_ok(), "and it starts again");
}

#[test]
fn larger_maps_are_taken_into_use_without_losing_a_connection() {
    let mut world = World::new();
    let _pods = shop(&mut world, 2);
    let client = world.pod("client");
    let agent = world.agent();
    let manifests = world.manifests().display().to_string();
    let mut next = None;
    dial_during(&world, &client, || {
        agent.kill();
        next = Some(world.spawn_agent(&["--manifests", &manifests, "--max-slots", "1000"]));
        world.wait_healthy();
    });
    let status = world.json(&["status"]);
    let slots = status["maps"].as_array().unwrap().iter().find(|map| map["name"] == "SLOTS").unwrap().clone();
    assert_eq!(slots["capacity"], 1000);
}

fn wait_pin(path: &Path) {
    wait::until_within(Duration::from_secs(30), "the pin is back", || match path.try_exists() {
        Ok(true) => Ok(()),
        other => Err(format!("{}: {other:?}", path.display())),
    });
}

#[test]
fn links_and_maps_that_somebody_removed_are_noticed_and_put_back() {
    let mut world = World::new();
    shop(&mut world, 1);
    let _agent = world.agent();
    let pins = sluice::maps::Pins::at(&world.bpffs());
    std::fs::remove_file(pins.link("recvmsg6")).unwrap();
    let status = world.json(&["status"]);
    assert_eq!(status["problems"][0], "not attached: recvmsg6");
    // The agent looks every ten seconds.
    wait_pin(&pins.link("recvmsg6"));
    world.wait_healthy();
    std::fs::remove_file(pins.map("BACKENDS")).unwrap();
    wait_pin(&pins.map("BACKENDS"));
    world.wait_healthy();
}

#[test]
fn a_file_that_was_broken_before_a_restart_takes_nothing_away() {
    let mut world = World::new();
    let _pods = shop(&mut world, 1);
    let client_pod = world.pod("client");
    let mut client = world.peer(&client_pod);
    let agent = world.agent();
    let good = std::fs::read_to_string(world.manifests().join("shop.yaml")).unwrap();
    world.apply("shop", &format!("\t{good}"));
    wait::until("the edit is seen", || {
        let warnings = world.json(&["status"])["warnings"].to_string();
        if warnings.contains("stays in force as it was before") { Ok(()) } else { Err(warnings) }
    });
    agent.kill();
    let agent = world.agent();
    assert!(client.tcp("10.96.0.1:80").is_ok(), "the kernel's state is kept while the file is broken");
    world.apply("shop", "# gone\n");
    world.wait_verdict("10.96.0.1:80", "pass", 0);
    drop(agent);
}

#[test]
fn a_removed_folder_of_pins_is_put_back() {
    let mut world = World::new();
    let _pods = shop(&mut world, 1);
    let client_pod = world.pod("client");
    let _agent = world.agent();
    std::fs::remove_dir_all(world.bpffs().join("links")).unwrap();
    std::fs::remove_dir_all(world.bpffs().join("maps")).unwrap();
    wait::until_within(Duration::from_secs(30), "pinned again", || {
        let output = world.sluice(&["status"]);
        if output.status.success() { Ok(()) } else { Err(text(&output)) }
    });
    assert_eq!(world.json(&["explain", "shop/cart:http"])["verdict"], "translate");
    assert!(world.peer(&client_pod).tcp("10.96.0.1:80").is_ok());
}
