//! Agents that die in the middle, and those that follow them.

use super::*;

#[test]
fn sockets_of_a_backend_that_goes_are_told_of_whenever_the_agent_dies() {
    for writes in 0..8 {
        let mut world = World::new();
        world.round(vec![service("cart", [10, 96, 0, 1], 0), slice("cart", &[1, 2])]);
        // What this round told is lost, with whatever it did not write.
        world.table.writes_left = Some(writes);
        world.round(vec![slice("cart", &[2])]);
        world.table.writes_left = None;
        world.reconciler = Reconciler::new(world.table.tables.clone(), Sizes::default());
        world.store.mark(ObjectName::new("shop", "cart"));
        let told: Vec<_> = world.round(Vec::new()).gone;
        let address = Addr::from(IpAddr::from([10, 0, 0, 1]));
        let told: Vec<_> = told.iter().map(|(backend, stays)| (backend.addr, *stays)).collect();
        assert_eq!(told, [(address, true)], "after {writes} writes");
        assert!(world.round(vec![slice("cart", &[2, 3])]).gone.is_empty(), "once");
    }
}

#[test]
fn an_agent_that_died_after_any_write_is_followed_by_one_that_finishes() {
    let rounds = || {
        let service_of = service;
        let service = || service_of("cart", [10, 96, 0, 1], 0);
        let other = || vec![service_of("pay", [10, 96, 0, 2], 0), slice("pay", &[7, 8])];
        vec![
            [vec![service(), slice("cart", &[1, 2])], other()].concat(),
            vec![slice("cart", &[2, 3, 4])],
            vec![slice("cart", &[5])],
        ]
    };
    let mut whole = World::new();
    for round in rounds() {
        whole.round(round);
    }
    let log = std::mem::take(&mut whole.table.log);
    let (first, last) = (rounds().remove(1), rounds().remove(2));
    for written in 0..=log.len() {
        let mut tables = Tables::default();
        log[..written].iter().for_each(|op| tables.apply(op));
        let mut world = World::new();
        world.table.tables = tables.clone();
        world.reconciler = Reconciler::new(tables, Sizes::default());
        // What the dead agent was about to write, and something else: neither may touch what is live.
        let mut changes = rounds().remove(0);
        changes.extend(if written % 2 == 0 { first.clone() } else { last.clone() });
        world.round(changes);
        world.reconciler.purge(&mut world.table).unwrap();
        world.round(last.clone());
        world.settle();
        assert_eq!(world.seen(), whole.seen(), "after {written} writes");
        assert_eq!(world.table.tables.services.len(), 2);
        assert_eq!(world.table.tables.backends.len(), 3, "no backend leaks");
        assert_eq!(world.reconciler.slots.free(), 262_143 - 3, "no slot leaks after {written} writes");
    }
}
