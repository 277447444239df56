//! `connectionPool` and `outlierDetection` over real sockets. The arithmetic is in tables beside the code.

use std::{net::Ipv4Addr, sync::Arc};

use serde_json::{Value, json};
use sluice_tests::wait::DEADLINE;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};

use super::{
    gated::{gated, start},
    world::{Endpoint, Setup, World, read, request, rule, whole},
};

fn limited(endpoints: &[&Endpoint], traffic: Value, fields: Value) -> World {
    Setup { traffic, ..Setup::http(endpoints, json!([rule(fields)])) }.start()
}

#[tokio::test]
async fn requests_beyond_http2_max_requests_are_answered_503() {
    let gate = Arc::new(Semaphore::new(0));
    let endpoint = gated(&gate).await;
    let traffic = json!({"connectionPool": {"http": {"http2MaxRequests": 2}}});
    let world = limited(&[&endpoint], traffic, json!({}));
    let waiting = [start(&world), start(&world)];
    endpoint.hit(2).await;
    let got = world.ask("GET /").await;
    assert_eq!((got.status, &*got.body), (503, "too many requests are under way\n"));
    assert_eq!(world.count("overflowRequests"), 1);
    gate.add_permits(3);
    for one in waiting {
        assert_eq!(one.await.unwrap().0, 200);
    }
    // Their places are free once their answers were read.
    assert_eq!(world.ask("GET /").await.status, 200);
    assert_eq!(endpoint.hits(), 3);
}

#[tokio::test]
async fn the_limit_is_of_one_client() {
    let gate = Arc::new(Semaphore::new(0));
    let endpoint = gated(&gate).await;
    let traffic = json!({"connectionPool": {"http": {"http2MaxRequests": 1}}});
    let world = limited(&[&endpoint], traffic, json!({}));
    let waiting = start(&world);
    endpoint.hit(1).await;
    assert_eq!(world.ask("GET /").await.status, 503);
    // A client of another address has limits of its own.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind((Ipv4Addr::new(127, 0, 0, 9), 0).into()).unwrap();
    let mut other = socket.connect(world.front).await.unwrap();
    other.write_all(b"GET / HTTP/1.1\r\nhost: reviews\r\nconnection: close\r\n\r\n").await.unwrap();
    endpoint.hit(2).await;
    gate.add_permits(2);
    let mut answer = String::new();
    other.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert_eq!(waiting.await.unwrap().0, 200);
}

#[tokio::test]
async fn requests_wait_for_one_of_max_connections_but_not_too_many_do() {
    let gate = Arc::new(Semaphore::new(0));
    let endpoint = gated(&gate).await;
    let pool = json!({"tcp": {"maxConnections": 1}, "http": {"http1MaxPendingRequests": 1}});
    let world = limited(&[&endpoint], json!({ "connectionPool": pool }), json!({}));
    let first = start(&world);
    endpoint.hit(1).await;
    let second = start(&world);
    world.until("overflowConnections", 1).await;
    let got = world.ask("GET /").await;
    assert_eq!((got.status, &*got.body), (503, "too many requests wait for the endpoints\n"));
    assert_eq!(world.count("overflowPending"), 1);
    assert_eq!((endpoint.hits(), world.count("upstreamConnections")), (1, 1));
    gate.add_permits(2);
    for one in [first, second] {
        assert_eq!(one.await.unwrap(), (200, "late".to_owned()));
    }
    // The one that waited used the same connection.
    assert_eq!((endpoint.hits(), world.count("upstreamConnections")), (2, 1));
}

#[tokio::test]
async fn a_subset_has_limits_of_its_own() {
    let gate = Arc::new(Semaphore::new(0));
    let (v1, v2) = (gated(&gate).await, Endpoint::named("v2").await);
    let none = json!({"connectionPool": {"http": {"http2MaxRequests": 1}}});
    let many = json!({"connectionPool": {"http": {"http2MaxRequests": 2}}});
    let to = |subset: &str| json!([{"destination": {"host": "reviews", "subset": subset}}]);
    let world = Setup {
        endpoints: vec![(&v1, json!({"version": "1"})), (&v2, json!({"version": "2"}))],
        subsets: json!([
            {"name": "v1", "labels": {"version": "1"}, "trafficPolicy": many},
            {"name": "v2", "labels": {"version": "2"}},
        ]),
        traffic: none,
        rules: json!({"http": [
            {"match": [{"uri": {"prefix": "/v2"}}], "route": to("v2")},
            {"route": to("v1")},
        ]}),
        ..Setup::default()
    }
    .start();
    let waiting = [start(&world), start(&world)];
    v1.hit(2).await;
    assert_eq!(world.ask("GET /").await.status, 503, "the subset's own limit");
    assert_eq!(world.ask("GET /v2").await.status, 200, "another subset");
    gate.add_permits(2);
    for one in waiting {
        assert_eq!(one.await.unwrap().0, 200);
    }
}

#[tokio::test]
async fn a_port_has_limits_of_its_own() {
    let gate = Arc::new(Semaphore::new(0));
    let endpoint = gated(&gate).await;
    let limit = |number: u32| json!({"http": {"http2MaxRequests": number}});
    let world = limited(
        &[&endpoint],
        json!({"connectionPool": limit(9), "portLevelSettings": [
            {"port": {"number": 81}, "connectionPool": limit(2)},
            {"port": {"number": 80}, "connectionPool": limit(1)},
        ]}),
        json!({}),
    );
    let waiting = start(&world);
    endpoint.hit(1).await;
    assert_eq!(world.ask("GET /").await.status, 503);
    gate.add_permits(1);
    assert_eq!(waiting.await.unwrap().0, 200);
}

#[tokio::test]
async fn retries_at_once_are_limited() {
    let gate = Arc::new(Semaphore::new(0));
    let (own, order) = (gate.clone(), Arc::new(std::sync::atomic::AtomicU32::new(0)));
    // The first two answers are failures; then come the retries, which wait.
    let endpoint = Endpoint::serve(move |_| {
        let (gate, number) = (own.clone(), order.fetch_add(1, std::sync::atomic::Ordering::SeqCst));
        async move {
            let mut response = http::Response::new(whole("answer"));
            if number == 0 || number == 2 {
                *response.status_mut() = http::StatusCode::INTERNAL_SERVER_ERROR;
                return response;
            }
            gate.acquire().await.unwrap().forget();
            response
        }
    })
    .await;
    let traffic = json!({"connectionPool": {"http": {"maxRetries": 1}}});
    let retries = json!({"retries": {"attempts": 1, "retryOn": "5xx"}});
    let world = limited(&[&endpoint], traffic, retries);
    let first = start(&world);
    endpoint.hit(2).await;
    assert_eq!(world.ask("GET /").await.status, 500, "a second retry at once");
    assert_eq!((world.count("overflowRetries"), world.count("retries")), (1, 1));
    gate.add_permits(1);
    assert_eq!(first.await.unwrap(), (200, "answer".to_owned()));
}

#[tokio::test]
async fn a_connection_has_so_many_requests_and_lies_idle_so_long() {
    for (case, pool, want) in [
        ("no limit", json!({}), 1),
        ("requests", json!({"http": {"maxRequestsPerConnection": 2}}), 3),
        ("age", json!({"tcp": {"maxConnectionDuration": "1ms"}}), 6),
    ] {
        let endpoint = Endpoint::named("a").await;
        let world = limited(&[&endpoint], json!({ "connectionPool": pool }), json!({}));
        let mut client = world.http1().await;
        for _ in 0..6 {
            assert_eq!(client.ask("GET /").await.status, 200, "{case}");
            let asked = tokio::time::Instant::now();
            while asked.elapsed() < std::time::Duration::from_millis(3) {
                tokio::task::yield_now().await;
            }
        }
        assert_eq!(world.count("upstreamConnections"), want, "{case}");
    }
}

/// A TCP service of one endpoint, which greets and then keeps silent.
async fn greeter(traffic: Value) -> World {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let endpoint = Endpoint::at(listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            tokio::spawn(async move {
                socket.write_all(b"hello").await.unwrap();
                let _end = socket.read_to_end(&mut Vec::new()).await;
            });
        }
    });
    let rules = json!({"tcp": [{"route": [{"destination": {"host": "reviews"}}]}]});
    let port = json!({"name": "tcp"});
    Setup { endpoints: vec![(&endpoint, json!({}))], traffic, rules, port, ..Setup::default() }.start()
}

#[tokio::test]
async fn tcp_connections_beyond_max_connections_are_closed() {
    let world = greeter(json!({"connectionPool": {"tcp": {"maxConnections": 1}}})).await;
    let mut hello = [0; 5];
    let mut first = TcpStream::connect(world.front).await.unwrap();
    first.read_exact(&mut hello).await.unwrap();
    let mut second = TcpStream::connect(world.front).await.unwrap();
    assert_eq!(second.read(&mut hello).await.unwrap_or(0), 0, "the second is closed");
    assert_eq!(world.count("overflowConnections"), 1);
    drop(first);
    // Once the first is gone there is room.
    let start = std::time::Instant::now();
    loop {
        assert!(start.elapsed() < DEADLINE, "the place stays taken");
        let mut third = TcpStream::connect(world.front).await.unwrap();
        if third.read(&mut hello).await.unwrap_or(0) > 0 {
            break;
        }
    }
}

#[tokio::test]
async fn tcp_connections_end_when_they_are_silent_or_old() {
    for (traffic, counter) in [
        (json!({"connectionPool": {"tcp": {"idleTimeout": "50ms"}}}), "connectionsClosedIdle"),
        (json!({"connectionPool": {"tcp": {"maxConnectionDuration": "50ms"}}}), "connectionsClosedOld"),
    ] {
        let world = greeter(traffic).await;
        let mut client = TcpStream::connect(world.front).await.unwrap();
        let mut got = Vec::new();
        client.read_to_end(&mut got).await.unwrap();
        assert_eq!((&*got, world.count(counter)), (&b"hello"[..], 1), "{counter}");
    }
}

#[tokio::test]
async fn an_endpoint_that_fails_is_left_out_and_comes_back() {
    let (bad, good) = (Endpoint::status(500).await, Endpoint::named("good").await);
    let detection = json!({"consecutive5xxErrors": 3, "maxEjectionPercent": 50, "interval": "50ms",
        "baseEjectionTime": "300ms"});
    let traffic = json!({"outlierDetection": detection, "loadBalancer": {"simple": "ROUND_ROBIN"}});
    let world = limited(&[&bad, &good], traffic, json!({"retries": {"attempts": 0}}));
    let mut client = world.http1().await;
    let mut failed = 0;
    for _ in 0..6 {
        failed += u32::from(client.ask("GET /").await.status == 500);
    }
    assert_eq!((failed, bad.hits(), world.count("ejections")), (3, 3, 1));
    // Left out now: nobody notices that it is broken.
    for _ in 0..20 {
        assert_eq!(client.ask("GET /").await.status, 200);
    }
    assert_eq!(bad.hits(), 3);
    // Back after its time.
    let start = std::time::Instant::now();
    while bad.hits() == 3 {
        assert!(start.elapsed() < DEADLINE, "it does not come back");
        client.ask("GET /").await;
    }
    // The other one is not left out as well: half is the most.
    assert_eq!(world.count("ejectionsRefused"), 0);
}

#[tokio::test]
async fn when_all_are_left_out_nobody_answers_unless_health_is_too_low() {
    for (least, want) in [(0, 503), (1, 500)] {
        let bad = Endpoint::status(500).await;
        let detection = json!({"consecutive5xxErrors": 1, "maxEjectionPercent": 100,
            "minHealthPercent": least});
        let traffic = json!({"outlierDetection": detection});
        let world = limited(&[&bad], traffic, json!({"retries": {"attempts": 0}}));
        assert_eq!(world.ask("GET /").await.status, 500);
        assert_eq!(world.ask("GET /").await.status, want, "minHealthPercent {least}");
        assert_eq!(world.count("ejections"), 1);
    }
}

#[tokio::test]
async fn answers_that_do_not_come_count_as_failures() {
    let (nobody, silent) = (Endpoint::nobody().await, Endpoint::serve(|_| std::future::pending()).await);
    for (case, endpoint, fields) in [
        ("no connection", &nobody, json!({"retries": {"attempts": 0}})),
        ("try too long", &silent, json!({"retries": {"attempts": 1, "perTryTimeout": "20ms"}})),
        ("too long", &silent, json!({"timeout": "20ms", "retries": {"attempts": 0}})),
    ] {
        let detection = json!({"consecutiveGatewayErrors": 1, "consecutive5xxErrors": 0,
            "maxEjectionPercent": 100});
        let world = limited(&[endpoint], json!({ "outlierDetection": detection }), fields);
        assert!(world.ask("GET /").await.status >= 503, "{case}");
        assert_eq!(world.count("ejections"), 1, "{case}");
    }
}

#[tokio::test]
async fn a_client_keeps_the_cookie_that_it_is_given() {
    let all = [Endpoint::named("a").await, Endpoint::named("b").await, Endpoint::named("c").await];
    let endpoints: Vec<_> = all.iter().collect();
    let cookie = json!({"name": "stay", "path": "/", "ttl": "60s"});
    let traffic = json!({"loadBalancer": {"consistentHash": {"httpCookie": cookie}}});
    let world = limited(&endpoints, traffic, json!({}));
    let mut seen = std::collections::BTreeSet::new();
    // One of three endpoints has none of sixty clients once in 10^10 runs.
    for _ in 0..60 {
        let first = world.ask("GET /").await;
        let line = first.headers["set-cookie"].to_str().unwrap().to_owned();
        let (pair, rest) = line.split_once("; ").unwrap();
        assert_eq!(rest, "Max-Age=60; Path=/; HttpOnly");
        for _ in 0..2 {
            let again = world.ask(&format!("GET /\ncookie: {pair}")).await;
            assert_eq!(again.body, first.body, "{line}");
            assert!(!again.headers.contains_key("set-cookie"));
        }
        seen.insert(first.body);
    }
    assert_eq!(seen.len(), 3, "different clients are spread");
}

#[tokio::test]
async fn requests_stay_together_by_header_and_query() {
    for (case, hash, lines) in [
        ("header", json!({"httpHeaderName": "x-user"}), "GET /\nx-user: "),
        ("query", json!({"httpQueryParameterName": "user"}), "GET /?user="),
    ] {
        let all = [Endpoint::named("a").await, Endpoint::named("b").await, Endpoint::named("c").await];
        let endpoints: Vec<_> = all.iter().collect();
        let traffic = json!({"loadBalancer": { "consistentHash": hash }});
        let world = limited(&endpoints, traffic, json!({}));
        let mut seen = std::collections::BTreeSet::new();
        for user in 0..60 {
            let first = world.ask(&format!("{lines}{user}")).await.body;
            for _ in 0..2 {
                assert_eq!(world.ask(&format!("{lines}{user}")).await.body, first, "{case}");
            }
            seen.insert(first);
        }
        assert_eq!(seen.len(), 3, "{case}");
    }
}

#[tokio::test]
async fn streams_of_one_http2_connection_are_limited_too() {
    let gate = Arc::new(Semaphore::new(0));
    let endpoint = gated(&gate).await;
    let traffic = json!({"connectionPool": {"http": {"http2MaxRequests": 1}}});
    let world = limited(&[&endpoint], traffic, json!({}));
    let mut client = world.http2().await;
    let ask = || http::Request::builder().uri("http://reviews/").body(whole("")).unwrap();
    let first = tokio::spawn(client.send_request(ask()));
    endpoint.hit(1).await;
    let grpc = request("POST /\ncontent-type: application/grpc").body(whole("")).unwrap();
    let second = tokio::time::timeout(DEADLINE, client.send_request(ask())).await.expect("an answer in time");
    assert_eq!(second.unwrap().status(), 503);
    assert_eq!(world.http1().await.send(grpc).await.headers["grpc-status"], "14");
    gate.add_permits(1);
    assert_eq!(read(first.await.unwrap().unwrap()).await.status, 200);
}
