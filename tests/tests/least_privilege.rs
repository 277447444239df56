//! The DaemonSet's containers as a runtime starts them: what they may do is enough, and each of it is needed.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use serde_json::Value;
use sluice_tests::{
    container::{Container, Root},
    http::curl,
    manifest, wait,
    world::World,
};

const RULE: &str = "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\n\
    metadata: {name: web, namespace: shop}\nspec:\n  hosts: [web]\n  http:\n  - directResponse: {status: 418}\n";

/// A node with two Services: one in the kernel, one with a rule.
fn world() -> World {
    let world = World::new();
    let services = [("cart", "10.96.0.1"), ("web", "10.96.0.2")];
    let text = services.map(|(name, address)| manifest::service(name, &[address], &["http:80:8080"]));
    world.apply("services", &(text.concat() + RULE));
    world
}

fn agent(world: &World) -> Container<'_> {
    Container::new(world, "agent", Root::Machine)
        .set("SLUICE_MANIFESTS", "/manifests")
        .mount(&world.manifests(), "/manifests")
}

fn redirector(world: &World) -> Container<'_> {
    Container::new(world, "redirector", Root::Machine)
}

fn status(world: &World) -> Value {
    let binary = sluice_tests::world::sluice_binary();
    let mut command = world.node().command(&binary.display().to_string());
    command.args(["status", "-o", "json", "--bpffs"]).arg(world.bpffs().join("sluice"));
    serde_json::from_slice(&command.output().unwrap().stdout).unwrap_or_default()
}

fn wait_ready(world: &World, log: impl Fn() -> String) {
    wait::until("readiness", || {
        let response = curl(world.node(), &["http://127.0.0.1:10256/readyz"]);
        if response.status == 200 { Ok(()) } else { Err(format!("{response:?}{}", log())) }
    });
}

#[test]
fn the_manifests_capabilities_are_enough() {
    let mut world = world();
    let (kept, _first) = world.server("cart-1", &[(8080, true)]);
    let (gone, _second) = world.server("cart-2", &[(8080, true)]);
    let pod = world.pod("client");
    let mut client = world.peer(&pod);
    let udp = manifest::service("dns", &["10.96.0.3"], &["dns:53:8080/UDP"]);
    let one = manifest::pod("cart-1", "dns", &[&kept.v4.to_string()]);
    let two = manifest::pod("cart-2", "dns", &[&gone.v4.to_string()]);
    world.apply("dns", &(udp.clone() + &two));
    // The redirector waits for the agent's maps, in whatever order the two start.
    let redirector = redirector(&world).start();
    let agent = agent(&world).start();
    wait_ready(&world, || agent.log());
    // A pod's socket, told that its backend is gone: its namespace was found and entered.
    assert_eq!(client.udp_connected("10.96.0.3:53").unwrap().by, "cart-2");
    world.apply("dns", &(udp + &one));
    wait::until("the socket is told", || {
        let metrics = curl(world.node(), &["http://127.0.0.1:10249/metrics"]).body;
        let told = metrics.contains("sluice_sockets_destroyed_total 1");
        if told { Ok(()) } else { Err(agent.log()) }
    });
    wait::until("a rule", || {
        let response = curl(&pod, &["http://10.96.0.2/"]);
        if response.status == 418 { Ok(()) } else { Err(format!("{response:?}{}", redirector.log())) }
    });
    let status = status(&world);
    assert_eq!((&status["healthy"], &status["warnings"]), (&true.into(), &serde_json::json!([])), "{status}");
}

#[test]
fn on_a_node_that_is_a_container_the_pins_are_the_nodes_and_outlive_everybody() {
    let mut world = world();
    let _cart = world.server("cart-1", &[(8080, false)]);
    world.apply("pods", &manifest::pod("cart-1", "cart", &[&world.find("cart-1").v4.to_string()]));
    let client = world.pod("client");
    let container = |name: &str| Container::of_kind(&world, name, Root::Machine);
    let agent = || {
        let agent = container("agent").set("SLUICE_API_SERVER", "").set("SLUICE_MANIFESTS", "/manifests");
        agent.mount(&world.manifests(), "/manifests")
    };
    // Without the init container it refuses: pins that end with a container would be worse.
    let mut refused = agent().start();
    assert_eq!(refused.wait_ended().code(), Some(1), "{}", refused.log());
    assert!(refused.log().contains("seen by this container alone"), "{}", refused.log());
    let mut mounted = container("bpffs").start();
    assert!(mounted.wait_ended().success(), "{}", mounted.log());
    let redirector = container("redirector").start();
    let first = agent().start();
    wait_ready(&world, || first.log());
    wait::until("a rule", || {
        let response = curl(&client, &["http://10.96.0.2/"]);
        if response.status == 418 { Ok(()) } else { Err(format!("{response:?}{}", redirector.log())) }
    });
    drop(first);
    // The node's own view: the pins are there, and translate, with every container of ours gone but the redirector.
    assert!(world.bpffs().join("sluice/maps/FRONTENDS").exists());
    let mut peer = world.peer(&client);
    assert_eq!(peer.tcp("10.96.0.1:80").unwrap().by, "cart-1");
    let again = agent().start();
    wait_ready(&world, || again.log());
}

#[test]
fn a_node_port_is_reserved_through_the_mounted_settings() {
    let world = world();
    let text = manifest::service("cart", &["10.96.0.1"], &["http:80:8080"])
        .replace("spec:\n", "spec:\n  type: NodePort\n")
        .replace("port: 80,", "port: 80, nodePort: 40080,");
    world.apply("services", &text);
    let agent = agent(&world).start();
    wait_ready(&world, || agent.log());
    wait::until("a reserved port", || {
        let mut command = world.node().command("cat");
        let output = command.arg("/proc/sys/net/ipv4/ip_local_reserved_ports").output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        if text.trim() == "40080" { Ok(()) } else { Err(text + &agent.log()) }
    });
}

#[test]
fn each_capability_of_the_agent_is_missed_by_name() {
    for capability in Container::new(&World::new(), "agent", Root::Machine).capabilities() {
        let world = world();
        let running = agent(&world).without(&capability).start();
        let name = format!("CAP_{capability}");
        wait::until(&name, || if running.log().contains(&name) { Ok(()) } else { Err(running.log()) });
        if capability == "SYS_PTRACE" {
            // The node can do without; somebody who looks is told.
            wait_ready(&world, || running.log());
            let warnings = status(&world)["warnings"].to_string();
            assert!(warnings.contains(&name), "{warnings}");
        } else {
            let mut running = running;
            assert_eq!(running.wait_ended().code(), Some(1), "{}", running.log());
        }
    }
}

#[test]
fn each_capability_of_the_redirector_is_missed_by_name() {
    for capability in Container::new(&World::new(), "redirector", Root::Machine).capabilities() {
        let world = world();
        let mut running = redirector(&world).without(&capability).start();
        let name = format!("CAP_{capability}");
        if capability == "NET_RAW" {
            // It can do without: endpoints see the node then.
            let _agent = agent(&world).start();
            wait::until(&name, || if running.log().contains(&name) { Ok(()) } else { Err(running.log()) });
            continue;
        }
        assert_eq!(running.wait_ended().code(), Some(1), "{}", running.log());
        assert!(running.log().contains(&name), "{}", running.log());
    }
}

#[test]
fn less_than_sys_admin_serves_and_says_what_it_cannot() {
    let mut world = world();
    let (pod, _server) = world.server("cart-1", &[(8080, false)]);
    world.apply("pods", &manifest::pod("cart-1", "cart", &[&pod.v4.to_string()]));
    let container = agent(&world).without("SYS_ADMIN").with("BPF").with("PERFMON");
    let agent = container.start();
    wait_ready(&world, || agent.log());
    let mut host = world.peer(world.node());
    assert_eq!(host.tcp("10.96.0.1:80").unwrap().by, "cart-1");
    let warnings = status(&world)["warnings"].clone();
    assert!(warnings.to_string().contains("CAP_SYS_ADMIN is missing"), "{warnings}");
}
