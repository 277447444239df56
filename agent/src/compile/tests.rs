//! Tables for selection, ports, families and claims.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::model::{Change, Endpoint, EndpointSlice, Node, Pod, Service, ServicePort, SlicePort};

fn service_named(name: &str) -> Service {
    Service {
        name: ObjectName::new("shop", name),
        kind: ServiceKind::ClusterIp,
        external_name: None,
        created_s: 0,
        cluster_ips: vec!["10.96.0.1".parse().unwrap()],
        external_ips: Vec::new(),
        load_balancer_ips: Vec::new(),
        ports: vec![ServicePort::new("", Protocol::Tcp, 80)],
        internal_local: false,
        external_local: false,
        source_ranges: Default::default(),
        health_check_node_port: 0,
        affinity_timeout_s: None,
        translate_headless_port: true,
        per_request: false,
        algorithm: Default::default(),
    }
}

/// `name` is the last octet; `spec` is `state[@node][#zone,zone-hint][!node-hint]` in short.
fn endpoint(octet: u8, state: EndpointState, node: Option<&str>, zones: &[&str], nodes: &[&str]) -> Endpoint {
    Endpoint {
        addresses: vec![IpAddr::from([10, 0, 0, octet])],
        state,
        pod: None,
        node: node.map(Arc::from),
        zone: None,
        zone_hints: zones.iter().map(|zone| (*zone).to_owned()).collect(),
        node_hints: nodes.iter().map(|node| (*node).to_owned()).collect(),
    }
}

fn slice(name: &str, endpoints: Vec<Endpoint>, port: Option<u16>) -> EndpointSlice {
    EndpointSlice {
        changed: None,
        name: ObjectName::new("shop", name),
        service: ObjectName::new("shop", "cart"),
        ports: vec![SlicePort { name: String::new(), protocol: Protocol::Tcp, port }],
        endpoints,
    }
}

fn store(service: Service, slices: Vec<EndpointSlice>) -> Store {
    let mut store = Store::new(Node { name: "here".into(), zone: Some("z1".into()), ..Node::default() });
    store.apply(Change::AllServices(vec![service]));
    store.apply(Change::AllSlices(slices));
    store.apply(Change::AllPods(Vec::new()));
    store
}

fn octets(port: &CompiledPort, pick: impl Fn(&CompiledEndpoint) -> bool) -> Vec<u8> {
    let chosen = port.endpoints.iter().filter(|endpoint| pick(endpoint));
    chosen
        .map(|endpoint| match endpoint.address {
            IpAddr::V4(address) => address.octets()[3],
            IpAddr::V6(_) => 0,
        })
        .collect()
}

#[test]
fn readiness_policy_and_hints_choose_the_ranges() {
    use EndpointState::{NotReady, Ready, Terminating};
    let here = Some("here");
    let there = Some("there");
    for (case, endpoints, cluster, local) in [
        (
            "ready ones, wherever they are",
            vec![endpoint(1, Ready, here, &[], &[]), endpoint(2, Ready, there, &[], &[])],
            vec![1, 2],
            vec![1],
        ),
        (
            "not ready ones never",
            vec![endpoint(1, NotReady, here, &[], &[]), endpoint(2, Ready, there, &[], &[])],
            vec![2],
            vec![],
        ),
        (
            "terminating ones only if nothing is ready",
            vec![endpoint(1, Terminating, there, &[], &[]), endpoint(2, Terminating, here, &[], &[])],
            vec![1, 2],
            vec![2],
        ),
        (
            "local falls back on its own while the cluster has a ready one",
            vec![endpoint(1, Ready, there, &[], &[]), endpoint(2, Terminating, here, &[], &[])],
            vec![1],
            vec![2],
        ),
        ("no node name is remote", vec![endpoint(1, Ready, None, &[], &[])], vec![1], vec![]),
        (
            "zone hints, all or nothing: all have one",
            vec![endpoint(1, Ready, there, &["z1"], &[]), endpoint(2, Ready, there, &["z2"], &[])],
            vec![1],
            vec![],
        ),
        (
            "zone hints: one is missing",
            vec![endpoint(1, Ready, there, &["z1"], &[]), endpoint(2, Ready, there, &[], &[])],
            vec![1, 2],
            vec![],
        ),
        (
            "zone hints: an unready endpoint without one does not count",
            vec![endpoint(1, Ready, there, &["z1"], &[]), endpoint(2, NotReady, there, &[], &[])],
            vec![1],
            vec![],
        ),
        (
            "zone hints: none names our zone",
            vec![endpoint(1, Ready, there, &["z3"], &[]), endpoint(2, Ready, there, &["z2"], &[])],
            vec![1, 2],
            vec![],
        ),
        (
            "node hints come before zone hints",
            vec![
                endpoint(1, Ready, there, &["z1"], &["there"]),
                endpoint(2, Ready, here, &["z1"], &["here"]),
            ],
            vec![2],
            vec![2],
        ),
        (
            "node hints: none names this node, so zone hints decide",
            vec![
                endpoint(1, Ready, there, &["z1"], &["there"]),
                endpoint(2, Ready, there, &["z2"], &["there"]),
            ],
            vec![1],
            vec![],
        ),
        (
            "local ignores hints",
            vec![endpoint(1, Ready, here, &["z2"], &[]), endpoint(2, Ready, there, &["z1"], &[])],
            vec![2],
            vec![1],
        ),
    ] {
        let mut service = service_named("cart");
        service.external_local = true;
        let store = store(service, vec![slice("a", endpoints, Some(8080))]);
        let compiled = super::service(&store, &ObjectName::new("shop", "cart"));
        assert_eq!(octets(&compiled[0], |endpoint| endpoint.in_cluster), cluster, "{case}: cluster");
        assert_eq!(octets(&compiled[0], |endpoint| endpoint.in_local), local, "{case}: local");
        for endpoint in &compiled[0].endpoints {
            let used = endpoint.in_cluster || endpoint.in_local;
            assert_eq!(endpoint.excluded.is_none(), used, "{case}: every one left out has a reason");
        }
    }
}

#[test]
fn endpoints_are_joined_by_port_name_and_listed_once() {
    let twice = vec![endpoint(1, EndpointState::NotReady, None, &[], &[])];
    let better = vec![endpoint(1, EndpointState::Ready, None, &[], &[])];
    for (case, slices, want) in [
        (
            "in two slices, the ready one counts",
            vec![slice("a", twice.clone(), Some(1)), slice("b", better.clone(), Some(1))],
            vec![1],
        ),
        (
            "whatever their order",
            vec![slice("a", better.clone(), Some(1)), slice("b", twice, Some(1))],
            vec![1],
        ),
        ("no port in the slice means the Service's own", vec![slice("a", better, None)], vec![80]),
    ] {
        let store = store(service_named("cart"), slices);
        let compiled = service(&store, &ObjectName::new("shop", "cart"));
        let ready = compiled[0].endpoints.iter().filter(|endpoint| endpoint.state == EndpointState::Ready);
        assert_eq!(ready.map(|endpoint| endpoint.port).collect::<Vec<_>>(), want, "{case}");
        assert_eq!(compiled[0].endpoints.len(), 1, "{case}");
    }
}

#[test]
fn a_service_without_an_address_waits_for_it() {
    let mut service = service_named("cart");
    service.cluster_ips.clear();
    service.external_ips = vec!["192.0.2.1".parse().unwrap()];
    assert!(super::service(&store(service, Vec::new()), &ObjectName::new("shop", "cart")).is_empty());
}

fn pod(address: IpAddr, port: u16) -> Pod {
    let (name, labels) = (ObjectName::new("shop", "pod"), BTreeMap::new());
    Pod {
        name,
        addresses: vec![address],
        node: None,
        host_network: false,
        labels,
        ports: vec![(Protocol::Tcp, port)],
    }
}

#[test]
fn headless_ports_are_translated_only_where_a_pod_of_the_namespace_does_not_use_them() {
    let mut headless = service_named("cart");
    headless.kind = ServiceKind::Headless;
    headless.cluster_ips.clear();
    let ready = vec![endpoint(1, EndpointState::Ready, None, &[], &[])];
    let address: IpAddr = "10.0.0.1".parse().unwrap();
    let pod_port = |port| vec![pod(address, port)];
    let mut other = slice("other", ready.clone(), Some(80));
    other.service = ObjectName::new("shop", "other");
    let off = Service { translate_headless_port: false, ..headless.clone() };
    let foreign = |name: &str| Pod { name: ObjectName::new("yard", name), ..pod(address, 81) };
    let on_host =
        |name: &str| Pod { name: ObjectName::new("shop", name), host_network: true, ..pod(address, 81) };
    let elsewhere = pod("10.0.0.9".parse().unwrap(), 81);
    let own = || vec![slice("a", ready.clone(), Some(8080))];
    for (case, service, slices, pods, want) in [
        ("differs", &headless, own(), Some(pod_port(81)), 1),
        ("same number", &headless, vec![slice("a", ready.clone(), Some(80))], Some(pod_port(81)), 0),
        ("declared by a container", &headless, own(), Some(pod_port(80)), 0),
        ("no pod has the address: a node's, or a machine's outside", &headless, own(), Some(vec![]), 0),
        ("the Service's pods are elsewhere", &headless, own(), Some(vec![elsewhere]), 0),
        ("another namespace's pod", &headless, own(), Some(vec![foreign("db")]), 0),
        ("a pod on its node's network", &headless, own(), Some(vec![on_host("db")]), 0),
        (
            "one on its node's network besides",
            &headless,
            own(),
            Some(vec![pod(address, 81), on_host("db")]),
            0,
        ),
        ("another namespace's besides", &headless, own(), Some(vec![pod(address, 81), foreign("db")]), 0),
        (
            "shown by another Service's slice",
            &headless,
            vec![slice("a", ready.clone(), Some(8080)), other],
            Some(pod_port(81)),
            0,
        ),
        ("turned off", &off, own(), Some(pod_port(81)), 0),
        ("pods unknown", &headless, own(), None, 0),
    ] {
        let mut store = Store::new(Node::default());
        store.apply(Change::AllServices(vec![service.clone()]));
        store.apply(Change::AllSlices(slices));
        if let Some(pods) = pods {
            store.apply(Change::AllPods(pods));
        }
        let compiled = super::service(&store, &ObjectName::new("shop", "cart"));
        assert_eq!(compiled.iter().map(|port| port.frontends.len()).sum::<usize>(), want, "{case}");
    }
}

#[test]
fn a_new_slice_that_shows_a_port_in_use_recompiles_the_headless_service() {
    let mut headless = service_named("cart");
    headless.kind = ServiceKind::Headless;
    headless.cluster_ips.clear();
    let ready = vec![endpoint(1, EndpointState::Ready, None, &[], &[])];
    let mut store = store(headless, vec![slice("a", ready.clone(), Some(8080))]);
    store.take_dirty();
    let mut other = slice("other", ready, Some(80));
    other.service = ObjectName::new("shop", "other");
    store.apply(Change::Slice(other.name.clone(), Some(Box::new(other))));
    assert!(store.take_dirty().contains(&ObjectName::new("shop", "cart")));
}

#[test]
fn a_pod_that_comes_or_goes_recompiles_the_headless_service() {
    let mut headless = service_named("cart");
    headless.kind = ServiceKind::Headless;
    headless.cluster_ips.clear();
    let cart = headless.name.clone();
    let mut store = store(
        headless,
        vec![slice("a", vec![endpoint(1, EndpointState::Ready, None, &[], &[])], Some(8080))],
    );
    store.take_dirty();
    // It declares nothing, so that its address alone is news.
    let pod = Pod { ports: Vec::new(), ..pod("10.0.0.1".parse().unwrap(), 81) };
    for (case, news, want) in [("comes", Some(Box::new(pod.clone())), 1), ("goes", None, 0)] {
        store.apply(Change::Pod(pod.name.clone(), news));
        assert!(store.take_dirty().contains(&cart), "{case}");
        let frontends: usize = service(&store, &cart).iter().map(|port| port.frontends.len()).sum();
        assert_eq!(frontends, want, "{case}");
    }
}

#[test]
fn the_older_service_keeps_an_address_whatever_the_order() {
    let compiled = |name: &str, created_s| {
        let service = Service { created_s, ..service_named(name) };
        let mut store = Store::new(Node::default());
        store.apply(Change::AllServices(vec![service]));
        (ObjectName::new("shop", name), super::service(&store, &ObjectName::new("shop", name)))
    };
    let (old, young) = (compiled("zebra", 1), compiled("ant", 2));
    let dialled = *old.1[0].frontends.keys().next().unwrap();
    for order in [[&old, &young], [&young, &old]] {
        let mut claims = Claims::default();
        claims.update(&order[0].0, &order[0].1);
        let touched = claims.update(&order[1].0, &order[1].1);
        assert_eq!(claims.owner(&dialled), Some(&old.0));
        assert_eq!(touched, BTreeSet::from([order[0].0.clone()]));
        claims.update(&old.0, &[]);
        assert_eq!(claims.owner(&dialled), Some(&young.0), "the next one takes over");
    }
}

#[test]
fn a_cluster_ip_belongs_to_its_service_whoever_else_claims_it_and_however_old() {
    let victim = Service { created_s: 9, ..service_named("victim") };
    let thief = Service {
        created_s: 1,
        cluster_ips: vec!["10.96.0.9".parse().unwrap()],
        external_ips: vec!["10.96.0.1".parse().unwrap()],
        ..service_named("thief")
    };
    let mut claims = Claims::default();
    for service in [thief, victim] {
        let mut store = Store::new(Node::default());
        let name = service.name.clone();
        store.apply(Change::AllServices(vec![service]));
        claims.update(&name, &super::service(&store, &name));
    }
    let dialled = Dialled { address: "10.96.0.1".parse().unwrap(), port: 80, protocol: Protocol::Tcp };
    assert_eq!(claims.owner(&dialled), Some(&ObjectName::new("shop", "victim")));
}

#[test]
fn source_ranges_are_of_their_family_and_admit_the_load_balancer_itself_where_the_node_is_admitted() {
    let (lb, lb6) = ("203.0.113.10/32", "2001:db8::10/128");
    for (case, networks, has_unreadable, want, want6) in [
        ("no list", &[][..], false, None, None),
        ("a client's network", &["10.0.0.0/8"], false, Some(vec!["10.0.0.0/8"]), None),
        ("the node's", &["192.0.2.0/24"], false, Some(vec!["192.0.2.0/24", lb]), None),
        ("the node's other address", &["198.51.100.7/32"], false, Some(vec!["198.51.100.7/32", lb]), None),
        ("the node's, of IPv6", &["2001:db8:1::/64"], false, None, Some(vec!["2001:db8:1::/64", lb6])),
        ("twice", &["192.0.2.0/24", "192.0.2.0/24"], false, Some(vec!["192.0.2.0/24", lb]), None),
        ("nothing that can be read", &[], true, Some(vec![]), Some(vec![])),
        ("one that can", &["192.0.2.0/24"], true, Some(vec!["192.0.2.0/24", lb]), Some(vec![])),
    ] {
        let mut service = service_named("cart");
        service.kind = ServiceKind::LoadBalancer;
        service.cluster_ips.push("fd00:96::1".parse().unwrap());
        service.load_balancer_ips = ["203.0.113.10", "2001:db8::10"].map(|ip| ip.parse().unwrap()).into();
        service.source_ranges.networks = networks.iter().map(|text| text.parse().unwrap()).collect();
        service.source_ranges.has_unreadable = has_unreadable;
        let addresses = ["192.0.2.1", "198.51.100.7", "2001:db8:1::1"].map(|ip| ip.parse().unwrap()).into();
        let mut store = Store::new(Node { addresses, ..Node::default() });
        store.apply(Change::AllServices(vec![service]));
        for port in super::service(&store, &ObjectName::new("shop", "cart")) {
            let want = if port.id.family == Family::V6 { &want6 } else { &want };
            let got: Option<BTreeSet<String>> =
                port.source_ranges.map(|ranges| ranges.iter().map(ToString::to_string).collect());
            let want = want.as_ref().map(|texts| texts.iter().map(|text| (*text).to_owned()).collect());
            assert_eq!(got, want, "{case}, {:?}", port.id.family);
        }
    }
}
