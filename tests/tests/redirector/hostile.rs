//! Requests that two readers may read differently, that never end, or that are too much: refused and counted.

use std::{
    sync::atomic::{AtomicU32, AtomicU64, Ordering},
    time::Duration,
};

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::world::{Endpoint, Setup, rule};

#[tokio::test]
async fn ambiguous_requests_never_reach_an_endpoint() {
    let endpoint = Endpoint::named("a").await;
    let world = Setup::http(&[&endpoint], json!([rule(json!({}))])).start();
    for (case, bytes) in [
        ("two hosts", &b"GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n"[..]),
        ("no host", b"GET / HTTP/1.1\r\n\r\n"),
        ("two lengths", b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nxx"),
        ("list of lengths", b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1, 2\r\n\r\nxx"),
        ("signed length", b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: +1\r\n\r\nx"),
        ("folded header", b"GET / HTTP/1.1\r\nhost: a\r\nx: 1\r\n 2\r\n\r\n"),
        ("bare CR in a value", b"GET / HTTP/1.1\r\nhost: a\r\nx: 1\rcontent-length: 5\r\n\r\n"),
        ("bare CR in the target", b"GET /\r HTTP/1.1\r\nhost: a\r\n\r\n"),
        ("blank before the colon", b"GET / HTTP/1.1\r\nhost: a\r\ncontent-length : 5\r\n\r\nhello"),
        ("NUL in a value", b"GET / HTTP/1.1\r\nhost: a\r\nx: \x00\r\n\r\n"),
        (
            "chunked is not last",
            b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked, x\r\n\r\n0\r\n\r\n",
        ),
        ("below chunked", b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: x, chunked\r\n\r\n0\r\n\r\n"),
        ("odd chunked", b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: xchunked\r\n\r\n0\r\n\r\n"),
        ("chunked in 1.0", b"POST / HTTP/1.0\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"),
    ] {
        let answer = world.raw(bytes).await;
        assert!(answer.starts_with("HTTP/1.1 400") || answer.starts_with("HTTP/1.0 400"), "{case}: {answer}");
        assert_eq!(answer.matches("HTTP/1.").count(), 1, "{case}: {answer}");
        assert_eq!(endpoint.hits(), 0, "{case}");
    }
    world.until("refusedMalformed", 14).await;
}

#[tokio::test]
async fn requests_of_two_lengths_are_refused_wherever_they_come() {
    const FIRST: &str =
        "POST /first HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
    // Whoever takes a lone LF for the end of the trailers sees one request more.
    const MORE: &str = "POST /first HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n0\r\nt: 1\n\n\
        GET /more HTTP/1.1\r\nhost: a\r\n\r\n";
    for (case, before) in [("the first", ""), ("behind another", FIRST), ("behind a lone LF", MORE)] {
        for order in [
            "content-length: 4\r\ntransfer-encoding: chunked",
            "Transfer-Encoding: chunked\r\nContent-Length: 4",
        ] {
            let endpoint = Endpoint::named("a").await;
            let world = Setup::http(&[&endpoint], json!([rule(json!({}))])).start();
            // To a reader of Content-Length, the second request would begin within the first.
            let text = format!(
                "{before}POST / HTTP/1.1\r\nhost: a\r\n{order}\r\n\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nhost: a\r\n\r\n"
            );
            let answer = world.raw(text.as_bytes()).await;
            let served = u32::from(!before.is_empty());
            assert_eq!(answer.matches("HTTP/1.1 200").count(), served as usize, "{case}, {order}: {answer}");
            assert_eq!(answer.matches("HTTP/1.1 400").count(), 1, "{case}, {order}: {answer}");
            assert_eq!(answer.matches("HTTP/1.1").count(), served as usize + 1, "{case}, {order}: {answer}");
            assert_eq!(endpoint.hits(), served, "{case}, {order}");
            world.until("refusedMalformed", 1).await;
        }
    }
}

#[tokio::test]
async fn headers_have_limits() {
    let endpoint = Endpoint::named("a").await;
    let world = Setup::http(&[&endpoint], json!([rule(json!({}))])).start();
    let long = format!("GET / HTTP/1.1\r\nhost: a\r\nx: {}\r\n\r\n", "y".repeat(70_000));
    assert!(world.raw(long.as_bytes()).await.starts_with("HTTP/1.1 431"));
    let allowed = format!("GET /\nx: {}", "y".repeat(50_000));
    assert_eq!(world.ask(&allowed).await.status, 200);
    world.until("refusedLargeHeaders", 1).await;
    assert_eq!(endpoint.hits(), 1);
}

/// What who is too slow is told.
const TOO_SLOW: &str = "HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";

#[tokio::test]
async fn a_slow_head_is_not_waited_for_and_a_silent_client_is() {
    let endpoint = Endpoint::named("a").await;
    let mut setup = Setup::http(&[&endpoint], json!([rule(json!({}))]));
    setup.options.header_timeout = Duration::from_millis(100);
    let world = setup.start();
    let mut client = world.http1().await;
    assert_eq!(client.ask("GET /").await.status, 200);
    assert_eq!(world.raw(b"GET / HTTP/1.1\r\nhost: a\r\n").await, TOO_SLOW);
    world.until("refusedSlowHeaders", 1).await;
    // It may be a method or HTTP/2; of nothing at all nothing can be said.
    assert_eq!(world.raw(b"PR").await, TOO_SLOW);
    assert_eq!(world.raw(b"").await, "");
    world.until("refusedSlowHeaders", 3).await;
    // So much time has passed, and between requests there is more of it.
    assert_eq!(client.ask("GET /").await.status, 200);
    let text = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n";
    let mut socket = tokio::net::TcpStream::connect(world.front).await.unwrap();
    socket.write_all(text).await.unwrap();
    let mut answer = vec![0; 1000];
    assert!(socket.read(&mut answer).await.unwrap() > 0);
    socket.write_all(b"GET /se").await.unwrap();
    let mut rest = String::new();
    socket.read_to_string(&mut rest).await.unwrap();
    assert!(rest.ends_with(TOO_SLOW), "{rest}");
    world.until("refusedSlowHeaders", 4).await;
}

#[tokio::test]
async fn garbage_breaks_nothing() {
    let endpoint = Endpoint::named("a").await;
    let mut setup = Setup::http(&[&endpoint], json!([rule(json!({}))]));
    // What looks like the beginning of a request is waited for.
    setup.options.header_timeout = Duration::from_millis(100);
    let world = setup.start();
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    for (case, bytes) in [
        ("zeros", vec![0; 100]),
        ("preface and garbage", [&preface[..], &[255; 100]].concat()),
        ("lines", b"\r\n\r\n\r\n".to_vec()),
        ("no version", b"GET /\r\n\r\n".to_vec()),
        ("path of stars", b"GET * HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n".to_vec()),
        ("escapes", b"GET /%00%ff%2e%2e/? HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n".to_vec()),
    ] {
        let _answer = world.raw(&bytes).await;
        assert_eq!(world.ask("GET /").await.status, 200, "{case}");
    }
}

#[tokio::test]
async fn a_flood_of_resets_ends_the_connection() {
    let endpoint = Endpoint::serve(|_| std::future::pending()).await;
    let world = Setup::http(&[&endpoint], json!([rule(json!({}))])).start();
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    bytes.extend_from_slice(&[0, 0, 0, 4, 0, 0, 0, 0, 0]);
    for stream in (1_u32..20_000).step_by(2) {
        // GET, http, /, authority "a": four fields of the static table and one literal.
        let block = [0x82, 0x86, 0x84, 0x41, 0x01, b'a'];
        bytes.extend_from_slice(&[0, 0, 6, 1, 5]);
        bytes.extend_from_slice(&stream.to_be_bytes());
        bytes.extend_from_slice(&block);
        bytes.extend_from_slice(&[0, 0, 4, 3, 0]);
        bytes.extend_from_slice(&stream.to_be_bytes());
        bytes.extend_from_slice(&[0, 0, 0, 8]);
    }
    let (mut read, mut write) = tokio::net::TcpStream::connect(world.front).await.unwrap().into_split();
    // The connection may end while we write.
    let writing = tokio::spawn(async move {
        let _cut = write.write_all(&bytes).await;
        write
    });
    let mut answer = Vec::new();
    // What the redirector says before it closes is of no interest.
    let _end = read.read_to_end(&mut answer).await;
    drop(writing.await);
    world.until("refusedResetFlood", 1).await;
}

#[tokio::test]
async fn no_bytes_make_a_worker_panic() {
    static PANICS: AtomicU32 = AtomicU32::new(0);
    let inner = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if std::thread::current().name().is_some_and(|name| name.starts_with("redirector-")) {
            PANICS.fetch_add(1, Ordering::SeqCst);
        }
        inner(info);
    }));
    let endpoint = Endpoint::named("a").await;
    let mut setup = Setup::http(&[&endpoint], json!([rule(json!({"rewrite": {"uri": "/x"}}))]));
    setup.options.header_timeout = Duration::from_millis(20);
    let world = setup.start();
    let http1 = b"POST http://a/p?q HTTP/1.1\r\nhost: a\r\nte: trailers\r\ncontent-type: application/grpc\r\n\
        connection: upgrade, x\r\nupgrade: y\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nt: 1\r\n\r\n";
    let http2 = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00\
        \x00\x00\x06\x01\x04\x00\x00\x00\x01\x83\x86\x84\x41\x01a\x00\x00\x03\x00\x01\x00\x00\x00\x01abc";
    let draws = numbers(7);
    for original in [&http1[..], &http2[..]] {
        // The preface stays, or the rest would not be looked at.
        let from = if original.starts_with(b"PRI") { 24 } else { 0 };
        for _ in 0..300 {
            let mut bytes = original.to_vec();
            for _ in 0..=draws(3) {
                let at = from + draws(bytes.len() - from);
                match draws(3) {
                    0 => bytes[at] = draws(256) as u8,
                    1 => drop(bytes.remove(at)),
                    _ => bytes.insert(at, b"\r\n :,\0\xff0"[draws(8)]),
                }
            }
            let mut socket = tokio::net::TcpStream::connect(world.front).await.unwrap();
            // The redirector may close at any time.
            let _cut = socket.write_all(&bytes).await;
            let _cut = socket.shutdown().await;
            let _cut = socket.read_to_end(&mut bytes).await;
        }
    }
    assert_eq!(world.ask("GET /").await.status, 200);
    assert_eq!(PANICS.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn regexes_without_end_are_refused_and_rules_of_others_hold() {
    let endpoint = Endpoint::named("a").await;
    let setup = || Setup::http(&[&endpoint], json!([rule(json!({}))]));
    let world = setup().start();
    let mut snapshot = setup().snapshot(world.front);
    // A mebibyte of them, for the same host, by somebody who was first.
    let matches: Vec<_> =
        (0..20_000).map(|i| json!({"uri": {"regex": format!(r"(?i)/{i}\pL{{900}}")}})).collect();
    let mut hostile = snapshot.virtual_services[0].clone();
    hostile["metadata"]["name"] = json!("hostile");
    hostile["metadata"]["creationTimestamp"] = json!("1999-01-01T00:00:00Z");
    hostile["spec"]["http"] = json!([{"match": matches, "directResponse": {"status": 418}}]);
    snapshot.virtual_services.push(hostile);
    let left_out = world.redirector.apply(snapshot);
    assert_eq!(left_out.len(), 1, "{left_out:?}");
    for want in
        ["VirtualService shop/hostile: spec.http[0].match[0].uri.regex: ", "takes more than 131072 bytes"]
    {
        assert!(left_out[0].contains(want), "{want}: {left_out:?}");
    }
    assert!(left_out[0].len() < 20_000, "{} bytes", left_out[0].len());
    assert_eq!(world.ask("GET /").await.body, "a");
}

/// Numbers below a limit, the same each time.
fn numbers(seed: u64) -> impl Fn(usize) -> usize {
    let state = AtomicU64::new(seed);
    move |limit| {
        let next = state.load(Ordering::SeqCst).wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        state.store(next, Ordering::SeqCst);
        ((next >> 33) as usize) % limit.max(1)
    }
}
