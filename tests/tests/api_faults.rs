//! API servers of every age and mood: streamed lists, throttling, silence.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use sluice_tests::{cluster::Cluster, wait};

#[test]
fn lists_are_streamed_where_the_server_does_and_read_in_pages_where_not() {
    for (case, minor, refuses, streamed) in [
        ("streams", 34, false, true),
        ("told not to", 34, true, false),
        ("knows nothing of it", 26, false, false),
    ] {
        let mut cluster = Cluster::new();
        cluster.api.version(minor, refuses);
        cluster.cart(1);
        let _agent = cluster.agent();
        assert_eq!(cluster.client.tcp("10.96.0.1:80").unwrap().by, "cart-1", "{case}");
        assert_eq!(cluster.api.streams() >= 4, streamed, "{case}");
        assert_eq!(cluster.api.lists("Service") == 0, streamed, "{case}");
        cluster.cart(2);
        cluster.world.wait_verdict("10.96.0.1:80", "translate", 2);
        let less = cluster.slice("cart", 1, &[]);
        cluster.never_fails(|api, world| {
            api.compact();
            api.drop_watches();
            api.apply(&less);
            world.wait_verdict("10.96.0.1:80", "translate", 1);
        });
        let problems = cluster.world.json(&["status"])["problems"].clone();
        assert_eq!(problems.as_array().map(Vec::len), Some(0), "{case}: {problems}");
    }
}

#[test]
fn a_throttling_server_is_asked_again_and_nothing_is_lost() {
    let mut cluster = Cluster::new();
    cluster.cart(1);
    cluster.api.throttle(8);
    let _agent = cluster.agent();
    assert_eq!(cluster.api.throttled(), 0);
    let less = cluster.slice("cart", 2, &[]);
    cluster.never_fails(|api, world| {
        api.throttle(8);
        api.drop_watches();
        api.apply(&less);
        world.wait_verdict("10.96.0.1:80", "translate", 2);
    });
    cluster.world.wait_healthy();
}

#[test]
fn a_server_that_says_nothing_any_more_is_given_up() {
    let mut cluster = Cluster::new();
    let (_other, _agent) = cluster.agent_on_two(&["--api-silence", "1"]);
    cluster.world.wait_verdict("10.96.0.1:80", "translate", 1);
    cluster.api.freeze(true);
    cluster.never_fails(|_, world| {
        wait::until_within(std::time::Duration::from_secs(60), "the other server is asked", || {
            let answer = world.json(&["explain", "10.96.0.1:80"]);
            if answer["endpoints"].as_array().map(Vec::len) == Some(2) { Ok(()) } else { Err(answer) }
        });
    });
    cluster.world.wait_healthy();
    cluster.api.freeze(false);
}
