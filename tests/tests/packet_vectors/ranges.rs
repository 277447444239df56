//! loadBalancerSourceRanges: who is admitted, and what a list closes that cannot be read.

use sluice_tests::world::{ip, sysctl};

use crate::world::{
    BLOCKED, CLIENTS, From, From::*, HALF, Kind, NODES, PODS, RUBBISH, Shared, all_time_out, at,
    load_balancer_ips, timed_out,
};

/// The load balancer's addresses, with the port of TCP.
fn load_balancer(number: usize) -> [String; 2] {
    load_balancer_ips(number).map(|address| at(&address, 80))
}

/// The load balancer's address is dropped in the families told (IPv4, IPv6), and every other address serves.
fn is_closed(from: From, number: usize, closed: [bool; 2]) {
    let shared = Shared::get();
    let mut client = shared.dialler(from);
    let dropped = load_balancer(number).into_iter().zip(closed);
    let (dropped, open): (Vec<_>, Vec<_>) = dropped.partition(|(_, closed)| *closed);
    let case = format!("{from:?}, Service {number}");
    let dials = dropped.iter().map(|(to, _)| (case.clone(), shared.dialler(from), to.clone()));
    all_time_out(dials.collect());
    let others =
        [Kind::ClusterIp, Kind::NodePort].map(|kind| shared.dialled(number, kind)).into_iter().flatten();
    let external = shared.dialled(number, Kind::LoadBalancer).into_iter().skip(2);
    let others = others.chain(external).map(|[tcp, _]| tcp);
    for to in open.into_iter().map(|(to, _)| to).chain(others) {
        // A node's own address is never sent out.
        if from != Node || !to.contains(&shared.address(Node, to.starts_with('['))) {
            client.tcp(&to).unwrap_or_else(|error| panic!("{case} -> {to}: {error}"));
        }
    }
}

#[test]
fn a_blocked_client_meets_nobody_at_the_load_balancer_and_is_served_at_the_node_port() {
    is_closed(External, BLOCKED, [true, false]);
}

#[test]
fn a_client_inside_the_range_is_served() {
    is_closed(External, CLIENTS, [false, false]);
}

#[test]
fn a_pod_outside_the_range_is_dropped() {
    is_closed(Pod, CLIENTS, [true, false]);
    // Its sockets leave the address to packets.
    let shared = Shared::get();
    let hooked = shared.alone().peer();
    all_time_out(vec![("a pod with hooks".to_owned(), hooked, load_balancer(CLIENTS)[0].clone())]);
}

#[test]
fn a_pod_inside_the_range_is_served() {
    is_closed(Pod, PODS, [false, false]);
    let shared = Shared::get();
    let met = shared.alone().peer().tcp(&load_balancer(PODS)[0]);
    assert!(met.is_ok(), "a pod with hooks: {met:?}");
}

#[test]
fn the_node_outside_the_range_is_dropped() {
    is_closed(Node, BLOCKED, [true, false]);
}

#[test]
fn a_list_that_cannot_be_read_closes_both_families_and_is_named() {
    for from in [External, Pod, Node] {
        is_closed(from, RUBBISH, [true, true]);
    }
    let shared = Shared::get();
    let node = shared.world.node(1);
    let warnings = node.json(&["status"])["warnings"].to_string();
    let wanted = "shop/service-8: spec.loadBalancerSourceRanges: \\\"rubbish\\\" is not a network";
    assert!(warnings.contains(wanted), "{warnings}");
    let rows = node.json(&["config"]);
    let row = rows.as_array().unwrap().iter().find(|row| row["name"] == "service-8").unwrap();
    assert_eq!(row["messages"][0]["path"], "spec.loadBalancerSourceRanges", "{row}");
}

#[test]
fn a_list_that_can_be_read_in_part_admits_those_and_closes_the_other_family() {
    is_closed(External, HALF, [false, true]);
    is_closed(Pod, HALF, [true, true]);
}

#[test]
fn a_load_balancer_that_speaks_in_its_own_name_is_admitted_where_the_node_is() {
    let shared = Shared::get();
    let client = shared.world.client();
    // The client has the addresses itself, and sends what is for them to the node all the same.
    ip(&format!("-n {} rule add pref 10 lookup local", client.netns));
    ip(&format!("-n {} rule del pref 0", client.netns));
    sysctl(&client.netns, &[("ipv4/conf/all/accept_local", "1"), ("ipv4/conf/all/rp_filter", "0")]);
    let via = &shared.world.node(1).host.v4;
    ip(&format!("-n {} route add default via {via} table 77", client.netns));
    for (number, admitted) in [(NODES, true), (BLOCKED, false)] {
        let [own, _] = load_balancer_ips(number);
        ip(&format!("-n {} rule add pref 5 iif lo to {own} lookup 77", client.netns));
        ip(&format!("-n {} addr add {own}/32 dev lo", client.netns));
        let met = client.peer().tcp_from(&at(&own, 0), &at(&own, 80));
        assert_eq!(met.is_ok(), admitted, "{own} to itself: {met:?}");
        assert!(admitted || timed_out(&met), "{own} to itself: {met:?}");
        ip(&format!("-n {} addr del {own}/32 dev lo", client.netns));
        ip(&format!("-n {} rule del pref 5", client.netns));
    }
    // In nobody's but its own name, and the node's.
    is_closed(External, NODES, [true, false]);
}
