//! Bodies, trailers and tunnels: what must flow, and how much may be kept.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::StreamExt;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::{Notify, mpsc},
    time::timeout,
};

use super::world::{AnyBody, Endpoint, Setup, read, request, rule, whole};

/// A body that is fed through a channel.
fn fed() -> (mpsc::UnboundedSender<Frame<Bytes>>, AnyBody) {
    let (sender, mut receiver) = mpsc::unbounded_channel();
    let stream = futures_util::stream::poll_fn(move |cx| receiver.poll_recv(cx).map(|frame| frame.map(Ok)));
    (sender, BodyExt::boxed(StreamBody::new(stream)))
}

#[tokio::test]
async fn grpc_streams_both_ways_and_its_trailers_pass() {
    // Gives back each message as it comes, then a status.
    let endpoint = Endpoint::serve(|request| async {
        let (sender, body) = fed();
        assert_eq!(request.headers()["te"], "trailers");
        let mut incoming = request.into_body();
        tokio::spawn(async move {
            let mut trailers = HeaderMap::new();
            while let Some(Ok(frame)) = incoming.frame().await {
                match frame.into_data() {
                    Ok(data) => sender.send(Frame::data(data)).unwrap(),
                    Err(frame) => trailers.extend(frame.into_trailers().unwrap()),
                }
            }
            trailers.insert("grpc-status", 0.into());
            sender.send(Frame::trailers(trailers)).unwrap();
        });
        Response::builder().header("content-type", "application/grpc").body(body).unwrap()
    })
    .await;
    let world =
        Setup { port: json!({"name": "grpc"}), ..Setup::http(&[&endpoint], json!([rule(json!({}))])) }
            .start();
    let mut client = world.http2().await;
    let (sender, body) = fed();
    let call = Request::post("http://reviews/chat").header("te", "trailers");
    let call = call.header("content-type", "application/grpc").body(body).unwrap();
    let mut answer = client.send_request(call).await.unwrap().into_body();
    // Each answer comes before the next message is sent: nothing waits for the end.
    for message in ["one", "two", "three"] {
        sender.send(Frame::data(Bytes::from(message))).unwrap();
        assert_eq!(answer.frame().await.unwrap().unwrap().into_data().unwrap(), message);
    }
    sender.send(Frame::trailers(HeaderMap::from_iter([("x-end".parse().unwrap(), 1.into())]))).unwrap();
    drop(sender);
    let trailers = answer.frame().await.unwrap().unwrap().into_trailers().unwrap();
    assert_eq!(
        (&trailers["grpc-status"], &trailers["x-end"]),
        (&"0".parse().unwrap(), &"1".parse().unwrap())
    );
    assert!(answer.frame().await.is_none());
}

/// The answer that makes a tunnel of it, whose end sends four bytes back the other way round.
pub fn reversing_tunnel(request: &mut Request<Incoming>) -> Response<AnyBody> {
    let upgraded = hyper::upgrade::on(request);
    tokio::spawn(async move {
        let mut socket = TokioIo::new(upgraded.await.unwrap());
        let mut bytes = [0; 4];
        socket.read_exact(&mut bytes).await.unwrap();
        bytes.reverse();
        socket.write_all(&bytes).await.unwrap();
    });
    let response = Response::builder().status(101).header("connection", "upgrade");
    response.header("upgrade", "websocket").header("sec-websocket-accept", "x").body(whole("")).unwrap()
}

#[tokio::test]
async fn a_tunnel_outlives_the_time_that_a_head_may_take() {
    let endpoint = Endpoint::serve(|mut request| async move { reversing_tunnel(&mut request) }).await;
    let mut setup = Setup::http(&[&endpoint], json!([rule(json!({}))]));
    setup.options.header_timeout = Duration::from_millis(500);
    let world = setup.start();
    let mut client = world.http1().await;
    let ask = request("GET /chat\nconnection: Upgrade\nupgrade: websocket").body(whole("")).unwrap();
    let response = client.0.send_request(ask).await.unwrap();
    assert_eq!(response.status(), 101);
    let mut socket = TokioIo::new(hyper::upgrade::on(response).await.unwrap());
    for byte in [b"p", b"i", b"n", b"g"] {
        socket.write_all(byte).await.unwrap();
        // Not to wait for something: this client is slower than a head may be.
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    let mut bytes = Vec::new();
    socket.read_to_end(&mut bytes).await.unwrap();
    assert_eq!(bytes, b"gnip");
    assert_eq!(world.count("refusedSlowHeaders"), 0);
}

#[tokio::test]
async fn a_websocket_becomes_a_tunnel() {
    let endpoint = Endpoint::serve(|mut request| async move {
        assert_eq!(request.headers()["upgrade"], "websocket");
        reversing_tunnel(&mut request)
    })
    .await;
    let world = Setup::http(&[&endpoint], json!([rule(json!({"timeout": "5s"}))])).start();
    let mut client = world.http1().await;
    let ask = request("GET /chat\nconnection: Upgrade\nupgrade: websocket").body(whole("")).unwrap();
    let response = client.0.send_request(ask).await.unwrap();
    assert_eq!(
        (response.status().as_u16(), &response.headers()["upgrade"]),
        (101, &"websocket".parse().unwrap())
    );
    assert_eq!(response.headers()["sec-websocket-accept"], "x");
    let mut socket = TokioIo::new(hyper::upgrade::on(response).await.unwrap());
    socket.write_all(b"ping").await.unwrap();
    let mut bytes = Vec::new();
    socket.read_to_end(&mut bytes).await.unwrap();
    assert_eq!((&*bytes, world.count("tunnels")), (&b"gnip"[..], 1));
}

#[tokio::test]
async fn a_websocket_over_http2_becomes_one_over_http1() {
    let endpoint = Endpoint::serve(|mut request| async move {
        let headers = request.headers();
        assert_eq!((request.method().as_str(), request.version()), ("GET", http::Version::HTTP_11));
        if !headers.contains_key("upgrade") {
            return Response::new(whole("plain"));
        }
        assert!(headers["upgrade"] == "websocket" && headers["connection"] == "upgrade", "{headers:?}");
        assert_eq!(headers["sec-websocket-key"].len(), 24);
        if request.uri().path() != "/chat" {
            return Response::new(whole("no"));
        }
        reversing_tunnel(&mut request)
    })
    .await;
    let aborted = rule(json!({"match": [{"uri": {"exact": "/direct"}, "method": {"exact": "GET"}}],
        "route": null, "directResponse": {"status": 200}}));
    let world = Setup::http(&[&endpoint], json!([aborted, rule(json!({"timeout": "5s"}))])).start();
    let mut client = world.http2().await;
    // Until the settings of the other side are there, a client may not ask.
    let direct = || request("GET http://reviews/direct").body(whole("")).unwrap();
    assert_eq!(read(client.send_request(direct()).await.unwrap()).await.status, 200);
    let chat = |path: &str| {
        let mut ask = request(&format!("CONNECT http://reviews{path}")).body(whole("")).unwrap();
        ask.extensions_mut().insert(hyper::ext::Protocol::from_static("websocket"));
        ask.headers_mut().insert("sec-websocket-version", "13".parse().unwrap());
        ask
    };
    let response = client.send_request(chat("/chat")).await.unwrap();
    assert_eq!(response.status(), 200);
    for name in ["upgrade", "connection", "sec-websocket-accept"] {
        assert!(!response.headers().contains_key(name), "{name} is HTTP/1's");
    }
    let mut socket = TokioIo::new(hyper::upgrade::on(response).await.unwrap());
    socket.write_all(b"ping").await.unwrap();
    let mut bytes = Vec::new();
    socket.read_to_end(&mut bytes).await.unwrap();
    assert_eq!((&*bytes, world.count("tunnels")), (&b"gnip"[..], 1));
    // An answer that is no change of protocol must not look like one.
    for path in ["/other", "/direct"] {
        assert_eq!(client.send_request(chat(path)).await.unwrap().status(), 502, "{path}");
    }
}

#[tokio::test]
async fn connect_becomes_a_tunnel() {
    let endpoint = Endpoint::serve(|mut request| async move {
        assert_eq!(request.uri(), "reviews:80");
        let upgraded = hyper::upgrade::on(&mut request);
        tokio::spawn(async move {
            let mut socket = TokioIo::new(upgraded.await.unwrap());
            socket.write_all(b"hello").await.unwrap();
        });
        Response::new(whole(""))
    })
    .await;
    let world = Setup::http(&[&endpoint], json!([rule(json!({}))])).start();
    let answer = world.raw(b"CONNECT reviews:80 HTTP/1.1\r\nhost: reviews:80\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("\r\n\r\nhello"), "{answer}");
}

#[tokio::test]
async fn a_long_body_streams_while_little_is_kept() {
    const CHUNK: usize = 64 << 10;
    const CHUNKS: usize = 320;
    for http2 in [false, true] {
        // The endpoint reads nothing until it is told to; what was sent by then lies somewhere between.
        let go = Arc::new(Notify::new());
        let wait = go.clone();
        let endpoint = Endpoint::serve(move |request| {
            let wait = wait.clone();
            async move {
                wait.notified().await;
                let body = request.into_body().collect().await.unwrap().to_bytes();
                Response::new(whole(body.len().to_string()))
            }
        })
        .await;
        let world = Setup::http(&[&endpoint], json!([rule(json!({}))])).start();
        let sent = Arc::new(AtomicUsize::new(0));
        let (counted, all_sent) = (sent.clone(), Arc::new(Notify::new()));
        let ended = all_sent.clone();
        let chunks = futures_util::stream::repeat_with(move || {
            if counted.fetch_add(1, Ordering::SeqCst) + 1 == CHUNKS {
                ended.notify_one();
            }
            Ok(Frame::data(Bytes::from_static(&[7; CHUNK])))
        });
        let body = BodyExt::boxed(StreamBody::new(chunks.take(CHUNKS)));
        let (mut client1, mut client2) = (world.http1().await, world.http2().await);
        let asked = tokio::spawn(async move {
            if http2 {
                client2.send_request(Request::post("http://reviews/").body(body).unwrap()).await
            } else {
                client1.0.send_request(request("POST /").body(body).unwrap()).await
            }
        });
        let stalled = timeout(Duration::from_secs(1), all_sent.notified()).await.is_err();
        assert!(stalled, "http2 {http2}: all was taken and nobody read it");
        go.notify_one();
        let got = read(asked.await.unwrap().unwrap()).await;
        assert_eq!(got.body, (CHUNK * CHUNKS).to_string());
    }
}

#[tokio::test]
async fn protocols_follow_the_port_and_lengths_stay() {
    let endpoint = Endpoint::serve(|request| async move {
        let head = request.method() == http::Method::HEAD;
        let body = request.into_body().collect().await.unwrap().to_bytes();
        Response::new(whole(if head { "four".into() } else { body }))
    })
    .await;
    for (case, port, want) in [
        ("http", json!({"name": "http"}), http::Version::HTTP_11),
        ("h2c", json!({"name": "x", "appProtocol": "kubernetes.io/h2c"}), http::Version::HTTP_2),
    ] {
        let world = Setup { port, ..Setup::http(&[&endpoint], json!([rule(json!({}))])) }.start();
        let mut client = world.http1().await;
        let got = client.send(request("POST /\nexpect: 100-continue").body(whole("four")).unwrap()).await;
        assert_eq!((&*got.body, &got.headers["content-length"]), ("four", &"4".parse().unwrap()), "{case}");
        assert_eq!(
            (endpoint.last().version, &endpoint.last().headers["content-length"]),
            (want, &"4".parse().unwrap())
        );
        let got = client.ask("HEAD /").await;
        assert_eq!((got.status, &*got.body), (200, ""), "{case}");
        assert_eq!(got.headers["content-length"], "4", "{case}");
    }
}

#[tokio::test]
async fn a_client_that_leaves_ends_its_request_at_the_endpoint() {
    struct Gone(mpsc::UnboundedSender<()>);
    impl Drop for Gone {
        fn drop(&mut self) {
            let _sent = self.0.send(());
        }
    }
    let (sender, mut gone) = mpsc::unbounded_channel();
    let (begun, mut begins) = mpsc::unbounded_channel();
    let endpoint = Endpoint::serve(move |_| {
        let (gone, begun) = (Gone(sender.clone()), begun.clone());
        async move {
            begun.send(()).unwrap();
            std::future::pending::<()>().await;
            drop(gone);
            Response::new(whole(""))
        }
    })
    .await;
    let world = Setup::http(&[&endpoint], json!([rule(json!({}))])).start();
    let mut client = world.http1().await;
    let asked = tokio::spawn(async move { client.ask("GET /").await });
    begins.recv().await.unwrap();
    asked.abort();
    gone.recv().await.unwrap();
    world.until("requestsAbandoned", 1).await;
}

#[tokio::test]
async fn a_long_answer_streams() {
    const LENGTH: usize = 20 << 20;
    let endpoint = Endpoint::serve(|_| async { Response::new(whole(vec![b'7'; LENGTH])) }).await;
    let world = Setup::http(&[&endpoint], json!([rule(json!({}))])).start();
    let got = world.ask("GET /").await;
    assert_eq!((got.body.len(), got.headers["content-length"].to_str().unwrap()), (LENGTH, "20971520"));
    let mut client = world.http2().await;
    let ask = Request::get("http://reviews/").body(whole("")).unwrap();
    assert_eq!(read(client.send_request(ask).await.unwrap()).await.body.len(), LENGTH);
}
