//! A client that takes more than its share: it is refused, and others are served all the same.

use std::{
    collections::{BTreeMap, VecDeque},
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use http_body_util::BodyExt;
use hyper::client::conn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::json;
use sluice_tests::wait::patiently;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    sync::Semaphore,
    time::timeout,
};

use super::{
    streams::reversing_tunnel,
    world::{AnyBody, Endpoint, Setup, World, read, rule, soon, whole},
};

/// Addresses of a pod that has two.
const ONE: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 66));
const OTHER: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 67));

fn setup(endpoint: &Endpoint) -> Setup<'_> {
    let mut setup = Setup::http(&[endpoint], json!([rule(json!({}))]));
    setup.pods = json!([{"namespace": "shop", "name": "flood", "addresses": [ONE, OTHER]}]);
    setup
}

async fn connect(world: &World, from: IpAddr) -> TcpStream {
    dial(world.front, from).await.unwrap()
}

async fn dial(front: SocketAddr, from: IpAddr) -> io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind((from, 0).into())?;
    socket.connect(front).await
}

/// One more connection from `from` is none: it is reset, sooner or later.
async fn is_refused(world: &World, from: IpAddr) {
    if let Ok(mut socket) = dial(world.front, from).await {
        assert_eq!(socket.read(&mut [0]).await.unwrap_or(0), 0);
    }
}

/// Opens connections from `from` without end, until `stop`; keeps those that are not reset, and sends nothing.
fn flood(front: SocketAddr, from: IpAddr, stop: &AtomicBool) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut kept = VecDeque::new();
        while !stop.load(Ordering::Relaxed) {
            // Whether it is refused or not: the next.
            kept.extend(dial(front, from).await);
            if kept.len() > 500 {
                kept.pop_front();
            }
        }
    });
}

/// Asks on connections of its own, each time within a time that a person would wait.
async fn is_served(world: &World, times: u32) {
    for _ in 0..times {
        let asked = timeout(patiently(Duration::from_secs(5)), world.ask("GET /")).await;
        assert_eq!(asked.expect("others are served meanwhile").status, 200);
    }
}

#[tokio::test]
async fn a_flood_of_connections_of_one_pod_keeps_nobody_else_waiting() {
    let endpoint = Endpoint::named("a").await;
    let mut setup = setup(&endpoint);
    setup.options.connections_per_client = 50;
    let world = setup.start();
    let stop = Arc::new(AtomicBool::new(false));
    let flooding: Vec<_> = [ONE, OTHER]
        .map(|from| {
            let (front, stop) = (world.front, stop.clone());
            std::thread::spawn(move || flood(front, from, &stop))
        })
        .into();
    world.until("refusedClientLimit", 1_000).await;
    is_served(&world, 200).await;
    // Both addresses together have what one client may have, and the one that asks has one.
    assert!(world.redirector.open()["clientConnections"] <= 51);
    stop.store(true, Ordering::Relaxed);
    flooding.into_iter().for_each(|thread| thread.join().unwrap());
    assert_eq!(endpoint.hits(), 200);
}

#[tokio::test]
async fn a_client_leaves_half_of_all_room_to_others() {
    let endpoint = Endpoint::named("a").await;
    let mut setup = setup(&endpoint);
    setup.options.connections = 20;
    let world = setup.start();
    let mut kept = Vec::new();
    for _ in 0..20 {
        kept.extend(dial(world.front, ONE).await);
    }
    world.until("refusedConnectionsInAll", 10).await;
    assert_eq!(world.redirector.open()["clientConnections"], 10);
    is_served(&world, 20).await;
    assert_eq!(world.count("refusedClientLimit"), 0);
}

#[tokio::test]
async fn the_addresses_of_a_pod_are_one_client() {
    let endpoint = Endpoint::named("a").await;
    let mut setup = setup(&endpoint);
    setup.options.connections_per_client = 1;
    let world = setup.start();
    let first = connect(&world, ONE).await;
    soon("a connection", || world.redirector.open()["clientConnections"] == 1).await;
    is_refused(&world, OTHER).await;
    assert_eq!(world.count("refusedClientLimit"), 1);
    is_served(&world, 1).await;
    drop(first);
    soon("no connection", || world.redirector.open()["clientConnections"] == 0).await;
    let mut third = connect(&world, OTHER).await;
    third.write_all(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    third.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
}

#[tokio::test]
async fn a_flood_of_streams_of_one_pod_is_answered_503_beyond_its_share() {
    let gate = Arc::new(Semaphore::new(0));
    let endpoint = {
        let gate = gate.clone();
        Endpoint::serve(move |request| {
            let gate = gate.clone();
            async move {
                if request.uri().path() == "/slow" {
                    gate.acquire().await.unwrap().forget();
                }
                http::Response::new(whole("late"))
            }
        })
        .await
    };
    let mut setup = setup(&endpoint);
    setup.options.requests_per_client = 40;
    let world = setup.start();
    let mut clients: Vec<conn::http2::SendRequest<AnyBody>> = Vec::new();
    for from in [ONE, OTHER, ONE, OTHER] {
        let socket = TokioIo::new(connect(&world, from).await);
        let (sender, connection) = conn::http2::handshake(TokioExecutor::new(), socket).await.unwrap();
        tokio::spawn(connection);
        clients.push(sender);
    }
    let ask = || http::Request::builder().uri("http://reviews/slow").body(whole("")).unwrap();
    let asked: Vec<_> = (0..200).map(|i| tokio::spawn(clients[i % 4].send_request(ask()))).collect();
    world.until("refusedRequestLimit", 160).await;
    is_served(&world, 50).await;
    gate.add_permits(41);
    let mut statuses = BTreeMap::new();
    for one in asked {
        let got = read(one.await.unwrap().unwrap()).await;
        *statuses.entry(got.status).or_insert(0) += 1;
        if got.status == 503 {
            assert_eq!(got.body, "the client has too many requests under way\n");
        }
    }
    assert_eq!(statuses, [(200, 40), (503, 160)].into());
    // Their places are free again.
    assert_eq!(clients[0].send_request(ask()).await.unwrap().status(), 200);
    assert_eq!(world.count("refusedRequestLimit"), 160);
}

#[tokio::test]
async fn a_tunnel_keeps_the_place_of_its_connection() {
    let endpoint = Endpoint::serve(|mut request| async move {
        let _all = (request.body_mut()).collect().await;
        reversing_tunnel(&mut request)
    })
    .await;
    let mut setup = setup(&endpoint);
    setup.options.connections_per_client = 1;
    let world = setup.start();
    let mut tunnel = connect(&world, ONE).await;
    let text = b"GET / HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
    tunnel.write_all(text).await.unwrap();
    let mut bytes = [0; 12];
    tunnel.read_exact(&mut bytes).await.unwrap();
    assert_eq!(&bytes, b"HTTP/1.1 101");
    world.until("tunnels", 1).await;
    // The first of them may come while hyper still has the connection.
    for refused in 1..20 {
        is_refused(&world, ONE).await;
        assert_eq!(world.count("refusedClientLimit"), refused);
    }
    tunnel.write_all(b"ping").await.unwrap();
    let mut rest = Vec::new();
    tunnel.read_to_end(&mut rest).await.unwrap();
    assert!(rest.ends_with(b"gnip"), "{rest:?}");
    // The endpoint is through; the client could still send.
    drop(tunnel);
    soon("no connection", || world.redirector.open()["clientConnections"] == 0).await;
    let _next = connect(&world, ONE).await;
    soon("a connection", || world.redirector.open()["clientConnections"] == 1).await;
}
