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
