//! Maps without room: what fits in the end is in, whatever came before, and what does not fit takes nothing from others.

use super::*;

fn named(name: &str, address: [u8; 4], port_name: &str) -> Change {
    let Change::Service(object, Some(mut service)) = service(name, address, 0) else { unreachable!() };
    service.ports[0].name = port_name.into();
    Change::Service(object, Some(service))
}

#[test]
fn a_service_that_changes_in_a_full_map_makes_room_for_itself() {
    let full = |sizes| {
        let mut world = World::with_sizes(sizes);
        world.round(vec![service("cart", [10, 96, 0, 1], 0), slice("cart", &[1])]);
        assert!(world.round(vec![service("pay", [10, 96, 0, 2], 0)]).failed.is_empty());
        world
    };
    let frontends = Sizes { max_frontends: 2, ..Sizes::default() };
    let services = Sizes { max_services: 2, ..Sizes::default() };
    for (case, sizes, change) in [
        ("another address", frontends, service("cart", [10, 96, 0, 3], 0)),
        ("another name of its port", services, named("cart", [10, 96, 0, 3], "http")),
    ] {
        let mut world = full(sizes);
        let mut outcome = world.round(vec![change]);
        for _ in 0..3 {
            // The id of a port that went rests before another one gets it.
            world.now_ns += 2 * SECOND;
            world.reconciler.collect(&mut world.table, world.now_ns).unwrap();
            outcome = world.round(Vec::new());
        }
        assert!(outcome.failed.is_empty(), "{case}: {:?}", outcome.failed);
        let dialled: Vec<String> = world.seen().into_keys().collect();
        assert_eq!(dialled.len(), 2, "{case}: {dialled:?}");
        assert!(dialled.iter().any(|dialled| dialled.contains("10.96.0.3")), "{case}: {dialled:?}");
    }
}

#[test]
fn a_service_that_does_not_fit_takes_no_more_room_with_each_try() {
    let mut world = World::with_sizes(Sizes { max_frontends: 1, ..Sizes::default() });
    world.round(vec![service("cart", [10, 96, 0, 1], 0), slice("cart", &[1])]);
    world.round(vec![service("pay", [10, 96, 0, 2], 0)]);
    let mut free = Vec::new();
    for round in 0..40_u8 {
        let outcome = world.round(vec![slice("pay", &[10 + round, 60 + round])]);
        assert_eq!(outcome.failed.len(), 1);
        world.now_ns += 2 * SECOND;
        world.reconciler.collect(&mut world.table, world.now_ns).unwrap();
        free.push((world.reconciler.slots.free(), world.table.tables.backends.len()));
    }
    assert_eq!(free[5], free[39], "{free:?}");
    world.round(gone("cart"));
    world.settle();
    assert!(world.seen().into_keys().any(|dialled| dialled.contains("10.96.0.2")));
}
