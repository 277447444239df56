//! What is open to a destination, and which of its endpoints are left out, as metrics tell it: up and down again.

use std::{net::Ipv4Addr, sync::Arc, time::Duration};

use serde_json::{Value, json};
use sluice::metrics::DestinationCounts;
use tokio::{
    io::AsyncReadExt,
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};

use super::{
    gated::{gated, start},
    world::{Endpoint, Setup, World, request, rule, soon, whole},
};

const REVIEWS: &str = "reviews.shop.svc.cluster.local:80";

/// Waits until the gauges of reviews are these: requests, waiting, connections, idle, passed.
async fn until(world: &World, what: &str, want: [u64; 5]) {
    let open = || {
        let counts = world.redirector.destinations().get(REVIEWS).copied().unwrap_or_default();
        counts.open().map(|(_, count)| count)
    };
    soon(&format!("{what}: {want:?}, now {:?}", open()), || open() == want).await;
}

#[tokio::test]
async fn requests_wait_get_a_connection_and_leave_it_idle_until_it_is_closed() {
    let gate = Arc::new(Semaphore::new(0));
    let endpoint = gated(&gate).await;
    let pool = json!({"tcp": {"maxConnections": 1}, "http": {"idleTimeout": "200ms"}});
    let traffic = json!({ "connectionPool": pool });
    let world = Setup { traffic, ..Setup::http(&[&endpoint], json!([rule(json!({}))])) }.start();
    assert!(world.redirector.destinations().is_empty(), "nobody has asked");
    let first = start(&world);
    endpoint.hit(1).await;
    until(&world, "the first is at the endpoint", [1, 0, 1, 0, 0]).await;
    let second = start(&world);
    until(&world, "the second waits", [2, 1, 1, 0, 0]).await;
    gate.add_permits(1);
    assert_eq!(first.await.unwrap().0, 200);
    endpoint.hit(2).await;
    until(&world, "the second has the connection, and waits no more", [1, 0, 1, 0, 0]).await;
    gate.add_permits(1);
    assert_eq!(second.await.unwrap().0, 200);
    until(&world, "the connection is closed in the end", [0; 5]).await;
}

#[tokio::test]
async fn a_destination_that_is_gone_is_told_no_more_once_its_connections_are_closed() {
    let endpoint = Endpoint::named("a").await;
    let mut setup = Setup::http(&[&endpoint], json!([rule(json!({}))]));
    setup.options.upstream_idle_timeout = Duration::from_secs(2);
    let empty: sluice::redirector::Snapshot = serde_json::from_value(json!({"version": 2})).unwrap();
    let world = setup.start();
    assert_eq!(world.ask("GET /").await.status, 200);
    until(&world, "one lies idle", [0, 0, 1, 1, 0]).await;
    world.redirector.apply(empty);
    soon("the row goes", || world.redirector.destinations().is_empty()).await;
    assert_eq!(world.redirector.open()["upstreamConnections"], 0, "and not before its connection");
}

#[tokio::test]
async fn streams_of_one_connection_are_requests() {
    let gate = Arc::new(Semaphore::new(0));
    let own = gate.clone();
    let endpoint = Endpoint::speaking(true, move |_| {
        let gate = own.clone();
        async move {
            gate.acquire().await.unwrap().forget();
            http::Response::new(whole("late"))
        }
    })
    .await;
    let port = json!({"name": "http2"});
    let world = Setup { port, ..Setup::http(&[&endpoint], json!([rule(json!({}))])) }.start();
    let client = world.http2().await;
    let ask = || {
        let mut sender = client.clone();
        let request = request("GET http://reviews/").body(whole("")).unwrap();
        tokio::spawn(
            async move { super::world::read(sender.send_request(request).await.unwrap()).await.status },
        )
    };
    let asked = [ask(), ask(), ask()];
    endpoint.hit(3).await;
    until(&world, "three at once", [3, 0, 1, 0, 0]).await;
    gate.add_permits(3);
    for one in asked {
        assert_eq!(one.await.unwrap(), 200);
    }
    until(&world, "answered", [0, 0, 1, 0, 0]).await;
}

#[tokio::test]
async fn connections_that_are_passed_through_are_counted_while_they_are_open() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let endpoint = Endpoint::at(listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            tokio::spawn(async move { socket.read_to_end(&mut Vec::new()).await });
        }
    });
    let rules = json!({"tcp": [{"route": [{"destination": {"host": "reviews"}}]}]});
    let port = json!({"name": "tcp"});
    let world = Setup { endpoints: vec![(&endpoint, json!({}))], rules, port, ..Setup::default() }.start();
    let clients =
        [TcpStream::connect(world.front).await.unwrap(), TcpStream::connect(world.front).await.unwrap()];
    until(&world, "both are open", [0, 0, 0, 0, 2]).await;
    drop(clients);
    until(&world, "both are closed", [0; 5]).await;
}

fn endpoints(world: &World) -> Option<(u64, u64)> {
    let counts = world.redirector.destinations().get(REVIEWS).copied().unwrap_or_default();
    let DestinationCounts { kept, ejected, .. } = counts;
    (kept + ejected > 0).then_some((kept, ejected))
}

fn failing<'a>(bad: &'a Endpoint, good: &'a Endpoint, traffic: Value) -> Setup<'a> {
    Setup { traffic, ..Setup::http(&[bad, good], json!([rule(json!({"retries": {"attempts": 0}}))])) }
}

#[tokio::test]
async fn an_ejected_endpoint_is_told_of_until_it_is_back() {
    let (bad, good) = (Endpoint::status(500).await, Endpoint::named("good").await);
    let detection = json!({"consecutive5xxErrors": 2, "maxEjectionPercent": 50, "interval": "50ms",
        "baseEjectionTime": "1500ms"});
    let traffic = json!({"outlierDetection": detection, "loadBalancer": {"simple": "ROUND_ROBIN"}});
    let world = failing(&bad, &good, traffic).start();
    let mut client = world.http1().await;
    assert_eq!(endpoints(&world), None);
    client.ask("GET /").await;
    assert_eq!(endpoints(&world), Some((2, 0)));
    while world.count("ejections") == 0 {
        client.ask("GET /").await;
    }
    assert_eq!(endpoints(&world), Some((1, 1)));
    // Nobody asks meanwhile.
    soon("back after its time", || endpoints(&world) == Some((2, 0))).await;
}

#[tokio::test]
async fn ejections_go_with_the_endpoint_the_rule_and_the_destination() {
    let (bad, good) = (Endpoint::status(500).await, Endpoint::named("good").await);
    let detection = json!({"consecutive5xxErrors": 1, "maxEjectionPercent": 100, "baseEjectionTime": "300s"});
    let traffic = json!({"outlierDetection": detection, "loadBalancer": {"simple": "ROUND_ROBIN"}});
    let world = failing(&bad, &good, traffic.clone()).start();
    while world.count("ejections") == 0 {
        world.ask("GET /").await;
    }
    assert_eq!(endpoints(&world), Some((1, 1)));
    let apply = |setup: Setup<'_>| drop(world.redirector.apply(setup.snapshot(world.front)));
    apply(Setup::http(&[], json!([rule(json!({}))])));
    assert_eq!(endpoints(&world), None, "there are no endpoints");
    apply(failing(&bad, &good, traffic));
    assert_eq!(endpoints(&world), Some((1, 1)), "what is known of them lasts");
    apply(failing(&bad, &good, Value::Null));
    while world.ask("GET /").await.status != 500 {}
    assert_eq!(endpoints(&world), None, "the rule asks for it no more");
    world.redirector.apply(serde_json::from_value(json!({"version": 2})).unwrap());
    soon("the destination goes", || world.redirector.destinations().is_empty()).await;
}

#[tokio::test]
async fn of_more_destinations_than_metrics_have_room_for_some_are_told_together() {
    let endpoint = Endpoint::named("a").await;
    let names: Vec<_> = (0..DestinationCounts::MOST + 20).map(|number| format!("s{number}")).collect();
    let port = json!({"name": "http", "port": 80, "endpoints": [{"address": endpoint.address}]});
    let services = names.iter().map(|name| json!({"namespace": "shop", "name": name, "ports": [port]}));
    let rules = names.iter().map(|name| {
        json!({"match": [{"uri": {"exact": format!("/{name}")}}], "route": [{"destination": {"host": name}}]})
    });
    let rules = json!(rules.collect::<Vec<_>>());
    let world = Setup { others: json!(services.collect::<Vec<_>>()), ..Setup::http(&[], rules) }.start();
    let mut client = world.http1().await;
    for name in &names {
        assert_eq!(client.ask(&format!("GET /{name}")).await.status, 200);
    }
    let told = world.redirector.destinations();
    assert_eq!(told.len(), DestinationCounts::MOST + usize::from(told.contains_key("other")));
    let connections: u64 = told.values().map(|counts| counts.connections).sum();
    assert_eq!(connections, world.redirector.open()["upstreamConnections"], "nothing is left out");
}
