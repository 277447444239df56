//! Clients outside dial a Service with rules by addresses that are not the node's: they meet the redirector all the same, the
//! Service's policies before it, and the failure policy without it.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use sluice_tests::{
    outside::{Outside, seen, until},
    peer::{Command, Outcome, address},
    wait,
};

/// Only the redirector can tell clients apart by what they dialled.
const RULES: &str = "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\n\
    metadata: {name: cart, namespace: shop}\nspec:\n  hosts: [cart]\n  tcp:\n\
    \x20 - match: [{destinationSubnets: [0.0.0.0/0, \"::/0\"]}]\n    route: [{destination: {host: cart}}]\n";

/// Of node-1, for TCP: NodePort, load balancer, external address, cluster IP; IPv4, then IPv6.
fn addresses(outside: &Outside) -> Vec<String> {
    outside.dialled(1).into_iter().map(|[tcp, _]| tcp).collect()
}

fn steered(servers: &[usize], flags: &[&str]) -> Outside {
    let outside = Outside::new(servers, flags);
    apply(&outside, "");
    outside.world.apply("rules", RULES);
    wait_redirected(&outside);
    outside
}

/// Rules of `tcp` are for ports that are not declared to speak HTTP.
fn apply(outside: &Outside, more: &str) {
    outside.world.apply("shop", &outside.text(more).replace("{name: http,", "{name: tcp,"));
}

fn wait_redirected(outside: &Outside) {
    let node = outside.world.node(1);
    wait::until("rules hold", || {
        let rows = node.json(&["frontend"]);
        let mut tcp = rows.as_array().unwrap().iter().filter(|row| row["protocol"] == "TCP").peekable();
        let right = tcp.peek().is_some() && tcp.all(|row| row["path"] == "redirector");
        if right { Ok(()) } else { Err(rows) }
    });
}

fn count(outside: &Outside, reason: &str) -> u64 {
    let rows = outside.world.node(1).json(&["reasons"]);
    rows.as_array().unwrap().iter().find(|row| row["name"] == reason).unwrap()["count"].as_u64().unwrap()
}

fn timed_out(outcome: &Outcome) -> bool {
    matches!(outcome, Err(error) if error == "timeout" || error == "ETIMEDOUT")
}

#[test]
fn by_every_address_and_family_they_meet_the_redirector_and_see_what_they_dialled() {
    for xdp in ["off", "native"] {
        let mut outside = steered(&[2], &["--xdp", xdp]);
        for to in addresses(&outside) {
            let before = count(&outside, "steered");
            let answer = outside.client.tcp(&to).unwrap_or_else(|error| panic!("{xdp}, {to}: {error}"));
            assert_eq!((answer.by.as_str(), answer.peer), ("far", Some(address(&to))), "{xdp}");
            assert_ne!(seen(&answer), outside.own_address(&to), "{xdp}, {to}: the redirector asked");
            assert_eq!(count(&outside, "steered"), before + 1, "{xdp}, {to}");
        }
        // UDP of the same Service knows no rules.
        for [_, udp] in outside.dialled(1) {
            let answer = outside.client.udp(&udp).unwrap_or_else(|error| panic!("{xdp}, {udp}: {error}"));
            assert_eq!(answer.by, "far", "{xdp}, {udp}");
        }
        // The addresses are still another's: the node has no local route to them.
        let routes =
            outside.world.node(1).host.command("ip").args(["route", "show", "table", "local"]).output();
        let routes = String::from_utf8(routes.unwrap().stdout).unwrap();
        assert!(routes.contains("10.96.0.1 ") && !routes.contains("203.0.113."), "{routes}");
        let explained = outside.world.node(1).json(&["explain", "--from", "192.168.50.2", "203.0.113.10:80"]);
        assert_eq!((&explained["path"], &explained["reason"]), (&"redirector".into(), &"redirected".into()));
        assert!(explained["steps"].to_string().contains("the cluster IP, 10.96.0.1:80"), "{explained}");
    }
}

#[test]
fn one_port_of_a_client_may_have_connections_by_several_addresses_at_once() {
    let mut outside = steered(&[2], &[]);
    let dialled = ["10.96.0.1:80", "203.0.113.10:80", "203.0.113.20:80"];
    outside.world.route_services_to(1);
    let ids = dialled.map(|to| {
        let id = outside.client.id();
        let from = Command::TcpFrom { id, from: address("0.0.0.0:21000"), to: address(to) };
        let answer = outside.client.command(&from).unwrap_or_else(|error| panic!("{to}: {error}"));
        assert_eq!(answer.peer, Some(address(to)));
        id
    });
    for (id, to) in ids.into_iter().zip(dialled) {
        let again = outside.client.command(&Command::AskAgain { id });
        assert!(again.is_ok(), "{to}: {again:?}");
    }
}

#[test]
fn source_ranges_and_a_local_policy_come_before_rules() {
    let mut outside = steered(&[2], &[]);
    let lb = ["203.0.113.10:80", "[2001:db8:50::10]:80"];
    let others = ["203.0.113.20:80", "[2001:db8:50::20]:80"];
    outside.world.route_services_to(1);
    apply(&outside, "loadBalancerSourceRanges: [198.51.100.0/24, \"2001:db8:77::/64\"]");
    for to in lb {
        let before = count(&outside, "source_not_allowed");
        let _timed_out = until(to, || outside.client.tcp(to), timed_out);
        assert!(count(&outside, "source_not_allowed") > before, "{to}");
    }
    for to in others {
        assert_eq!(outside.client.tcp(to).unwrap().by, "far", "{to}: ranges are the load balancer's");
    }
    apply(&outside, "externalTrafficPolicy: Local");
    outside.wait_policy("externalTrafficPolicy: Local");
    for to in lb.into_iter().chain(others) {
        let before = count(&outside, "no_local_endpoints");
        assert!(timed_out(&outside.client.tcp(to)), "{to}");
        assert!(count(&outside, "no_local_endpoints") > before, "{to}");
    }
}

#[test]
fn without_the_redirector_the_failure_policy_decides() {
    for (flag, refused) in [("--l7-fail-closed", true), ("--l7-fail-open", false)] {
        // Nobody ever was there: rules count after two seconds all the same.
        let mut outside = steered(&[2], &[flag, "--redirector", "external"]);
        for to in addresses(&outside) {
            let before = count(&outside, "no_redirector");
            let outcome = outside.client.tcp(&to);
            if refused {
                assert!(timed_out(&outcome), "{flag}, {to}: {outcome:?}");
            } else {
                assert_eq!(outcome.as_ref().map(|answer| answer.by.as_str()), Ok("far"), "{flag}, {to}");
            }
            assert!(count(&outside, "no_redirector") > before, "{flag}, {to}");
        }
    }
}
