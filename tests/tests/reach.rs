//! What strangers reach: pods of the maps, which is nothing, and the network of listeners, which is what has to be there.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::Path,
};

use aya::maps::MapInfo;
use sluice_tests::{
    container::Container,
    http::curl,
    manifest, wait,
    world::{World, text},
};

const ATTEMPT: &str = env!("CARGO_BIN_EXE_sluice-attempt");

/// What came of it in a container of somebody's pod, under this filter of system calls.
fn in_a_pod(world: &World, what: &str, seccomp: &str) -> String {
    let container = Container::of_a_stranger(world, &["/attempt", "off", what], seccomp);
    let mut running = container.mount(Path::new(ATTEMPT), "/attempt").start();
    assert!(running.wait_ended().success(), "{what}: {}", running.log());
    running.log().trim().to_owned()
}

/// What came of it on the node.
fn on_the_node(world: &World, what: &str) -> String {
    let output = world.node().command(ATTEMPT).args(["off", what]).output().unwrap();
    text(&output).trim().to_owned()
}

#[test]
fn pods_can_neither_find_nor_open_the_maps() {
    let world = World::new();
    let _agent = world.agent();
    let pin = world.bpffs().join("maps/FRONTENDS");
    let id = format!("map:{}", MapInfo::from_pin(&pin).unwrap().id());
    let pin = format!("pin:{}", pin.display());
    // Who may, can: it is not the attempt that fails.
    for what in [pin.as_str(), &id, "list maps"] {
        assert_eq!(on_the_node(&world, what), "done", "{what}");
    }
    // By the place that a node has them at, too.
    let usual = "pin:/sys/fs/bpf/sluice/maps/FRONTENDS";
    // The filter refuses all of it, and so does the kernel by itself where a pod has no filter.
    for seccomp in ["RuntimeDefault", "Unconfined"] {
        for what in [pin.as_str(), usual, &id, "list maps", "mount a bpffs"] {
            let said = in_a_pod(&world, what, seccomp);
            let refused = ["PermissionDenied", "Operation not permitted", "NotFound"];
            assert!(refused.iter().any(|word| said.contains(word)), "{what}, {seccomp}: {said}");
        }
    }
}

/// Sockets of a network namespace in one of the files of /proc/net, as `kind` and place: TCP ones that listen, and all others
/// that take what anybody sends.
fn open(world: &World, kind: &str) -> BTreeSet<(String, SocketAddr)> {
    let output = world.node().command("cat").arg(format!("/proc/net/{kind}")).output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
    let lines = String::from_utf8(output.stdout).unwrap();
    let lines = lines.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>());
    const LISTENS: &str = "0A";
    const UNCONNECTED: &str = "07";
    let state = if kind.starts_with("tcp") { LISTENS } else { UNCONNECTED };
    let open = lines.filter(|words| words[3] == state).map(|words| (kind.to_owned(), place(words[1])));
    open.collect()
}

/// `0100007F:2809`: words of the address as the machine holds them, and the port.
fn place(text: &str) -> SocketAddr {
    let (address, port) = text.split_once(':').unwrap();
    let words = (0..address.len()).step_by(8);
    let bytes: Vec<u8> =
        words.flat_map(|at| u32::from_str_radix(&address[at..at + 8], 16).unwrap().to_ne_bytes()).collect();
    let address = match <[u8; 4]>::try_from(bytes.as_slice()) {
        Ok(v4) => IpAddr::V4(Ipv4Addr::from(v4)),
        Err(_) => IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(bytes.as_slice()).unwrap())),
    };
    SocketAddr::new(address, u16::from_str_radix(port, 16).unwrap())
}

const RULE: &str = "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\n\
    metadata: {name: web, namespace: shop}\nspec:\n  hosts: [web]\n  http:\n  - directResponse: {status: 418}\n";

#[test]
fn nothing_listens_to_the_network_but_what_load_balancers_ask() {
    let mut world = World::new();
    let client = world.pod("client");
    let checked = manifest::service("cart", &["10.96.0.1"], &["http:80:8080"]).replace(
        "spec:\n",
        "spec:\n  type: LoadBalancer\n  externalTrafficPolicy: Local\n  healthCheckNodePort: 31000\n",
    );
    let web = manifest::service("web", &["10.96.0.2"], &["http:80:8080"]);
    world.apply("services", &(checked + &web + RULE));
    let _agent = world.agent();
    wait::until("a rule", || {
        let response = curl(&client, &["http://10.96.0.2/"]);
        if response.status == 418 { Ok(()) } else { Err(format!("{response:?}{}", world.log())) }
    });
    let to_network = |sockets: BTreeSet<(String, SocketAddr)>| {
        let far = sockets.into_iter().filter(|(_, at)| !at.ip().to_canonical().is_loopback());
        far.collect::<BTreeSet<_>>()
    };
    let node = world.node();
    let tcp = |kind: &str, address: IpAddr, port: u16| (kind.to_owned(), SocketAddr::new(address, port));
    let wanted =
        BTreeSet::from([tcp("tcp6", Ipv6Addr::UNSPECIFIED.into(), 10256), tcp("tcp", node.v4.into(), 31000)]);
    wait::until("the listeners", || {
        let found = ["tcp", "tcp6"].into_iter().flat_map(|kind| to_network(open(&world, kind))).collect();
        if wanted == found { Ok(()) } else { Err(format!("{found:?}")) }
    });
    for kind in ["udp", "udp6", "raw", "raw6"] {
        assert_eq!(to_network(open(&world, kind)), BTreeSet::new(), "{kind}");
    }
    // The redirector's own are there, at loopback alone.
    let near: Vec<_> = open(&world, "tcp").into_iter().filter(|(_, at)| at.ip().is_loopback()).collect();
    assert!(near.len() > 1, "{near:?}");
    // What is at loopback is not reached from a pod by the node's address.
    let response = curl(&client, &[&format!("http://{}:10249/metrics", node.v4)]);
    assert_eq!(response.status, 0, "{response:?}");
}

#[test]
fn an_admin_address_of_the_network_tells_strangers_no_names_of_pods() {
    let mut world = World::new();
    let client = world.pod("client");
    let _agent = world.agent_with(&["--admin", "0.0.0.0:10249"]);
    let status = |from: &sluice_tests::world::Pod, address: String, path: &str| {
        curl(from, &[&format!("http://{address}:10249{path}")]).status
    };
    for (path, far) in [
        ("/state", 403),
        ("/metrics", 200),
        ("/proxyMode", 200),
        ("/healthz", 200),
        ("/readyz", 200),
        ("/other", 404),
    ] {
        assert_eq!(status(&client, world.node().v4.to_string(), path), far, "{path}");
    }
    assert_eq!(status(world.node(), "127.0.0.1".to_owned(), "/state"), 200);
}

#[test]
fn a_port_that_kube_proxy_has_is_taken_over_when_it_goes() {
    let mut world = World::new();
    let client = world.pod("client");
    // It closes what it is sent.
    let kube_proxy = world.node().serve(&[(10256, false)]);
    let healthz = ["--healthz", "0.0.0.0:10356,0.0.0.0:10256"];
    let agent = world.agent_with(&healthz);
    assert!(!world.log().contains("is in use"), "as it should be: {}", world.log());
    let ask = |port: u16| curl(&client, &[&format!("http://{}:{port}/healthz", world.node().v4)]);
    assert_eq!(ask(10356).status, 200);
    assert_ne!(ask(10256).status, 200);
    drop(kube_proxy);
    wait::until("the port of kube-proxy", || {
        let response = ask(10256);
        if response.status == 200 { Ok(()) } else { Err(format!("{response:?}{}", world.log())) }
    });
    assert!(world.log().contains("somebody else listens there"), "{}", world.log());
    drop(agent);
}
