//! How endpoints are reached and chosen: what they are told first, how many streams a connection has, and how those that are
//! new or of another zone are treated.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};

use super::world::{Endpoint, Setup, World, read, request, rule, whole};

/// The first bytes of each connection, as far as an empty line.
type Heads = Arc<Mutex<Vec<Vec<u8>>>>;

/// An endpoint of HTTP/1 that does not mind what comes before a request.
async fn raw() -> (Endpoint, Heads) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let (address, heads) = (listener.local_addr().unwrap(), Heads::default());
    let all = heads.clone();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let number = all.lock().unwrap().len();
            all.lock().unwrap().push(Vec::new());
            let all = all.clone();
            tokio::spawn(async move {
                let mut buffer = [0; 4096];
                while let Ok(read @ 1..) = socket.read(&mut buffer).await {
                    let asked = {
                        let mut all = all.lock().unwrap();
                        all[number].extend(&buffer[..read]);
                        all[number].ends_with(b"host: reviews\r\n\r\n")
                    };
                    if asked {
                        socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
                    }
                }
            });
        }
    });
    (Endpoint::at(address), heads)
}

/// Asks on a connection that stays.
async fn ask(socket: &mut TcpStream) {
    socket.write_all(b"GET / HTTP/1.1\r\nhost: reviews\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"ok") {
        assert_ne!(socket.read_buf(&mut answer).await.unwrap(), 0, "{}", String::from_utf8_lossy(&answer));
    }
}

fn header(version: &str, client: SocketAddr, front: SocketAddr) -> Vec<u8> {
    if version == "V1" {
        let (from, to) = (client.port(), front.port());
        return format!("PROXY TCP4 127.0.0.1 127.0.0.1 {from} {to}\r\n").into_bytes();
    }
    let ports = [client.port().to_be_bytes(), front.port().to_be_bytes()].concat();
    [&b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\x7f\0\0\x01\x7f\0\0\x01"[..], &ports].concat()
}

#[tokio::test]
async fn proxy_protocol_tells_the_endpoint_who_asks_and_no_connection_is_shared() {
    for version in ["V1", "V2"] {
        let (endpoint, heads) = raw().await;
        let traffic = json!({"proxyProtocol": {"version": version}});
        let world = Setup { traffic, ..Setup::http(&[&endpoint], json!([rule(json!({}))])) }.start();
        let mut clients = Vec::new();
        for _ in 0..2 {
            let mut socket = TcpStream::connect(world.front).await.unwrap();
            ask(&mut socket).await;
            ask(&mut socket).await;
            clients.push(socket);
        }
        let heads = heads.lock().unwrap();
        assert_eq!((heads.len(), world.count("upstreamConnections")), (2, 2), "{version}");
        for (head, client) in heads.iter().zip(&clients) {
            let want = header(version, client.local_addr().unwrap(), world.front);
            assert!(head.starts_with(&[&want, &b"GET / HTTP/1.1\r\n"[..]].concat()), "{version}: {head:?}");
            assert_eq!(head.windows(want.len()).filter(|part| *part == want).count(), 1, "{version}: once");
        }
    }
}

#[tokio::test]
async fn proxy_protocol_comes_first_on_connections_that_are_passed_through() {
    let (endpoint, heads) = raw().await;
    let route = json!({"tcp": [{"route": [{"destination": {"host": "reviews"}}]}]});
    let world = Setup {
        endpoints: vec![(&endpoint, json!({}))],
        port: json!({"name": "tcp"}),
        rules: route,
        traffic: json!({"proxyProtocol": {}}),
        ..Setup::default()
    }
    .start();
    let mut socket = TcpStream::connect(world.front).await.unwrap();
    ask(&mut socket).await;
    let want = header("V1", socket.local_addr().unwrap(), world.front);
    assert!(heads.lock().unwrap()[0].starts_with(&[&want, &b"GET /"[..]].concat()));
}

#[tokio::test]
async fn max_concurrent_streams_opens_another_connection() {
    for (limit, connections) in [(0, 1), (1, 5), (2, 3)] {
        let gate = Arc::new(Semaphore::new(0));
        let waits = gate.clone();
        let endpoint = Endpoint::serve(move |request| {
            let waits = waits.clone();
            async move {
                let _all = request.into_body().collect().await;
                waits.acquire().await.unwrap().forget();
                http::Response::new(whole("late"))
            }
        })
        .await;
        let traffic =
            json!({"connectionPool": {"http": {"maxConcurrentStreams": limit, "idleTimeout": "60s"}}});
        let world = Setup { traffic, ..Setup::http(&[&endpoint], json!([rule(json!({}))])) }.start();
        let client = world.http2().await;
        let start = || {
            let mut client = client.clone();
            let request = request("GET http://reviews/").body(whole("")).unwrap();
            tokio::spawn(async move { read(client.send_request(request).await.unwrap()).await.status })
        };
        let waiting: Vec<_> = (0..5).map(|_| start()).collect();
        endpoint.hit(5).await;
        assert_eq!(world.count("upstreamConnections"), connections, "limit {limit}");
        gate.add_permits(10);
        for one in waiting {
            assert_eq!(one.await.unwrap(), 200);
        }
        // Those that were answered have left their places.
        for _ in 0..5 {
            assert_eq!(start().await.unwrap(), 200);
        }
        assert_eq!(world.count("upstreamConnections"), connections, "limit {limit}: none more is needed");
    }
}

/// How many of so many requests each endpoint gets.
async fn hits(world: &World, times: u32, endpoints: &[&Endpoint]) -> Vec<u32> {
    let before: Vec<u32> = endpoints.iter().map(|endpoint| endpoint.hits()).collect();
    let mut client = world.http1().await;
    for _ in 0..times {
        assert_eq!(client.ask("GET /").await.status, 200);
    }
    endpoints.iter().zip(before).map(|(endpoint, before)| endpoint.hits() - before).collect()
}

fn balanced<'a>(endpoints: &[&'a Endpoint], balancer: &Value) -> Setup<'a> {
    let traffic = json!({ "loadBalancer": balancer });
    Setup { traffic, ..Setup::http(endpoints, json!([rule(json!({}))])) }
}

#[tokio::test]
async fn a_new_endpoint_gets_less_until_it_is_warm() {
    let (old, new) = (Endpoint::named("old").await, Endpoint::named("new").await);
    for simple in ["LEAST_REQUEST", "ROUND_ROBIN"] {
        let balancer = json!({"simple": simple, "warmup": {"duration": "3s", "minimumPercent": 5}});
        let world = balanced(&[&old], &balancer).start();
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(3) {
            hits(&world, 10, &[&old]).await;
        }
        let both = balanced(&[&old, &new], &balancer);
        assert_eq!(world.redirector.apply(both.snapshot(world.front)), Vec::<String>::new());
        let first = hits(&world, 100, &[&old, &new]).await;
        assert!(first[1] < 30, "{simple}: {first:?} of 100 while it is cold");
        let began = Instant::now();
        loop {
            let now = hits(&world, 100, &[&old, &new]).await;
            if now[1] >= 35 {
                break;
            }
            assert!(began.elapsed() < sluice_tests::wait::DEADLINE, "{simple}: {now:?} of 100 at last");
        }
    }
}

/// A world where this node is in the zone `a`, and each endpoint in its own.
fn zoned(setup: Setup<'_>, zones: &[&str]) -> World {
    let mut snapshot = setup.snapshot("127.0.0.1:1".parse().unwrap());
    let world = setup.start();
    snapshot.zone = Some("a".to_owned());
    let port = &mut snapshot.services[0].ports[0];
    port.frontends = vec![world.front];
    for (endpoint, zone) in port.endpoints.iter_mut().zip(zones) {
        endpoint.zone = Some((*zone).to_owned());
    }
    assert_eq!(world.redirector.apply(snapshot), Vec::<String>::new());
    world
}

#[tokio::test]
async fn zones_get_the_shares_that_a_rule_gives_them() {
    let (a, b, c) = (Endpoint::named("a").await, Endpoint::named("b").await, Endpoint::named("c").await);
    let from = |from: &str| {
        json!({"localityLbSetting": {"distribute": [
            {"from": "r/other/*", "to": {"r/c/*": 100}},
            {"from": from, "to": {"r/a/*": 80, "r/b/*": 20}},
        ]}})
    };
    for own in ["r/a/*", "*"] {
        let world = zoned(balanced(&[&a, &b, &c], &from(own)), &["a", "b", "c"]);
        let hits = hits(&world, 300, &[&a, &b, &c]).await;
        assert!((30..95).contains(&hits[1]) && hits[2] == 0, "{own}: {hits:?} of 300");
    }
    // Of no entry, and turned off: all alike.
    for balancer in [
        from("r/b"),
        json!({"localityLbSetting": {"enabled": false, "distribute": [
        {"from": "*", "to": {"r/a": 100}}]}}),
    ] {
        let world = zoned(balanced(&[&a, &b, &c], &balancer), &["a", "b", "c"]);
        assert!(hits(&world, 60, &[&a, &b, &c]).await.iter().all(|hits| *hits > 5), "{balancer}");
    }
}

fn failing_over<'a>(endpoints: &[&'a Endpoint], rule_fields: Value, errors: u32) -> Setup<'a> {
    let traffic = json!({
        "loadBalancer": {"localityLbSetting": {}},
        "outlierDetection": {"consecutive5xxErrors": errors, "maxEjectionPercent": 100, "baseEjectionTime": "600s"},
    });
    Setup { traffic, ..Setup::http(endpoints, json!([rule(rule_fields)])) }
}

#[tokio::test]
async fn other_zones_stand_in_for_the_own_one_and_only_then() {
    let (a, b) = (Endpoint::named("a").await, Endpoint::named("b").await);
    let world = zoned(failing_over(&[&a, &b], json!({}), 5), &["a", "b"]);
    assert_eq!(hits(&world, 50, &[&a, &b]).await, [50, 0]);
    let (sick, b) = (Endpoint::status(500).await, Endpoint::named("b").await);
    let world = zoned(failing_over(&[&sick, &b], json!({"retries": {"attempts": 0}}), 1), &["a", "b"]);
    assert_eq!(world.ask("GET /").await.status, 500);
    world.until("ejections", 1).await;
    assert_eq!(hits(&world, 20, &[&sick, &b]).await, [0, 20]);
}

#[tokio::test]
async fn retry_remote_localities_tries_another_zone() {
    for (remote, status) in [(true, 200), (false, 503)] {
        let (first, second) = (Endpoint::status(503).await, Endpoint::status(503).await);
        let far = Endpoint::named("far").await;
        let retries = json!({"retries": {"attempts": 1, "retryOn": "503", "retryRemoteLocalities": remote}});
        let setup = failing_over(&[&first, &second, &far], retries, 0);
        let world = zoned(setup, &["a", "a", "b"]);
        assert_eq!(world.ask("GET /").await.status, status, "remote: {remote}");
        assert_eq!(far.hits(), u32::from(remote));
    }
}
