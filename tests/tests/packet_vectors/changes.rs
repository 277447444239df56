//! Vectors in which something changes: endpoints that come and go, each at a Service of its own.

use sluice_tests::{outside::until, world::Pod as Place};

use crate::world::{
    From, From::*, Kind, Shared, all_time_out, new_port, refused, service, slices, timed_out,
};

fn apply(shared: &Shared, number: usize, spec: &str, pods: &[&Place]) {
    shared.world.apply(&format!("change-{number}"), &(service(number, spec) + &slices(number, pods)));
}

#[test]
fn internal_local_without_a_local_endpoint_drops_and_refuses_once_the_slice_is_gone() {
    let (shared, number, local) = (Shared::get(), 40, "internalTrafficPolicy: Local");
    apply(&shared, number, local, &[shared.pod("far")]);
    let dialled = shared.dialled(number, Kind::ClusterIp);
    for [tcp, _] in &dialled {
        shared.world.node(1).wait_verdict(tcp, "drop", 0);
    }
    let all = [External, Pod, Node].into_iter().flat_map(|from| dialled.iter().map(move |to| (from, to)));
    let dials = all.clone().map(|(from, [tcp, _])| (format!("{from:?}"), shared.dialler(from), tcp.clone()));
    all_time_out(dials.collect());
    apply(&shared, number, local, &[]);
    for (from, [tcp, udp]) in all {
        let mut client = shared.dialler(from);
        let _refused = until(&format!("{from:?} -> {tcp}"), || client.tcp(tcp), refused);
        let met = client.udp_connected(udp);
        assert!(refused(&met), "{from:?} -> {udp}/UDP: {met:?}");
    }
}

macro_rules! first_endpoints {
    ($($name:ident: $from:ident, $number:expr, $spec:expr;)*) => {
        $(#[test] fn $name() { comes_back($from, $number, $spec); })*
    };
}

first_endpoints! {
    udp_of_a_client_outside_finds_the_first_endpoint_from_the_same_port: External, 41, "";
    udp_of_a_client_outside_finds_the_first_local_endpoint_from_the_same_port:
        External, 42, "externalTrafficPolicy: Local";
    udp_of_a_pod_finds_the_first_endpoint_from_the_same_port: Pod, 43, "";
    udp_of_the_node_finds_the_first_endpoint_from_the_same_port: Node, 44, "";
}

/// Datagrams that nobody answered leave nothing behind that keeps the next one from the endpoint that came.
fn comes_back(from: From, number: usize, spec: &str) {
    let shared = Shared::get();
    let before: &[&Place] = if spec.is_empty() { &[] } else { &[shared.pod("far")] };
    apply(&shared, number, spec, before);
    let dialled = shared.dialled(number, Kind::LoadBalancer);
    let verdict = if spec.is_empty() { "reject" } else { "drop" };
    for [_, udp] in &dialled {
        let client = shared.address(from, udp.starts_with('['));
        let asked = format!("{udp}/udp");
        until(
            &asked,
            || {
                shared.world.node(1).json(&[
                    "explain",
                    "--from",
                    if from == External { &client } else { "host" },
                    &asked,
                ])
            },
            |answer| answer["verdict"] == verdict,
        );
    }
    let mut client = shared.dialler(from);
    // A port for each family, and the same one afterwards.
    let dialled: Vec<_> = dialled.iter().take(2).map(|[_, udp]| (new_port(udp), udp)).collect();
    for (port, udp) in &dialled {
        let met = client.udp_from(port, udp);
        assert!(timed_out(&met) || refused(&met), "{from:?} -> {udp}: {met:?}");
    }
    apply(&shared, number, spec, &[shared.pod("near")]);
    for (port, udp) in &dialled {
        let met = until(udp, || client.udp_from(port, udp), Result::is_ok);
        assert_eq!(met.unwrap().by, "near", "{from:?} -> {udp}");
    }
}
