//! Connections of HTTP/1 that lie idle: what serves them is laid down, and nobody notices.

use std::time::Duration;

use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::world::{Endpoint, Setup, World, request, rule, soon, whole};

fn resting_after(endpoint: &Endpoint, after: Duration) -> Setup<'_> {
    let mut setup = Setup::http(&[endpoint], json!([rule(json!({}))]));
    setup.options.rest_after = after;
    setup
}

async fn until_resting(world: &World, connections: u64) {
    soon("connections at rest", || world.redirector.open()["restingConnections"] == connections).await;
}

#[tokio::test]
async fn a_connection_at_rest_takes_the_next_request() {
    let endpoint = Endpoint::named("a").await;
    let world = resting_after(&endpoint, Duration::from_millis(5)).start();
    let mut client = world.http1().await;
    for asked in 1..=3 {
        let got = client.send(request("POST /").body(whole("hello")).unwrap()).await;
        assert_eq!((got.status, got.headers.get("connection")), (200, None));
        assert_eq!(endpoint.hits(), asked);
        until_resting(&world, 1).await;
        assert_eq!(world.redirector.open()["clientConnections"], 1);
    }
    // A change is seen, though what the connection knew of it is gone.
    world.redirector.apply(Setup::http(&[], json!([rule(json!({}))])).snapshot(world.front));
    assert_eq!(client.ask("GET /").await.status, 503);
    drop(client);
    soon("no connection", || world.redirector.open()["clientConnections"] == 0).await;
    until_resting(&world, 0).await;
}

#[tokio::test]
async fn no_request_is_lost_to_a_rest_that_begins_just_then() {
    let endpoint = Endpoint::named("a").await;
    let world = resting_after(&endpoint, Duration::from_millis(1)).start();
    let clients = (0..8).map(|number: u64| {
        let front = world.front;
        tokio::spawn(async move {
            let mut socket = TcpStream::connect(front).await.unwrap();
            let mut answer = Vec::new();
            for turn in 0..150 {
                // Whole, in two parts, and two at once: before, while and after the rest begins.
                let text = b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\nhello";
                let pause = Duration::from_micros((number * 37 + turn * 211) % 3_000);
                tokio::time::sleep(pause).await;
                let asked = match turn % 3 {
                    0 => {
                        socket.write_all(text).await.unwrap();
                        1
                    }
                    1 => {
                        let (first, second) = text.split_at(1 + (turn as usize * 7) % (text.len() - 1));
                        socket.write_all(first).await.unwrap();
                        tokio::time::sleep(pause).await;
                        socket.write_all(second).await.unwrap();
                        1
                    }
                    _ => {
                        socket.write_all(&[&text[..], text].concat()).await.unwrap();
                        2
                    }
                };
                answer.clear();
                let ends = |answer: &[u8]| answer.windows(5).filter(|part| *part == b"\r\n\r\na").count();
                while ends(&answer) < asked {
                    let read = socket.read_buf(&mut answer).await.unwrap();
                    assert!(read > 0, "closed in turn {turn}: {}", String::from_utf8_lossy(&answer));
                }
                let text = String::from_utf8_lossy(&answer).to_lowercase();
                assert_eq!(text.matches("http/1.1 200").count(), asked, "{text}");
                assert!(!text.contains("connection:"), "{text}");
            }
        })
    });
    for client in clients.collect::<Vec<_>>() {
        client.await.unwrap();
    }
    assert_eq!(world.count("requests"), 8 * 200);
}

#[tokio::test]
async fn part_of_a_head_is_no_rest_and_a_rest_has_an_end() {
    let endpoint = Endpoint::named("a").await;
    let mut setup = resting_after(&endpoint, Duration::from_millis(5));
    setup.options.client_idle_timeout = Duration::from_secs(1);
    setup.options.header_timeout = Duration::from_millis(200);
    let world = setup.start();
    let mut socket = TcpStream::connect(world.front).await.unwrap();
    let text = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n";
    socket.write_all(text).await.unwrap();
    until_resting(&world, 1).await;
    socket.write_all(text).await.unwrap();
    endpoint.hit(2).await;
    until_resting(&world, 1).await;
    let mut answer = Vec::new();
    // It is closed silently once it has rested for long.
    socket.read_to_end(&mut answer).await.unwrap();
    assert_eq!(String::from_utf8_lossy(&answer).matches("HTTP/1.1 ").count(), 2);
    let mut slow = TcpStream::connect(world.front).await.unwrap();
    slow.write_all(text).await.unwrap();
    until_resting(&world, 1).await;
    slow.write_all(b"GET /").await.unwrap();
    let mut answer = String::new();
    slow.read_to_string(&mut answer).await.unwrap();
    assert_eq!(answer.matches("HTTP/1.1 408").count(), 1, "{answer}");
    world.until("refusedSlowHeaders", 1).await;
}

#[tokio::test]
async fn connections_at_rest_keep_nobody_from_draining() {
    let endpoint = Endpoint::named("a").await;
    let world = resting_after(&endpoint, Duration::from_millis(5)).start();
    let mut clients = Vec::new();
    for _ in 0..5 {
        let mut client = world.http1().await;
        assert_eq!(client.ask("GET /").await.status, 200);
        clients.push(client);
    }
    until_resting(&world, 5).await;
    let before = std::time::Instant::now();
    let redirector = world.redirector;
    tokio::task::spawn_blocking(move || redirector.drain(Duration::from_secs(20))).await.unwrap();
    assert!(before.elapsed() < Duration::from_secs(10), "idle connections were waited for");
}
