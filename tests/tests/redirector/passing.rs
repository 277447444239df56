//! Connections that are passed through: TCP by weight, TLS by server name, protocols that nobody declared.

use std::collections::BTreeMap;

use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use super::world::{Endpoint, Setup, World};

/// Says its name, then gives back what it gets, reversed, once the client has ended.
async fn mirror(name: &'static str) -> Endpoint {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = Endpoint::at(listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            tokio::spawn(async move {
                socket.write_all(name.as_bytes()).await.unwrap();
                let mut all = Vec::new();
                socket.read_to_end(&mut all).await.unwrap();
                all.reverse();
                socket.write_all(&all).await.unwrap();
            });
        }
    });
    endpoint
}

/// Sends bytes, ends its side, reads all.
async fn pass(world: &World, bytes: &[u8]) -> Vec<u8> {
    let mut socket = TcpStream::connect(world.front).await.unwrap();
    socket.write_all(bytes).await.unwrap();
    socket.shutdown().await.unwrap();
    let mut all = Vec::new();
    socket.read_to_end(&mut all).await.unwrap();
    all
}

fn subsets() -> serde_json::Value {
    json!([{"name": "a", "labels": {"v": "a"}}, {"name": "b", "labels": {"v": "b"}}])
}

#[tokio::test]
async fn tcp_weights_split_connections_and_half_close_passes() {
    let (a, b) = (mirror("a:").await, mirror("b:").await);
    let to = |name: &str, weight: u32| json!({"destination": {"host": "reviews", "subset": name}, "weight": weight});
    let world = Setup {
        endpoints: vec![(&a, json!({"v": "a"})), (&b, json!({"v": "b"}))],
        port: json!({"name": "tcp"}),
        subsets: subsets(),
        rules: json!({"tcp": [{"route": [to("a", 1), to("b", 3)]}]}),
        ..Setup::default()
    }
    .start();
    let mut answers = BTreeMap::new();
    for _ in 0..200 {
        *answers.entry(String::from_utf8(pass(&world, b"xyz").await).unwrap()).or_insert(0) += 1;
    }
    assert_eq!(answers.keys().collect::<Vec<_>>(), ["a:zyx", "b:zyx"]);
    assert!((25..75).contains(&answers["a:zyx"]), "{answers:?}");
}

/// A ClientHello for `name`, as short as can be.
fn client_hello(name: &str) -> Vec<u8> {
    let sized = |content: &[u8]| [&(content.len() as u16).to_be_bytes()[..], content].concat();
    let names = sized(&[&[0][..], &sized(name.as_bytes())].concat());
    let extensions = sized(&[&[0, 0][..], &sized(&names)].concat());
    let body = [&[3, 3][..], &[7; 32], &[0], &sized(&[0x13, 1]), &[1, 0], &extensions].concat();
    let message = [&[1, 0][..], &sized(&body)].concat();
    [&[22, 3, 1][..], &sized(&message)].concat()
}

#[tokio::test]
async fn tls_goes_by_its_server_name_and_every_byte_arrives() {
    let (a, b) = (mirror("a:").await, mirror("b:").await);
    let rule = |name: &str, subset: &str| {
        let to = json!([{"destination": {"host": "reviews", "subset": subset}}]);
        json!({"match": [{"sniHosts": [name]}], "route": to})
    };
    let reviews = "reviews.shop.svc.cluster.local";
    let world = Setup {
        endpoints: vec![(&a, json!({"v": "a"})), (&b, json!({"v": "b"}))],
        port: json!({"name": "https"}),
        subsets: subsets(),
        rules: json!({"tls": [rule("reviews", "a"), rule(reviews, "b")]}),
        ..Setup::default()
    }
    .start();
    for (name, want) in [("reviews", "a:"), (reviews, "b:")] {
        let mut hello = client_hello(name);
        hello.extend_from_slice(&[1, 2, 3]);
        let answer = pass(&world, &hello).await;
        hello.reverse();
        assert_eq!(answer, [want.as_bytes(), &hello].concat(), "{name}");
    }
    let other = pass(&world, &client_hello("other")).await;
    assert!(other.starts_with(b"a:") || other.starts_with(b"b:"), "no rule: the Service itself");
}

#[tokio::test]
async fn undeclared_protocols_are_sniffed_and_silent_clients_are_passed_on() {
    let raw = mirror("raw").await;
    let rules = json!([{"match": [{"uri": {"prefix": "/"}}], "directResponse": {"status": 204}}]);
    let world = Setup { port: json!({"name": ""}), ..Setup::http(&[&raw], rules) }.start();
    assert_eq!(world.ask("GET /").await.status, 204);
    assert_eq!(pass(&world, b"\x00binary").await, b"rawyranib\x00");
    // The server speaks first; the client waits for it.
    let mut socket = TcpStream::connect(world.front).await.unwrap();
    let mut name = [0; 3];
    socket.read_exact(&mut name).await.unwrap();
    assert_eq!((&name, world.count("sniffTimeouts")), (b"raw", 1));
}

#[tokio::test]
async fn without_http_rules_undeclared_protocols_are_not_looked_at() {
    let raw = mirror("raw").await;
    let world =
        Setup { endpoints: vec![(&raw, json!({}))], port: json!({"name": ""}), ..Setup::default() }.start();
    assert_eq!(pass(&world, b"GET / HTTP/1.1\r\n\r\n").await, b"raw\n\r\n\r1.1/PTTH / TEG");
    assert_eq!((world.count("requests"), world.count("connectionsPassed")), (0, 1));
}

#[tokio::test]
async fn a_dead_endpoint_is_passed_over() {
    let (nobody, good) = (Endpoint::nobody().await, mirror("good").await);
    let world = Setup {
        endpoints: vec![(&nobody, json!({})), (&good, json!({}))],
        port: json!({"name": "tcp"}),
        traffic: json!({"loadBalancer": {"simple": "ROUND_ROBIN"}}),
        ..Setup::default()
    }
    .start();
    for _ in 0..4 {
        assert_eq!(pass(&world, b"").await, b"good");
    }
}

#[tokio::test]
async fn an_endpoint_that_wants_tls_is_never_sent_plain_text() {
    let endpoint = mirror("plain").await;
    for port in ["tcp", "http"] {
        let world = Setup {
            endpoints: vec![(&endpoint, json!({}))],
            port: json!({"name": port}),
            traffic: json!({"tls": {"mode": "SIMPLE"}}),
            ..Setup::default()
        }
        .start();
        let answer = world.raw(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 503"), "{port}: {answer}");
        assert_eq!((world.count("noEndpoints"), world.count("upstreamConnections")), (1, 0), "{port}");
    }
}
