//! What one client leaves unread, or has us look for, is its own: others are answered meanwhile.

use std::time::Duration;

use bytes::Bytes;
use http::{Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::json;
use sluice_tests::wait::patiently;
use tokio::{net::TcpStream, time::timeout};

use super::world::{AnyBody, Endpoint, Setup, World, read, request, rule, whole};

/// A body of so many bytes.
fn long(bytes: usize) -> AnyBody {
    Full::new(Bytes::from(vec![b'x'; bytes])).map_err(|never| match never {}).boxed()
}

/// A client by HTTP/2 that lets little come that it has not read.
async fn narrow(world: &World) -> hyper::client::conn::http2::SendRequest<AnyBody> {
    let socket = TokioIo::new(TcpStream::connect(world.front).await.unwrap());
    let mut builder = hyper::client::conn::http2::Builder::new(TokioExecutor::new());
    let handshake = builder.initial_stream_window_size(16 << 10).handshake(socket);
    let (sender, connection) = handshake.await.unwrap();
    tokio::spawn(connection);
    sender
}

#[tokio::test]
async fn answers_that_clients_do_not_read_keep_no_other_client_waiting() {
    let endpoint = Endpoint::speaking(true, |request| async move {
        Response::new(long(if request.uri().path() == "/huge" { 16 << 20 } else { 1 << 20 }))
    })
    .await;
    // One worker: all clients' requests go to the endpoint by one connection.
    let world = Setup::http(&[&endpoint], json!([rule(json!({}))])).start();
    let mut unread = Vec::new();
    for _ in 0..4 {
        let mut client = narrow(&world).await;
        let ask = request("GET http://reviews/huge").body(whole("")).unwrap();
        unread.push((client.send_request(ask).await.unwrap(), client));
    }
    let mut other = world.http2().await;
    // So many that the answers nobody reads have come as far as they will.
    for turn in 0..40 {
        let ask = request("GET http://reviews/").body(whole("")).unwrap();
        let asked = async { read(other.send_request(ask).await.unwrap()).await };
        let got = timeout(patiently(Duration::from_secs(5)), asked).await;
        let got = got.unwrap_or_else(|_| panic!("answer {turn} does not come"));
        assert_eq!((got.status, got.body.len()), (200, 1 << 20));
    }
    assert_eq!(world.count("upstreamConnections"), 1);
    // Who reads at last has all of it.
    for (answer, _client) in unread {
        assert_eq!(answer.status(), StatusCode::OK);
        assert_eq!(read(answer).await.body.len(), 16 << 20);
    }
}

/// Rules that deny what fits one of many regexes, of 45 KB each, and let the rest pass.
fn many_regexes() -> serde_json::Value {
    let deny = |i: usize| {
        let regex = format!("[ab]*a[ab]{{{}}}{i}", 500 + i);
        json!({
            "match": [{"headers": {"x-long": {"regex": regex}}}],
            "directResponse": {"status": 403},
        })
    };
    (0..80).map(deny).chain([rule(json!({}))]).collect()
}

/// What makes them look at all they could be in the middle of, at each letter.
fn hostile_value(letters: usize) -> String {
    let mut seed = 7_u32;
    let mut letter = || {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        if seed >> 31 == 0 { 'a' } else { 'b' }
    };
    (0..letters).map(|_| letter()).collect()
}

#[tokio::test]
async fn regexes_that_work_too_long_refuse_the_request_and_others_are_served() {
    let endpoint = Endpoint::named("a").await;
    let world = Setup::http(&[&endpoint], many_regexes()).start();
    // To each some 50 ms of an optimised build, or a second of another.
    let value = hostile_value(8_000);
    for hostile in 1..=3 {
        let began = std::time::Instant::now();
        let text = format!("GET /\nx-long: {value}");
        let (refused, served) = tokio::join!(world.ask(&text), world.ask("GET /\nx-long: abba"));
        assert_eq!(
            (served.status, endpoint.hits()),
            (200, hostile),
            "a short value is looked at, and passes"
        );
        assert_eq!(refused.status, 431, "{}", refused.body);
        assert_eq!(refused.body, "regexes of rules take too long for values that are so long\n");
        assert!(began.elapsed() < patiently(Duration::from_secs(10)), "{:?}", began.elapsed());
    }
    world.until("refusedRegexWork", 3).await;
    // What is long, and plain to all of them, passes.
    let plain = format!("GET /\nx-long: {}", "z".repeat(50_000));
    assert_eq!(world.ask(&plain).await.status, 200);
    assert_eq!((world.count("refusedRegexWork"), endpoint.hits()), (3, 4));
}

#[tokio::test]
async fn rewrites_and_origins_that_work_too_long_are_refused_too() {
    let endpoint = Endpoint::named("a").await;
    let rules = json!([
        {
            "match": [{"uri": {"prefix": "/cors"}}],
            "route": [{"destination": {"host": "reviews"}}],
            "corsPolicy": {"allowOrigins": (0..80).map(|i| json!({"regex": format!("[ab]*a[ab]{{{}}}", 500 + i)}))
                .collect::<Vec<_>>()},
        },
        // Each look for the next goes to the end, and finds one letter.
        rule(json!({"rewrite": {"uriRegexRewrite": {"match": "a[ab]*c|a|b", "rewrite": "x"}}})),
    ]);
    let world = Setup::http(&[&endpoint], rules).start();
    let origin = world.ask(&format!("GET /cors\norigin: {}", hostile_value(8_000))).await;
    assert_eq!(origin.status, 431, "{}", origin.body);
    let rewritten = world.ask(&format!("GET /{}", hostile_value(50_000))).await;
    assert_eq!(rewritten.status, 431, "{}", rewritten.body);
    assert_eq!((world.count("refusedRegexWork"), endpoint.hits()), (2, 0));
    assert_eq!(world.ask("GET /ab").await.status, 200);
    assert_eq!(endpoint.last().uri.path(), "/xx");
}
