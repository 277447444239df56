//! Change and end: new snapshots, frontends that go, draining.

use std::time::Duration;

use serde_json::json;
use sluice::redirector::{Options, Redirector};
use tokio::{io::AsyncReadExt, net::TcpStream};

use super::world::{Endpoint, Setup, World, rule, whole};

#[tokio::test]
async fn a_new_snapshot_holds_for_the_next_request_of_an_open_connection() {
    let (a, b) = (Endpoint::named("a").await, Endpoint::named("b").await);
    let world = Setup::http(&[&a], json!([rule(json!({}))])).start();
    let mut client = world.http1().await;
    assert_eq!(client.ask("GET /").await.body, "a");
    let next = Setup::http(&[&b], json!([rule(json!({"rewrite": {"uri": "/new"}}))]));
    world.redirector.apply(next.snapshot(world.front));
    assert_eq!(client.ask("GET /").await.body, "b");
    assert_eq!(b.last().uri, "/new");
    world.redirector.apply(Default::default());
    let got = client.ask("GET /").await;
    assert_eq!((got.status, &got.headers["connection"]), (503, &"close".parse().unwrap()));
}

#[tokio::test]
async fn a_connection_to_an_unknown_frontend_is_closed() {
    let world = Setup::http(&[], json!([rule(json!({}))])).start();
    world.redirector.apply(Default::default());
    assert_eq!(world.raw(b"").await, "");
    assert_eq!(world.count("refusedUnknownFrontend"), 1);
}

#[tokio::test]
async fn objects_that_cannot_be_read_are_named_and_left_out() {
    let endpoint = Endpoint::named("a").await;
    let world = Setup::http(&[&endpoint], json!([rule(json!({}))])).start();
    let broken = Setup::http(&[&endpoint], json!([rule(json!({"timeout": "soon"}))]));
    let left_out = world.redirector.apply(broken.snapshot(world.front));
    assert_eq!(left_out.len(), 1);
    assert!(left_out[0].starts_with("VirtualService shop/reviews: "), "{left_out:?}");
    assert_eq!(world.ask("GET /").await.body, "a");
}

#[tokio::test]
async fn a_client_has_so_many_connections() {
    let endpoint = Endpoint::named("a").await;
    let mut setup = Setup::http(&[&endpoint], json!([rule(json!({}))]));
    setup.options.connections_per_client = 1;
    let world = setup.start();
    let mut first = world.http1().await;
    assert_eq!(first.ask("GET /").await.status, 200);
    // It is reset, maybe before it is told that it is made.
    if let Ok(mut second) = TcpStream::connect(world.front).await {
        assert_eq!(second.read(&mut [0]).await.unwrap_or(0), 0);
    }
    world.until("refusedClientLimit", 1).await;
}

#[tokio::test]
async fn draining_lets_requests_finish_and_takes_no_more() {
    let (go, wait) = tokio::sync::oneshot::channel::<()>();
    let wait = std::sync::Mutex::new(Some(wait));
    let (begun, mut begins) = tokio::sync::mpsc::unbounded_channel();
    let endpoint = Endpoint::serve(move |_| {
        let wait = wait.lock().unwrap().take().unwrap();
        begun.send(()).unwrap();
        async move {
            wait.await.unwrap();
            http::Response::new(whole("finished"))
        }
    })
    .await;
    let world = Setup::http(&[&endpoint], json!([rule(json!({}))])).start();
    let front = world.front;
    let (_idle1, _idle2) = (world.http1().await, world.http2().await);
    let mut client = world.http1().await;
    let asked = tokio::spawn(async move { client.ask("GET /").await });
    begins.recv().await.unwrap();
    let drained = tokio::task::spawn_blocking(move || world.redirector.drain(Duration::from_secs(20)));
    while TcpStream::connect(front).await.is_ok() {
        tokio::task::yield_now().await;
    }
    go.send(()).unwrap();
    assert_eq!(asked.await.unwrap().body, "finished");
    let before = std::time::Instant::now();
    drained.await.unwrap();
    assert!(before.elapsed() < Duration::from_secs(10), "idle connections were waited for");
}

#[tokio::test]
async fn workers_share_the_configuration_and_their_counters_add_up() {
    let endpoint = Endpoint::named("a").await;
    let listeners: Vec<_> = (0..3).map(|_| std::net::TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    let fronts: Vec<_> = listeners.iter().map(|listener| listener.local_addr().unwrap()).collect();
    let mut listeners = listeners.into_iter();
    let per_worker = vec![listeners.by_ref().take(2).collect(), listeners.collect()];
    let redirector = Redirector::start(per_worker, Options::default()).unwrap();
    let mut snapshot = Setup::http(&[&endpoint], json!([rule(json!({}))])).snapshot(fronts[0]);
    snapshot.services[0].ports[0].frontends.clone_from(&fronts);
    redirector.apply(snapshot);
    let mut world = World { front: fronts[0], redirector };
    for front in fronts {
        world.front = front;
        assert_eq!(world.ask("GET /").await.body, "a");
    }
    assert_eq!((world.count("requests"), world.count("upstreamConnections")), (3, 2));
}
