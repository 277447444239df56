//! What readers see while we write, what survives failures and restarts, and how many writes a change costs.
use std::collections::{BTreeMap, BTreeSet};

use sluice_common::{choose, layout::FrontendValue};

use super::*;
use crate::{
    compile::{self, Dialled},
    model::{
        Change, Endpoint, EndpointSlice, EndpointState, Node, Protocol, Service, ServiceKind, ServicePort,
        SlicePort, Store,
    },
};
mod tables;

mod deaths;
mod full;

const SECOND: u64 = 1_000_000_000;

/// A table that takes writes, fails some, and checks after each that no reader could meet nonsense.
#[derive(Default)]
struct Table {
    tables: Tables,
    fail_every: Option<usize>,
    /// How many writes succeed before the rest fails.
    writes_left: Option<usize>,
    attempts: usize,
    log: Vec<Op>,
}

impl Writer for Table {
    fn write(&mut self, op: &Op) -> Result<(), WriteError> {
        self.attempts += 1;
        let dead = self.writes_left == Some(0);
        self.writes_left = self.writes_left.map(|left| left.saturating_sub(1));
        if dead || self.fail_every.is_some_and(|every| self.attempts.is_multiple_of(every)) {
            return Err(WriteError::Refused { map: "TEST", source: std::io::Error::other("test") });
        }
        if let Op::PutSlot(index, value) = op {
            let named = |start: u32, count: u32| (start..start + count).contains(index);
            let live = |value: &FrontendValue| {
                named(value.cluster_start, value.cluster_count) || named(value.local_start, value.local_count)
            };
            let same = self.tables.slots.get(index) == Some(value);
            assert!(
                same || !self.tables.frontends.values().any(live),
                "{op:?} rewrites a slot that a frontend names"
            );
        }
        self.tables.apply(op);
        self.log.push(*op);
        for (key, value) in &self.tables.frontends {
            for index in value.cluster_start..value.cluster_start + value.cluster_count {
                let slot = self.tables.slots[&index];
                assert_eq!(slot.service_id, value.service_id, "{key:?} leads to a foreign slot after {op:?}");
                assert!(self.tables.backends.contains_key(&slot.backend_id), "dangling after {op:?}");
            }
        }
        Ok(())
    }
}

struct World {
    store: Store,
    reconciler: Reconciler,
    table: Table,
    now_ns: u64,
}

impl World {
    fn new() -> Self {
        Self::with_sizes(Sizes::default())
    }

    fn with_sizes(sizes: Sizes) -> Self {
        Self {
            store: Store::new(Node { name: "here".into(), ..Node::default() }),
            reconciler: Reconciler::new(Tables::default(), sizes),
            table: Table::default(),
            now_ns: 0,
        }
    }

    fn round(&mut self, changes: Vec<Change>) -> Outcome {
        for change in changes {
            self.store.apply(change);
        }
        let dirty = self.store.take_dirty();
        let compiled = dirty.into_iter().map(|name| (name.clone(), compile::service(&self.store, &name)));
        let outcome = self.reconciler.reconcile(&mut self.table, compiled.collect(), self.now_ns);
        for name in outcome.failed.keys() {
            self.store.mark(name.clone());
        }
        assert_eq!(self.reconciler.tables().frontends, self.table.tables.frontends, "the mirror is true");
        outcome
    }

    fn settle(&mut self) {
        for _ in 0..200 {
            self.now_ns += 2 * SECOND;
            let failed = self.round(Vec::new()).failed.len();
            let resting = self.reconciler.collect(&mut self.table, self.now_ns).unwrap_or(true);
            if failed == 0 && !resting {
                return;
            }
        }
        panic!("does not settle");
    }

    /// Frontend → sorted backends, without ids: what any two ways to the same state must agree in.
    fn seen(&self) -> BTreeMap<String, Vec<String>> {
        let tables = &self.table.tables;
        let name = |key: &FrontendKey| format!("{:?}", dialled(key).unwrap());
        let backend =
            |value: &BackendValue| format!("{}:{}", IpAddr::from(value.addr), u16::from_be(value.port_be));
        let mut seen = BTreeMap::new();
        for (key, value) in &tables.frontends {
            let range = value.cluster_start..value.cluster_start + value.cluster_count;
            let mut backends: Vec<String> =
                range.map(|index| backend(&tables.backends[&tables.slots[&index].backend_id])).collect();
            backends.sort();
            seen.insert(name(key), backends);
        }
        seen
    }
}

fn service(name: &str, address: [u8; 4], created_s: i64) -> Change {
    Change::Service(
        ObjectName::new("shop", name),
        Some(Box::new(Service {
            name: ObjectName::new("shop", name),
            kind: ServiceKind::ClusterIp,
            external_name: None,
            created_s,
            cluster_ips: vec![address.into()],
            ports: vec![ServicePort::new("", Protocol::Tcp, 80)],
            external_ips: Vec::new(),
            load_balancer_ips: Vec::new(),
            internal_local: false,
            external_local: false,
            source_ranges: Default::default(),
            health_check_node_port: 0,
            affinity_timeout_s: None,
            translate_headless_port: true,
            per_request: false,
            algorithm: Default::default(),
        })),
    )
}

fn slice(service: &str, octets: &[u8]) -> Change {
    let endpoint = |octet: &u8| Endpoint {
        addresses: vec![[10, 0, 0, *octet].into()],
        state: EndpointState::Ready,
        pod: None,
        node: Some(format!("node-{}", octet % 3).into()),
        zone: None,
        zone_hints: BTreeSet::new(),
        node_hints: BTreeSet::new(),
    };
    let name = ObjectName::new("shop", format!("{service}-1"));
    Change::Slice(
        name.clone(),
        Some(Box::new(EndpointSlice {
            changed: None,
            name,
            service: ObjectName::new("shop", service),
            ports: vec![SlicePort { name: String::new(), protocol: Protocol::Tcp, port: Some(8080) }],
            endpoints: octets.iter().map(endpoint).collect(),
        })),
    )
}

fn gone(service: &str) -> Vec<Change> {
    vec![
        Change::Service(ObjectName::new("shop", service), None),
        Change::Slice(ObjectName::new("shop", format!("{service}-1")), None),
    ]
}

#[test]
fn scaling_one_three_none_one_gone_leaves_nothing_behind() {
    let mut world = World::new();
    let dialled = "Dialled { address: 10.96.0.1, port: 80, protocol: Tcp }";
    for (octets, want) in [
        (vec![1], vec!["10.0.0.1:8080"]),
        (vec![1, 2, 3], vec!["10.0.0.1:8080", "10.0.0.2:8080", "10.0.0.3:8080"]),
        (vec![], vec![]),
        (vec![2], vec!["10.0.0.2:8080"]),
    ] {
        world.round(vec![service("cart", [10, 96, 0, 1], 0), slice("cart", &octets)]);
        assert_eq!(world.seen()[dialled], want);
    }
    world.round(gone("cart"));
    world.settle();
    let tables = &world.table.tables;
    assert!(tables.frontends.is_empty() && tables.services.is_empty());
    assert!(tables.backends.is_empty() && tables.nodes.is_empty());
}

#[test]
fn both_orders_of_objects_lead_to_the_same_maps() {
    let changes = || {
        vec![
            service("cart", [10, 96, 0, 1], 5),
            slice("cart", &[1, 2]),
            service("rival", [10, 96, 0, 1], 3), // wants the same address, and is older
            slice("rival", &[3]),
            service("pay", [10, 96, 0, 2], 4),
            slice("pay", &[2]),
        ]
    };
    let mut seen = Vec::new();
    for reverse in [false, true] {
        for one_by_one in [false, true] {
            let mut world = World::new();
            let mut list = changes();
            if reverse {
                list.reverse();
            }
            if one_by_one {
                list.into_iter().for_each(|change| drop(world.round(vec![change])));
            } else {
                world.round(list);
            }
            seen.push(world.seen());
        }
    }
    assert!(seen.iter().all(|other| *other == seen[0]), "{seen:#?}");
    assert_eq!(seen[0]["Dialled { address: 10.96.0.1, port: 80, protocol: Tcp }"], ["10.0.0.3:8080"]);
}

#[test]
fn a_tenth_of_the_writes_failing_changes_nothing_in_the_end() {
    for every in [2, 3, 7, 10] {
        let mut world = World::new();
        world.table.fail_every = Some(every);
        for octets in [vec![1], vec![1, 2, 3, 4], vec![], vec![4, 5]] {
            world.round(vec![service("cart", [10, 96, 0, 1], 0), slice("cart", &octets)]);
            world.round(vec![service("pay", [10, 96, 0, 2], 0), slice("pay", &[9])]);
        }
        world.settle();
        let seen = world.seen();
        assert_eq!(
            seen["Dialled { address: 10.96.0.1, port: 80, protocol: Tcp }"],
            ["10.0.0.4:8080", "10.0.0.5:8080"]
        );
        assert_eq!(world.table.tables.backends.len(), 3, "every {every}: no backend leaks");
        world.round(gone("cart"));
        world.round(gone("pay"));
        world.settle();
        assert!(world.table.tables.backends.is_empty() && world.table.tables.frontends.is_empty());
        assert_eq!(
            world.reconciler.slots.allocate(262_143).map(|range| range.start),
            Some(1),
            "no slot leaks"
        );
    }
}

#[test]
fn a_restart_keeps_ids_and_writes_nothing() {
    let mut world = World::new();
    let changes = || {
        vec![service("cart", [10, 96, 0, 1], 0), slice("cart", &[1, 2]), service("pay", [10, 96, 0, 2], 0)]
    };
    world.round(changes());
    world.round(vec![slice("cart", &[2, 3])]);
    world.settle();
    let before = world.table.tables.clone();
    world.reconciler = Reconciler::new(before.clone(), Sizes::default());
    world.store = Store::new(Node { name: "here".into(), ..Node::default() });
    let mut list = changes();
    list[1] = slice("cart", &[2, 3]);
    assert_eq!(world.round(list).writes, 0);
    assert!(world.reconciler.leftovers(|name| world.store.service(name).is_some()).is_empty());
    world.reconciler.purge(&mut world.table).unwrap();
    world.settle();
    assert_eq!(world.table.tables, before);
}

#[test]
fn a_service_that_wins_an_address_and_does_not_fit_leaves_it_to_the_loser() {
    let mut world = World::with_sizes(Sizes { max_slots: 4, ..Sizes::default() });
    world.round(vec![service("young", [10, 96, 0, 1], 9), slice("young", &[1])]);
    let outcome = world.round(vec![service("old", [10, 96, 0, 1], 1), slice("old", &[2, 3, 4])]);
    assert_eq!(outcome.failed.len(), 1);
    let dialled = "Dialled { address: 10.96.0.1, port: 80, protocol: Tcp }";
    assert_eq!(world.seen()[dialled], ["10.0.0.1:8080"], "better than nobody");
    world.round(vec![slice("old", &[2])]);
    assert_eq!(world.seen()[dialled], ["10.0.0.2:8080"]);
}

#[test]
fn a_damaged_map_is_mended_and_never_panics() {
    let mut world = World::new();
    let changes = || vec![service("cart", [10, 96, 0, 1], 0), slice("cart", &[1, 2])];
    world.round(changes());
    let good = world.seen();
    let whole = world.table.tables.clone();
    let damages: [fn(&mut Tables); 5] = [
        |tables| tables.slots.clear(),
        |tables| tables.backends.clear(),
        |tables| tables.services.values_mut().for_each(|value| value.range_start = u32::MAX),
        |tables| tables.services.clear(),
        |tables| tables.services.values_mut().for_each(|value| value.family = 9),
    ];
    for (case, damage) in damages.into_iter().enumerate() {
        let mut damaged = whole.clone();
        damage(&mut damaged);
        let mut world = World::new();
        world.reconciler = Reconciler::new(damaged.clone(), Sizes::default());
        for change in changes() {
            world.store.apply(change);
        }
        let dirty = world.store.take_dirty();
        let compiled =
            dirty.into_iter().map(|name| (name.clone(), compile::service(&world.store, &name))).collect();
        let mut writer = Unchecked(damaged);
        let outcome = world.reconciler.reconcile(&mut writer, compiled, 0);
        assert!(outcome.failed.is_empty());
        world.reconciler.purge(&mut writer).unwrap();
        world.table.tables = writer.0;
        assert_eq!(world.seen(), good, "case {case}");
        assert_eq!(world.table.tables.services.len(), 1, "case {case}");
    }
}

/// Takes writes without looking: a damaged map breaks the promises that [`Table`] checks.
struct Unchecked(Tables);

impl Writer for Unchecked {
    fn write(&mut self, op: &Op) -> Result<(), WriteError> {
        self.0.apply(op);
        Ok(())
    }
}

#[test]
fn a_change_costs_as_many_writes_as_it_must() {
    let mut world = World::new();
    for index in 0..200 {
        world.round(vec![service(&format!("other-{index}"), [10, 97, 0, index], 0)]);
    }
    // node, backend, slot, service, frontend, cluster IP
    assert_eq!(world.round(vec![service("cart", [10, 96, 0, 1], 0), slice("cart", &[1])]).writes, 6, "new");
    assert_eq!(world.round(vec![slice("cart", &[1])]).writes, 0, "no change");
    assert_eq!(world.round(vec![slice("cart", &[1, 2])]).writes, 6, "one endpoint more");
    assert_eq!(world.round(vec![slice("cart", &[2])]).writes, 3, "one endpoint less");
    assert_eq!(world.round(gone("cart")).writes, 3, "gone");
    assert_eq!(world.round(vec![service("empty", [10, 96, 0, 9], 0)]).writes, 3, "without endpoints");
}

#[test]
fn a_full_map_names_its_flag_and_keeps_what_fits() {
    let mut world = World::with_sizes(Sizes { max_slots: 4, ..Sizes::default() });
    world.round(vec![service("cart", [10, 96, 0, 1], 0), slice("cart", &[1, 2])]);
    let outcome = world.round(vec![service("pay", [10, 96, 0, 2], 0), slice("pay", &[3, 4])]);
    let error = outcome.failed[&ObjectName::new("shop", "pay")].to_string();
    assert_eq!(error, "SLOTS is full (4 entries); raise --max-slots");
    assert_eq!(world.seen().len(), 1, "the first one serves");
    world.round(gone("cart"));
    world.settle();
    let address = Dialled { address: [10, 96, 0, 2].into(), port: 80, protocol: Protocol::Tcp };
    let value = world.table.tables.frontends[&frontend_key(&address)];
    assert!(choose::socket_slot(&value, 0).is_ok(), "room again: the second one serves");
}
