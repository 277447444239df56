//! What is not planned anew is what a plan made anew would be.

use std::{cell::Cell, net::Ipv4Addr, sync::Arc};

use serde_json::json;

use super::*;
use crate::model::{Change, Endpoint, EndpointSlice, EndpointState, Node, SlicePort};

const NAMES: [&str; 6] = ["cart", "shop", "plain", "alias", "stream", "db"];
const RULES: [&str; 3] = ["cart", "db", "plain"];

fn service(name: &str, place: usize) -> model::Service {
    let external = name == "alias";
    let octet = u8::try_from(place).unwrap() + 1;
    let mut port = ServicePort::new("http", Protocol::Tcp, 80);
    port.app_protocol = (name == "stream").then(|| "kubernetes.io/h2c".into());
    model::Service {
        name: ObjectName::new("shop", name),
        kind: model::ServiceKind::ClusterIp,
        external_name: external.then(|| "plain.shop.svc.cluster.local".into()),
        created_s: 0,
        cluster_ips: if external { Vec::new() } else { vec![Ipv4Addr::new(10, 96, 0, octet).into()] },
        external_ips: Vec::new(),
        load_balancer_ips: Vec::new(),
        ports: vec![port],
        internal_local: false,
        external_local: false,
        source_ranges: Default::default(),
        health_check_node_port: 0,
        affinity_timeout_s: None,
        translate_headless_port: true,
        per_request: name == "stream",
        algorithm: Default::default(),
    }
}

fn slice(service: &str, octet: u8) -> EndpointSlice {
    let endpoint = Endpoint {
        addresses: vec![Ipv4Addr::new(10, 0, 0, octet).into()],
        state: EndpointState::Ready,
        pod: None,
        node: None,
        zone: None,
        zone_hints: BTreeSet::new(),
        node_hints: BTreeSet::new(),
    };
    EndpointSlice {
        changed: None,
        name: ObjectName::new("shop", format!("{service}-1")),
        service: ObjectName::new("shop", service),
        ports: vec![SlicePort { name: "http".to_owned(), protocol: Protocol::Tcp, port: Some(8080) }],
        endpoints: vec![endpoint],
    }
}

fn rule(name: &str, to: &str) -> Arc<Value> {
    let kind = if name == "db" { "tcp" } else { "http" };
    Arc::new(json!({"apiVersion": "networking.istio.io/v1", "kind": "VirtualService",
        "metadata": {"name": name, "namespace": "shop"},
        "spec": {"hosts": [name], kind: [{"route": [{"destination": {"host": to}}]}]}}))
}

fn pod(octet: u8, label: u32) -> model::Pod {
    model::Pod {
        name: ObjectName::new("shop", format!("pod-{octet}")),
        addresses: vec![Ipv4Addr::new(10, 0, 0, octet).into()],
        node: Some("here".into()),
        host_network: false,
        labels: [("version".to_owned(), label.to_string())].into(),
        ports: Vec::new(),
    }
}

/// Some change, by the dice `roll`.
fn change(roll: impl Fn(u32) -> u32) -> Change {
    let place = roll(6) as usize;
    let (name, octet) = (NAMES[place], u8::try_from(roll(9)).unwrap());
    let object = |name: &str| ObjectName::new("shop", name);
    match roll(10) {
        0 => Change::Service(object(name), None),
        1 => Change::Service(object(name), Some(Box::new(service(name, place)))),
        2 => Change::Rule(RuleKind::VirtualService, object(RULES[place % 3]), None),
        3 | 4 => {
            let of = RULES[place % 3];
            Change::Rule(RuleKind::VirtualService, object(of), Some(rule(of, NAMES[roll(6) as usize])))
        }
        5 => Change::Pod(object(&format!("pod-{octet}")), Some(Box::new(pod(octet, roll(3))))),
        6 => Change::Slice(object(&format!("{name}-1")), None),
        _ => Change::Slice(object(&format!("{name}-1")), Some(Box::new(slice(name, octet)))),
    }
}

#[test]
fn a_plan_that_is_kept_is_what_a_new_one_would_be() {
    let state = Cell::new(0x9e37_79b9_u32);
    let roll = |sides: u32| {
        let mut next = state.get();
        next ^= next << 13;
        next ^= next >> 17;
        next ^= next << 5;
        state.set(next);
        next % sides
    };
    let mut store = Store::new(Node { name: "here".into(), ..Node::default() });
    store.apply(Change::AllServices(
        NAMES.iter().enumerate().map(|(place, name)| service(name, place)).collect(),
    ));
    store.apply(Change::AllPods(Vec::new()));
    let lingering = [BTreeSet::new(), [(ObjectName::new("shop", "shop"), 80)].into()];
    let (mut kept, mut kept_plan, mut spared) = (Planner::default(), Plan::default(), 0);
    let (mut lingers, now) = (0, Instant::now());
    for step in 0..3_000 {
        if roll(50) == 0 {
            lingers = 1 - lingers;
        }
        let place =
            Place { node: &[], owns: &|_, _| true, lingering: &lingering[lingers], answers: &|_| false };
        let news = store.take_l7_news();
        if news.objects {
            kept.forget();
        }
        let other = kept.decided.as_ref().is_some_and(|decided| !decided.is_for(place.lingering));
        if kept.is_concerned(&news, now) || other {
            kept_plan = kept.plan(&store, &place, now);
        } else {
            spared += 1;
        }
        let new = Planner::default().plan(&store, &place, now);
        assert_eq!(format!("{kept_plan:?}"), format!("{new:?}"), "step {step}, after {news:?}");
        store.apply(change(roll));
    }
    assert!(spared > 300, "{spared} plans were spared");
}
