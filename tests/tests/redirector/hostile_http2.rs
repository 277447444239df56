//! Clients of HTTP/2 that are slow or say too much: refused and counted, as those of HTTP/1 are in `hostile.rs`.

use std::time::Duration;

use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{
    streams::reversing_tunnel,
    world::{Endpoint, Setup, World, read, request, rule, whole},
};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00";

/// Sends bytes as they are, after a preface, and reads until the redirector closes.
async fn is_closed(world: &World, bytes: &[u8]) {
    let mut socket = TcpStream::connect(world.front).await.unwrap();
    socket.write_all(&[PREFACE, bytes].concat()).await.unwrap();
    let mut answer = Vec::new();
    let reading = socket.read_to_end(&mut answer);
    let _end = tokio::time::timeout(sluice_tests::wait::DEADLINE, reading).await.expect("it is closed");
}

#[tokio::test]
async fn a_header_block_that_stays_open_is_not_waited_for() {
    let endpoint = Endpoint::named("a").await;
    let mut setup = Setup::http(&[&endpoint], json!([rule(json!({}))]));
    setup.options.header_timeout = Duration::from_millis(100);
    let world = setup.start();
    for (case, bytes) in [
        ("no end of headers", &b"\x00\x00\x06\x01\x01\x00\x00\x00\x01\x82\x86\x84\x41\x01a"[..]),
        ("part of a block", b"\x00\x00\x06\x01\x05\x00\x00\x00\x01\x82\x86"),
        ("part of a frame's header", b"\x00\x00\x06\x01"),
        ("part of SETTINGS", b"\x00\x00\x06\x04\x00\x00\x00\x00\x00\x00"),
    ] {
        let before = world.count("refusedSlowHeaders");
        is_closed(&world, bytes).await;
        world.until("refusedSlowHeaders", before + 1).await;
        assert_eq!(endpoint.hits(), 0, "{case}");
    }
}

#[tokio::test]
async fn a_slow_body_is_waited_for_and_so_is_a_slow_tunnel() {
    let endpoint = Endpoint::serve(|mut request| async move {
        if request.uri().path() == "/tunnel" {
            return reversing_tunnel(&mut request);
        }
        let body = http_body_util::BodyExt::collect(request.into_body()).await.unwrap().to_bytes();
        http::Response::new(whole(body))
    })
    .await;
    let mut setup = Setup::http(&[&endpoint], json!([rule(json!({}))]));
    setup.options.header_timeout = Duration::from_millis(50);
    let world = setup.start();
    let slowly = Duration::from_millis(120);
    // By HTTP/2: a stream whose DATA frame comes in three parts.
    let mut socket = TcpStream::connect(world.front).await.unwrap();
    let head =
        b"\x00\x00\x06\x01\x04\x00\x00\x00\x01\x83\x86\x84\x41\x01a\x00\x00\x03\x00\x01\x00\x00\x00\x01";
    socket.write_all(&[PREFACE, head, b"x"].concat()).await.unwrap();
    for byte in [b"y", b"z"] {
        tokio::time::sleep(slowly).await;
        socket.write_all(byte).await.unwrap();
    }
    let mut answer = Vec::new();
    while !answer.windows(3).any(|part| part == b"xyz") {
        assert!(socket.read_buf(&mut answer).await.unwrap() > 0, "{answer:?}");
    }
    // By HTTP/1, a tunnel.
    let mut socket = TcpStream::connect(world.front).await.unwrap();
    let text = b"GET /tunnel HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
    socket.write_all(text).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        assert!(socket.read_buf(&mut answer).await.unwrap() > 0, "{answer:?}");
    }
    for byte in [b"p", b"i", b"n", b"g"] {
        socket.write_all(byte).await.unwrap();
        tokio::time::sleep(slowly).await;
    }
    let mut back = Vec::new();
    socket.read_to_end(&mut back).await.unwrap();
    assert_eq!(back, b"gnip");
    assert_eq!(world.count("refusedSlowHeaders"), 0);
}

#[tokio::test]
async fn a_connection_without_streams_is_closed_after_the_idle_timeout() {
    let endpoint = Endpoint::serve(|_| async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        http::Response::new(whole("late"))
    })
    .await;
    let mut setup = Setup::http(&[&endpoint], json!([rule(json!({}))]));
    setup.options.client_idle_timeout = Duration::from_millis(100);
    let world = setup.start();
    // While a request is under way it is not idle.
    let mut client = world.http2().await;
    let ask = request("GET http://reviews/").body(whole("")).unwrap();
    assert_eq!(read(client.send_request(ask).await.unwrap()).await.status, 200);
    let before = std::time::Instant::now();
    while !client.is_closed() {
        assert!(before.elapsed() < sluice_tests::wait::DEADLINE, "it is closed after its request");
        tokio::task::yield_now().await;
    }
    let unused = world.http2().await;
    while !unused.is_closed() {
        assert!(before.elapsed() < sluice_tests::wait::DEADLINE, "it is closed without any");
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn headers_have_the_same_limit_as_by_http1() {
    let endpoint = Endpoint::named("a").await;
    let world = Setup::http(&[&endpoint], json!([rule(json!({}))])).start();
    let mut client = world.http2().await;
    // The endpoint, a server of hyper's, takes 16 KiB itself.
    for (length, status) in [(10_000, 200), (70_000, 431), (300_000, 431)] {
        let ask = http::Request::get("http://reviews/").header("x", "y".repeat(length));
        let sent = client.send_request(ask.body(whole("")).unwrap()).await.unwrap();
        assert_eq!(sent.status(), status, "{length}");
    }
    world.until("refusedLargeHeaders", 2).await;
    assert_eq!(endpoint.hits(), 1);
    // The connection is as good as before.
    let ask = request("GET http://reviews/").body(whole("")).unwrap();
    assert_eq!(client.send_request(ask).await.unwrap().status(), 200);
}
