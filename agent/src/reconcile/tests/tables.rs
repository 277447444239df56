//! Ranges that are Maglev tables: what stands in them, what a change costs, and what happens without room.

use sluice_common::layout::FLAG_MAGLEV;

use super::*;
use crate::model::Algorithm;

/// `shop/NAME`, which wants a table.
fn maglev(name: &str, address: [u8; 4]) -> Change {
    let Change::Service(name, Some(mut service)) = service(name, address, 0) else { unreachable!() };
    service.algorithm = Algorithm::Maglev;
    Change::Service(name, Some(service))
}

/// The frontend at that address.
fn frontend(world: &World, address: [u8; 4]) -> FrontendValue {
    let dialled = Dialled { address: address.into(), port: 80, protocol: Protocol::Tcp };
    world.table.tables.frontends[&frontend_key(&dialled)]
}

const CART: [u8; 4] = [10, 96, 0, 1];

#[test]
fn a_table_is_written_anew_and_switched_to_as_a_whole() {
    let mut world = World::new();
    let own = 4; // two backends, their service and frontend; both nodes are new, too, and the cluster IP
    let first = world.round(vec![maglev("cart", CART), slice("cart", &[1, 2])]);
    assert_eq!(first.writes, 1_021 + own + 3);
    let value = frontend(&world, CART);
    assert_eq!((value.flags & FLAG_MAGLEV, value.cluster_count), (FLAG_MAGLEV, 1_021));
    assert_eq!(world.round(vec![slice("cart", &[2, 1])]).writes, 0, "the order says nothing");
    // node, backend, table, service, frontend
    assert_eq!(world.round(vec![slice("cart", &[1, 2, 3])]).writes, 1_021 + 4, "one endpoint more");
    assert_eq!(world.round(vec![slice("cart", &[1, 2])]).writes, 1_021 + 2, "one endpoint less");
    assert_eq!(world.round(vec![slice("cart", &[1])]).writes, 1 + 2, "nobody to choose from");
    assert_eq!(world.round(vec![service("cart", CART, 0)]).writes, 1, "the flag goes");
    world.round(gone("cart"));
    world.settle();
    assert_eq!(world.reconciler.slots.free(), 262_143, "no slot leaks");
    assert!(world.table.tables.backends.is_empty(), "no backend leaks");
}

#[test]
fn a_table_outlives_its_agent() {
    let mut world = World::new();
    let changes = || vec![maglev("cart", CART), slice("cart", &[3, 1, 2])];
    world.round(changes());
    let before = world.table.tables.clone();
    world.reconciler = Reconciler::new(before.clone(), Sizes::default());
    world.store = Store::new(Node { name: "here".into(), ..Node::default() });
    assert_eq!(world.round(changes()).writes, 0);
    assert_eq!(world.table.tables, before);
}

#[test]
fn without_room_for_a_table_chance_chooses_until_there_is() {
    let mut world = World::with_sizes(Sizes { max_slots: 2_100, ..Sizes::default() });
    world.round(vec![maglev("cart", CART), slice("cart", &[1, 2])]);
    // 1,078 are free, and a quarter must be left.
    let pay = [10, 96, 0, 2];
    let outcome = world.round(vec![maglev("pay", pay), slice("pay", &[3, 4])]);
    assert!(outcome.failed.is_empty());
    let why = &outcome.without_table[&ObjectName::new("shop", "pay")];
    assert!(
        why.contains("needs 1021 slots, and 1078 of 2100 are free") && why.contains("--max-slots"),
        "{why}"
    );
    let value = frontend(&world, pay);
    assert_eq!((value.flags & FLAG_MAGLEV, value.cluster_count), (0, 2), "it serves");
    assert!(
        world.round(vec![slice("cart", &[2, 3])]).without_table.is_empty(),
        "who has one keeps having one"
    );
    assert_eq!(frontend(&world, CART).flags & FLAG_MAGLEV, FLAG_MAGLEV);
    world.round(gone("cart"));
    world.settle();
    world.store.mark(ObjectName::new("shop", "pay"));
    assert!(world.round(Vec::new()).without_table.is_empty(), "room again");
    assert_eq!(frontend(&world, pay).cluster_count, 1_021);
}

#[test]
fn too_many_endpoints_for_a_table_are_chosen_by_chance() {
    let mut world = World::new();
    world.store.apply(maglev("cart", CART));
    let mut endpoints = Vec::new();
    for index in 0..=compile::maglev::MOST_ENDPOINTS {
        let Change::Slice(_, Some(slice)) = slice("cart", &[(index % 250) as u8]) else { unreachable!() };
        let address = [10, 1, (index / 250) as u8, (index % 250) as u8].into();
        endpoints.push(Endpoint { addresses: vec![address], ..slice.endpoints[0].clone() });
    }
    let Change::Slice(name, Some(mut slice)) = slice("cart", &[]) else { unreachable!() };
    slice.endpoints = endpoints;
    let outcome = world.round(vec![Change::Slice(name, Some(slice))]);
    assert!(outcome.without_table[&ObjectName::new("shop", "cart")].contains("room for 2000 endpoints"));
    assert_eq!(frontend(&world, CART).cluster_count, 2_001);
}
