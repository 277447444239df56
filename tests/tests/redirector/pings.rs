//! `http2KeepAlive`: an endpoint that has fallen silent is found out before a request is.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
};

use serde_json::json;
use sluice_tests::wait::DEADLINE;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::timeout,
};

use super::world::{Endpoint, Setup, read, request, rule, whole};

/// A wire to `to`, on which nothing goes through any more once `cut` has a place; then the first connection's end adds one
/// to `ended`.
async fn wire(to: SocketAddr, cut: Arc<Semaphore>, ended: Arc<Semaphore>) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut near, _) = listener.accept().await.unwrap();
        let mut far = TcpStream::connect(to).await.unwrap();
        tokio::select! {
            _ = tokio::io::copy_bidirectional(&mut near, &mut far) => panic!("the wire ended before it was cut"),
            _ = cut.acquire() => {}
        }
        // Whatever comes is lost, pings among it.
        let mut lost = Vec::new();
        let _ended = near.read_to_end(&mut lost).await;
        ended.add_permits(1);
        while let Ok((mut near, _)) = listener.accept().await {
            let mut far = TcpStream::connect(to).await.unwrap();
            tokio::spawn(async move {
                let _over = tokio::io::copy_bidirectional(&mut near, &mut far).await;
                let _closed = far.shutdown().await;
            });
        }
    });
    address
}

#[tokio::test]
async fn a_connection_whose_pings_are_not_answered_is_closed_and_another_is_made() {
    let endpoint = Endpoint::named("reviews").await;
    let (cut, ended) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
    let wire = Endpoint::at(wire(endpoint.address, cut.clone(), ended.clone()).await);
    let pings = json!({"interval": "100ms", "timeout": "200ms"});
    let http = json!({"http2KeepAlive": pings, "idleTimeout": "60s"});
    let traffic = json!({"connectionPool": {"http": http}});
    let world = Setup { traffic, ..Setup::http(&[&wire], json!([rule(json!({}))])) }.start();
    let mut client = world.http2().await;
    let ask = || request("GET http://reviews/").body(whole("")).unwrap();
    assert_eq!(read(client.send_request(ask()).await.unwrap()).await.status, 200);
    cut.add_permits(1);
    let _found = timeout(DEADLINE, ended.acquire()).await.expect("the silent connection is closed").unwrap();
    assert_eq!(read(client.send_request(ask()).await.unwrap()).await.status, 200);
    assert_eq!((endpoint.hits(), world.count("upstreamConnections")), (2, 2));
}
