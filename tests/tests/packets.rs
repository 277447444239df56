//! What a client outside of the cluster meets, packet by packet: NodePorts, load balancer and external addresses.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use sluice_tests::outside::{Outside, seen};

#[test]
fn a_client_outside_reaches_pods_by_every_address_of_a_service() {
    for (servers, at, name) in [(&[1][..], 1, "near"), (&[2][..], 1, "far")] {
        let mut outside = Outside::new(servers, &[]);
        for [tcp, udp] in outside.dialled(at) {
            let answer = outside.client.tcp(&tcp).unwrap_or_else(|error| panic!("{name} {tcp}: {error}"));
            assert_eq!(answer.by, name, "{tcp}");
            let is_own = seen(&answer) == outside.own_address(&tcp);
            assert_eq!(is_own, name == "near", "{tcp}: source {} at {name}", answer.client);
            let answer = outside.client.udp(&udp).unwrap_or_else(|error| panic!("{name} {udp}: {error}"));
            assert_eq!(answer.by, name, "{udp}");
        }
    }
}
