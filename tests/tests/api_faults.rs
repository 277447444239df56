//! API servers of every age and mood: streamed lists, throttling, silence.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use sluice_tests::{
    apiserver::ApiServer,
    cluster::Cluster,
    http::curl,
    manifest,
    peer::{Command, address},
    wait,
};

/// Dials all the while, and waits until what the other server says is in force; does `meanwhile` each time that it looks.
fn the_other_is_asked(cluster: &mut Cluster, meanwhile: impl Fn(&ApiServer)) {
    cluster.never_fails(|api, world| {
        wait::until_within(std::time::Duration::from_secs(60), "the other server is asked", || {
            meanwhile(api);
            let answer = world.json(&["explain", "10.96.0.1:80"]);
            if answer["endpoints"].as_array().map(Vec::len) == Some(2) { Ok(()) } else { Err(answer) }
        });
    });
    cluster.world.wait_healthy();
}

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
        // One more endpoint: were it one less, who is just being asked there would rightly be told.
        let more = cluster.slice("cart", 2, &[]);
        cluster.never_fails(|api, world| {
            api.compact();
            api.drop_watches();
            api.apply(&more);
            world.wait_verdict("10.96.0.1:80", "translate", 2);
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
    the_other_is_asked(&mut cluster, |_| {});
    cluster.api.freeze(false);
}

#[test]
fn without_an_api_server_for_long_the_node_serves_on_and_says_so() {
    let mut cluster = Cluster::new();
    cluster.cart(1);
    let agent = cluster.agent();
    let open = cluster.client.id();
    let to = address("10.96.0.1:80");
    let by = cluster.client.command(&Command::Tcp { id: open, to }).unwrap();
    cluster.api.down();
    let mut host = cluster.world.peer(cluster.world.node());
    let kubeconfig = cluster.api.kubeconfig();
    let mut next = Some(agent);
    cluster.never_fails(|_, world| {
        let said = |text: &str| {
            wait::until("status says what is missing", || {
                let status = world.json(&["status"]);
                let found = status["problems"].to_string().contains(text);
                if found { Ok(()) } else { Err(status) }
            });
        };
        let mut healthy_meanwhile = || {
            for round in 0..500 {
                assert!(host.tcp("10.96.0.1:80").is_ok(), "{round}");
            }
            let health = curl(world.node(), &["http://127.0.0.1:10256/healthz"]);
            assert_eq!(health.status, 200, "no load balancer should give this node up: {health:?}");
            assert!(!world.sluice(&["status"]).status.success(), "but something is wrong");
        };
        said("the API server does not give services");
        healthy_meanwhile();
        // The next agent has never seen the API server at all.
        drop(next.take());
        next = Some(world.spawn_agent(&["--kubeconfig", &kubeconfig]));
        said("not listed completely yet: ");
        said("the API server does not give services");
        healthy_meanwhile();
    });
    assert_eq!(cluster.client.command(&Command::AskAgain { id: open }), Ok(by), "an open connection goes on");
    cluster.cart(2);
    cluster.api.up();
    cluster.world.wait_verdict("10.96.0.1:80", "translate", 2);
    cluster.world.wait_healthy();
}

#[test]
fn a_server_whose_connections_are_cut_without_a_word_is_given_up() {
    let mut cluster = Cluster::new();
    let (_other, _agent) = cluster.agent_on_two(&["--api-silence", "1"]);
    cluster.world.wait_verdict("10.96.0.1:80", "translate", 1);
    cluster.api.cut(true);
    the_other_is_asked(&mut cluster, |_| {});
}

#[test]
fn a_server_that_fails_at_one_kind_is_given_up_though_it_gives_the_others() {
    let mut cluster = Cluster::new();
    let (_other, _agent) = cluster.agent_on_two(&[]);
    cluster.world.wait_verdict("10.96.0.1:80", "translate", 1);
    cluster.api.fail("EndpointSlice", true);
    // The listings of the others go well, again and again.
    the_other_is_asked(&mut cluster, ApiServer::drop_watches);
}

#[test]
fn a_server_that_is_not_available_for_a_day_is_given_up_for_the_next_one_and_told() {
    let mut cluster = Cluster::new();
    let (_other, _agent) = cluster.agent_on_two(&[]);
    cluster.world.wait_verdict("10.96.0.1:80", "translate", 1);
    cluster.api.unavailable(Some(86_400));
    the_other_is_asked(&mut cluster, ApiServer::drop_watches);
}

#[test]
fn a_server_that_throttles_on_is_told_of_and_asked_again() {
    let mut cluster = Cluster::new();
    cluster.cart(1);
    let _agent = cluster.agent();
    let less = cluster.slice("cart", 2, &[]);
    cluster.never_fails(|api, world| {
        api.throttle(u32::MAX);
        api.drop_watches();
        wait::until("status says what the server answers", || {
            let status = world.json(&["status"]);
            let told = status["problems"].to_string().contains("TooManyRequests");
            if told { Ok(()) } else { Err(status) }
        });
        api.apply(&less);
        api.throttle(0);
        world.wait_verdict("10.96.0.1:80", "translate", 2);
    });
    cluster.world.wait_healthy();
}

#[test]
fn servers_that_are_all_away_are_asked_in_turns_and_not_all_the_time() {
    const TURNS: usize = 6;
    let mut cluster = Cluster::new();
    let (mut other, _agent) = cluster.agent_on_two(&[]);
    let given_up = |cluster: &Cluster| cluster.world.log().matches("giving this API server up").count();
    let before = given_up(&cluster);
    let start = std::time::Instant::now();
    cluster.api.down();
    other.down();
    wait::until_within(std::time::Duration::from_secs(60), "both are asked in turns", || {
        match given_up(&cluster) - before {
            turns if turns >= TURNS => Ok(()),
            turns => Err(turns),
        }
    });
    // Two waits at least lie between six turns at two servers: of 0.2 and 0.4 s, or more.
    assert!(start.elapsed() >= std::time::Duration::from_millis(600), "{:?}", start.elapsed());
    assert!(cluster.client.tcp("10.96.0.1:80").is_ok());
    other.up();
    cluster.world.wait_verdict("10.96.0.1:80", "translate", 2);
    cluster.world.wait_healthy();
}

#[test]
fn a_list_that_expires_between_two_pages_is_begun_anew_and_nothing_is_wrong() {
    const SERVICES: usize = 12;
    let mut cluster = Cluster::new();
    cluster.cart(1);
    for index in 1..SERVICES {
        let ip = format!("10.97.0.{index}");
        cluster.api.apply(&manifest::service(&format!("more-{index}"), &[&ip], &["http:80:8080"]));
    }
    cluster.api.forget_between_pages(5);
    let _agent = cluster.agent();
    assert!(!cluster.api.is_to_forget(), "some list had several pages");
    assert_eq!(cluster.world.json(&["service"]).as_array().map(Vec::len), Some(SERVICES));
    assert_eq!(cluster.client.tcp("10.96.0.1:80").unwrap().by, "cart-1");
    assert!(!cluster.world.log().contains("the API server does not give"), "{}", cluster.world.log());
}
