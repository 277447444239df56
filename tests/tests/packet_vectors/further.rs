//! The vectors that are no rows of the table: ports and addresses that nobody serves, and what is no Service's.

use sluice_tests::{
    outside::Outside,
    world::{Pod as Place, ip},
};

use crate::world::{
    EMPTY, From, From::*, KINDS, Kind, ONLY_NEAR, SECONDARY, Shared, all_time_out, at, cluster_ips,
    node_ports, refused, service, slices, udp_anew, without_hooks,
};

macro_rules! by_source {
    ($($name:ident: $check:ident($from:ident);)*) => { $(#[test] fn $name() { $check($from); })* };
}

by_source! {
    without_endpoints_every_address_refuses_clients_outside: nobody_serves(External);
    without_endpoints_every_address_refuses_pods: nobody_serves(Pod);
    without_endpoints_every_address_refuses_the_node: nobody_serves(Node);
    a_tcp_only_port_hit_by_udp_refuses_clients_outside: wrong_port(External);
    a_tcp_only_port_hit_by_udp_refuses_pods: wrong_port(Pod);
    a_tcp_only_port_hit_by_udp_refuses_the_node: wrong_port(Node);
}

fn nobody_serves(from: From) {
    let shared = Shared::get();
    let mut client = shared.dialler(from);
    let mut hooked = shared.world.node(1).host.peer();
    for kind in KINDS {
        // A node's own address is never sent out: only sockets' hooks see its NodePorts dialled at home.
        let at_home = (from, kind) == (Node, Kind::NodePort);
        let client = if at_home { &mut hooked } else { &mut client };
        for [tcp, udp] in shared.dialled(EMPTY, kind) {
            let met = client.tcp(&tcp);
            assert!(refused(&met), "{from:?} -> {tcp}: {met:?}");
            let met = if at_home { client.udp(&udp) } else { client.udp_connected(&udp) };
            assert!(refused(&met), "{from:?} -> {udp}/UDP: {met:?}");
        }
    }
}

/// A port that the ClusterIP has for the other transport only, and one that it has not at all.
fn wrong_port(from: From) {
    let shared = Shared::get();
    let mut client = shared.dialler(from);
    for address in cluster_ips(0) {
        for port in [80, 81] {
            let met = client.udp_connected(&at(&address, port));
            assert!(refused(&met), "{from:?} -> {address} port {port}/UDP: {met:?}");
        }
        for port in [53, 81] {
            let met = client.tcp(&at(&address, port));
            assert!(refused(&met), "{from:?} -> {address} port {port}: {met:?}");
        }
    }
}

#[test]
fn a_node_port_of_the_other_node_fails_for_pods_where_the_policy_lets_nobody_serve() {
    let shared = Shared::get();
    let other = shared.world.node(2).host.addresses();
    let dial = |number: usize, address: &str| at(address, node_ports(number)[0]);
    let dials = other.iter().flat_map(|address| {
        let hooked = ("with hooks".to_owned(), shared.alone().peer(), dial(ONLY_NEAR, address));
        [("without".to_owned(), shared.dialler(Pod), dial(ONLY_NEAR, address)), hooked]
    });
    all_time_out(dials.collect());
    let mut pod = shared.dialler(Pod);
    for address in &other {
        // With a pod there it serves, and with the policy Cluster the other node's may.
        assert_eq!(pod.tcp(&dial(1, address)).unwrap().by, "far", "{address}");
        assert_eq!(udp_anew(&mut pod, &at(address, node_ports(1)[1])).unwrap().by, "far", "{address}");
    }
    for address in shared.world.node(1).host.addresses() {
        assert_eq!(pod.tcp(&dial(ONLY_NEAR, &address)).unwrap().by, "near", "{address}");
    }
}

/// An address that the node itself has, with a server of its own there that answers as `node-1`.
fn at_the_node(
    shared: &Shared,
    device: &str,
    address: &str,
    ports: &[(u16, bool)],
) -> sluice_tests::peer::Peer {
    let host = &shared.world.node(1).host;
    ip(&format!("-n {} addr add {address} dev {device}", host.netns));
    without_hooks(host).serve(ports)
}

#[test]
fn a_secondary_address_of_the_node_is_the_hosts_own_with_primary() {
    let shared = Shared::own();
    let [tcp, udp] = node_ports(SECONDARY);
    let ports = [(tcp, false), (udp, true)];
    let _server = at_the_node(&shared, "eth0", "192.168.50.111/24", &ports);
    ip(&format!(
        "-n {} addr add fd00:50::111/64 dev eth0 nodad preferred_lft 0",
        shared.world.node(1).host.netns
    ));
    let own = shared.world.node(1).host.addresses();
    for from in [External, Pod] {
        let mut client = shared.dialler(from);
        for (secondary, primary) in ["192.168.50.111", "fd00:50::111"].iter().zip(&own) {
            let by = |outcome: sluice_tests::peer::Outcome| outcome.unwrap().by;
            assert_eq!(by(client.tcp(&at(secondary, tcp))), "node-1", "{from:?} -> {secondary}");
            assert_eq!(by(udp_anew(&mut client, &at(secondary, udp))), "node-1", "{from:?} -> {secondary}");
            assert_eq!(by(client.tcp(&at(primary, tcp))), "near", "{from:?} -> {primary}");
            assert_eq!(by(udp_anew(&mut client, &at(primary, udp))), "near", "{from:?} -> {primary}");
        }
    }
}

#[test]
fn a_secondary_address_of_the_node_serves_where_the_networks_have_it() {
    let flags = ["--nodeport-addresses", "192.168.50.96/27,fd00:50::100/120"];
    let mut outside = Outside::new(&[1], &flags);
    let host: &Place = &outside.world.node(1).host;
    let addresses = [("192.168.50.111", "192.168.50.111/24"), ("fd00:50::111", "fd00:50::111/64 nodad")];
    for (address, words) in addresses {
        let (words, flags) = words.split_once(' ').unwrap_or((words, ""));
        ip(&format!("-n {} addr add {words} dev eth0 {flags}", host.netns));
        outside.world.node(1).wait_verdict(&at(address, 30_080), "translate", 1);
        assert_eq!(outside.client.tcp(&at(address, 30_080)).unwrap().by, "near", "{address}");
        assert_eq!(outside.client.udp(&at(address, 30_053)).unwrap().by, "near", "{address}/UDP");
    }
    for address in host.addresses() {
        assert!(refused(&outside.client.tcp(&at(&address, 30_080))), "{address} is in no network");
    }
}

#[test]
fn what_is_no_entry_is_left_to_whoever_has_the_address() {
    let shared = Shared::own();
    let near = shared.pod("near");
    let (proxy, headless, external) = (30, 31, 32);
    let [lb4, lb6] = crate::world::load_balancer_ips(proxy);
    let text = service(proxy, "")
        .replace(&format!("{{ip: {lb4}}}"), &format!("{{ip: {lb4}, ipMode: Proxy}}"))
        .replace(&format!("{{ip: \"{lb6}\", ipMode: VIP}}"), &format!("{{ip: \"{lb6}\", ipMode: Proxy}}"));
    let [v4, v6] = cluster_ips(headless);
    let none = service(headless, "")
        .replace(&format!("clusterIP: {v4}"), "clusterIP: None")
        .replace(&format!("[{v4}, \"{v6}\"]"), "[None]");
    let name = service(external, "externalName: example.org").replace("LoadBalancer\n", "ExternalName\n");
    let all = [(proxy, text), (headless, none), (external, name)];
    let all = all.map(|(number, text)| text + &slices(number, &[near]));
    shared.world.apply("no-entries", &all.concat());
    shared.world.node(1).wait_verdict(&at(&cluster_ips(proxy)[0], 80), "translate", 1);
    let external_ips = |number| shared.dialled(number, Kind::LoadBalancer).split_off(2);
    let balanced = shared.dialled(proxy, Kind::LoadBalancer);
    let dialled = balanced[..2].iter().cloned();
    let dialled = dialled.chain(external_ips(headless)).chain(external_ips(external));
    let dialled: Vec<String> =
        dialled.chain(shared.dialled(external, Kind::ClusterIp)).map(|[tcp, _]| tcp).collect();
    let host = &shared.world.node(1).host;
    for to in &dialled {
        let address = sluice_tests::peer::address(to).ip();
        // Not one that the node would speak in, which other tests look at meanwhile.
        let words = if address.is_ipv6() { "128 dev lo preferred_lft 0" } else { "32 dev lo scope host" };
        ip(&format!("-n {} addr add {address}/{words}", host.netns));
    }
    let _server = without_hooks(host).serve(&[(80, false)]);
    for from in [External, Pod] {
        let mut client = shared.dialler(from);
        for to in &dialled {
            assert_eq!(client.tcp(to).unwrap().by, "node-1", "{from:?} -> {to}");
        }
        // The same Service's other addresses are entries.
        for [to, _] in external_ips(proxy) {
            assert_eq!(client.tcp(&to).unwrap().by, "near", "{from:?} -> {to}");
        }
    }
}
