//! Explanations agree with the maps, and destinations are understood in all their spellings.

use std::collections::BTreeMap;

use super::*;
use crate::{
    compile,
    maps::{Op, Sizes, Tables, WriteError, Writer},
    model::{
        Change, Endpoint, EndpointSlice, EndpointState, Node, ObjectName, Protocol, Service, ServiceKind,
        ServicePort, SlicePort, Store,
    },
    reconcile::Reconciler,
};

struct Table(Tables);

impl Writer for Table {
    fn write(&mut self, op: &Op) -> Result<(), WriteError> {
        self.0.apply(op);
        Ok(())
    }
}

fn tables(states: &[EndpointState], internal_local: bool) -> Tables {
    tables_with(states, |service| service.internal_local = internal_local)
}

/// The Service shop/cart at 10.96.0.1:80, with endpoints 10.0.0.1 and so on in these states, the first here.
pub fn tables_with(states: &[EndpointState], edit: impl FnOnce(&mut Service)) -> Tables {
    let name = ObjectName::new("shop", "cart");
    let mut service = Service {
        name: name.clone(),
        kind: ServiceKind::ClusterIp,
        external_name: None,
        created_s: 0,
        cluster_ips: vec!["10.96.0.1".parse().unwrap()],
        external_ips: Vec::new(),
        load_balancer_ips: Vec::new(),
        ports: vec![ServicePort::new("http", Protocol::Tcp, 80)],
        internal_local: false,
        external_local: false,
        source_ranges: Default::default(),
        health_check_node_port: 0,
        affinity_timeout_s: None,
        translate_headless_port: true,
        per_request: false,
        algorithm: Default::default(),
    };
    edit(&mut service);
    let endpoint = |(index, state): (usize, &EndpointState)| Endpoint {
        addresses: vec![[10, 0, 0, index as u8 + 1].into()],
        state: *state,
        pod: None,
        node: Some(if index == 0 { "here".into() } else { "there".into() }),
        zone: Some("z".into()),
        zone_hints: Default::default(),
        node_hints: Default::default(),
    };
    let slice = EndpointSlice {
        changed: None,
        name: ObjectName::new("shop", "cart-1"),
        service: name.clone(),
        ports: vec![SlicePort { name: "http".into(), protocol: Protocol::Tcp, port: Some(8080) }],
        endpoints: states.iter().enumerate().map(endpoint).collect(),
    };
    let mut store = Store::new(Node { name: "here".into(), ..Node::default() });
    store.apply(Change::AllServices(vec![service]));
    store.apply(Change::AllSlices(vec![slice]));
    let mut table = Table(Tables::default());
    let compiled = BTreeMap::from([(name.clone(), compile::service(&store, &name))]);
    Reconciler::new(Tables::default(), Sizes::default()).reconcile(&mut table, compiled, 0);
    table.0
}

fn ask(tables: &Tables, destination: &str) -> Result<Explanation, String> {
    explain(
        tables,
        &Query {
            from: "host".into(),
            left_alone: false,
            sender: None,
            from_port: None,
            options: 0,
            destination: destination.parse()?,
        },
    )
}

#[test]
fn the_verdict_and_its_endpoints_follow_states_and_policy() {
    use EndpointState::{NotReady, Ready, Terminating};
    for (case, states, local, verdict, reason, endpoints, excluded) in [
        ("two ready", vec![Ready, Ready], false, "translate", "connect_translated", 2, vec![]),
        (
            "one not ready",
            vec![Ready, NotReady],
            false,
            "translate",
            "connect_translated",
            1,
            vec!["notReady"],
        ),
        (
            "one terminating",
            vec![Ready, Terminating],
            false,
            "translate",
            "connect_translated",
            1,
            vec!["terminating"],
        ),
        ("local only", vec![Ready, Ready], true, "translate", "connect_translated", 1, vec!["policy"]),
        (
            "no local one",
            vec![NotReady, Ready],
            true,
            "drop",
            "no_local_endpoints",
            0,
            vec!["notReady", "policy"],
        ),
        ("none at all", vec![], false, "reject", "no_endpoints", 0, vec![]),
    ] {
        let answer = ask(&tables(&states, local), "10.96.0.1:80").unwrap();
        assert_eq!((answer.verdict, answer.reason), (verdict, reason), "{case}");
        assert_eq!(answer.endpoints.len(), endpoints, "{case}");
        assert_eq!(answer.excluded.iter().map(|e| e.reason).collect::<Vec<_>>(), excluded, "{case}");
        assert_eq!(answer.service.as_deref(), Some("shop/cart"), "{case}");
        let row = &services(&tables(&states, local))[0].ports[0];
        assert_eq!(
            row.endpoints.iter().filter(|endpoint| endpoint.used).count(),
            endpoints,
            "{case}: service row"
        );
        assert_eq!(row.endpoints.len(), states.len(), "{case}: service row");
    }
}

#[test]
fn destinations_are_understood_in_all_their_spellings() {
    let tables = tables(&[EndpointState::Ready], false);
    for (text, want) in [
        ("10.96.0.1:80", Ok("10.96.0.1:80/TCP")),
        ("10.96.0.1:80/tcp", Ok("10.96.0.1:80/TCP")),
        ("[::ffff:10.96.0.1]:80", Ok("10.96.0.1:80/TCP")),
        ("10.96.0.1:80/UDP", Ok("10.96.0.1:80/UDP")),
        ("shop/cart", Ok("10.96.0.1:80/TCP")),
        ("shop/cart:http", Ok("10.96.0.1:80/TCP")),
        ("Cart.shop:80", Ok("10.96.0.1:80/TCP")),
        ("cart.shop.svc.cluster.local", Ok("10.96.0.1:80/TCP")),
        ("shop/cart:81", Err("shop/cart has no port 81; it has 80/TCP")),
        ("shop/none", Err("no Service shop/none is in the maps")),
        ("10.96.0.1", Err("10.96.0.1 has no port")),
        ("nonsense", Err("\"nonsense\" is neither")),
    ] {
        match (ask(&tables, text), want) {
            (Ok(answer), Ok(want)) => assert_eq!(answer.destination, want, "{text}"),
            (Err(error), Err(want)) => assert!(error.starts_with(want), "{text}: {error}"),
            (got, want) => panic!("{text}: {got:?} instead of {want:?}"),
        }
    }
}

#[test]
fn what_is_not_ours_is_said_with_its_neighbours() {
    let tables = tables(&[EndpointState::Ready], false);
    for (text, cluster_ip, verdict, want) in [
        ("10.96.0.1:81", true, ("reject", "unknown_port"), "the address belongs to shop/cart port 80/TCP"),
        ("10.96.0.1:81/sctp", true, ("pass", "not_ours"), "the address belongs to shop/cart port 80/TCP"),
        ("10.96.0.1:81", false, ("pass", "not_ours"), "the address belongs to shop/cart port 80/TCP"),
        ("192.0.2.1:80", true, ("pass", "not_ours"), "no Service has the address 192.0.2.1"),
    ] {
        let mut tables = tables.clone();
        tables.addresses.retain(|_, _| cluster_ip);
        let answer = ask(&tables, text).unwrap();
        assert_eq!((answer.verdict, answer.reason), verdict, "{text}");
        assert!(answer.steps[0].contains(want), "{}", answer.steps[0]);
    }
}
