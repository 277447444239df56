//! Timeouts and retries, and what is never tried twice.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use http_body_util::BodyExt;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use super::world::{Endpoint, Setup, request, rule, whole};

/// Never answers.
async fn silent() -> Endpoint {
    Endpoint::serve(|_| std::future::pending()).await
}

#[tokio::test]
async fn a_route_that_takes_too_long_is_answered_504() {
    let endpoint = silent().await;
    let world = Setup::http(&[&endpoint], json!([rule(json!({"timeout": "50ms"}))])).start();
    let got = world.ask("GET /").await;
    assert_eq!((got.status, &*got.body), (504, "the endpoint took too long\n"));
    let got = world.ask("POST /\ncontent-type: application/grpc").await;
    assert_eq!((got.status, got.headers["grpc-status"].to_str().unwrap()), (200, "4"));
    assert_eq!(world.count("timeouts"), 2);
}

#[tokio::test]
async fn a_timeout_cuts_an_answer_that_has_begun() {
    use bytes::Bytes;
    use http_body_util::StreamBody;
    use hyper::body::Frame;
    let endpoint = Endpoint::serve(|_| async {
        let first = futures_util::stream::once(async { Ok(Frame::data(Bytes::from_static(b"begun"))) });
        let body = futures_util::StreamExt::chain(first, futures_util::stream::pending());
        http::Response::new(BodyExt::boxed(StreamBody::new(body)))
    })
    .await;
    let world = Setup::http(&[&endpoint], json!([rule(json!({"timeout": "100ms"}))])).start();
    let mut client = world.http1().await;
    let response = client.0.send_request(request("GET /").body(whole("")).unwrap()).await.unwrap();
    assert_eq!(response.status(), 200);
    assert!(response.into_body().collect().await.is_err());
}

#[tokio::test]
async fn a_failed_connection_moves_to_another_endpoint() {
    let (nobody, good) = (Endpoint::nobody().await, Endpoint::named("good").await);
    // No retries are named: this is what rules do by default.
    let world = Setup::http(&[&nobody, &good], json!([rule(json!({}))])).start();
    for _ in 0..20 {
        assert_eq!(world.ask("GET /").await.body, "good");
    }
    assert!(world.count("retries") > 0);
    assert_eq!(world.count("retries"), world.count("upstreamConnectFailures"));
}

#[tokio::test]
async fn answers_are_retried_as_the_rule_says() {
    for (case, retries, status, want_status, want_hits) in [
        ("5xx", json!({"attempts": 2, "retryOn": "5xx"}), 500, 500, 3),
        ("other status", json!({"attempts": 2, "retryOn": "5xx"}), 404, 404, 1),
        ("code", json!({"attempts": 1, "retryOn": "418"}), 418, 418, 2),
        ("off", json!({"attempts": 0}), 503, 503, 1),
        ("default leaves 503", json!(null), 503, 503, 1),
    ] {
        let endpoint = Endpoint::status(status).await;
        let fields = if retries.is_null() { json!({}) } else { json!({"retries": retries}) };
        let world = Setup::http(&[&endpoint], json!([rule(fields)])).start();
        let got = world.ask("GET /").await;
        assert_eq!((got.status, endpoint.hits()), (want_status, want_hits), "{case}");
    }
}

#[tokio::test]
async fn an_unavailable_grpc_endpoint_is_tried_again_by_default() {
    for (case, code, want_hits) in [("unavailable", 14, 3), ("internal", 13, 1)] {
        let endpoint = Endpoint::serve(move |_| async move {
            http::Response::builder().header("grpc-status", code).body(whole("")).unwrap()
        })
        .await;
        let world = Setup::http(&[&endpoint], json!([rule(json!({}))])).start();
        let got = world.ask("POST /\ncontent-type: application/grpc").await;
        assert_eq!((got.status, endpoint.hits()), (200, want_hits), "{case}");
    }
}

#[tokio::test]
async fn a_slow_try_is_retried_only_where_the_rule_says_so() {
    for (case, on, want_status, want_hits) in
        [("5xx", "5xx", 200, 2), ("connect-failure", "connect-failure", 504, 1)]
    {
        let calls = Arc::new(AtomicU32::new(0));
        let endpoint = Endpoint::serve(move |_| {
            let first = calls.fetch_add(1, Ordering::SeqCst) == 0;
            async move {
                if first {
                    std::future::pending::<()>().await;
                }
                http::Response::new(whole("second"))
            }
        })
        .await;
        let retries = json!({"attempts": 1, "retryOn": on, "perTryTimeout": "100ms"});
        let world = Setup::http(&[&endpoint], json!([rule(json!({"retries": retries}))])).start();
        let got = world.ask("GET /").await;
        assert_eq!((got.status, endpoint.hits()), (want_status, want_hits), "{case}");
    }
}

#[tokio::test]
async fn a_short_body_is_sent_again_and_a_long_one_only_once() {
    for (case, length, want_status, want_hits) in [("short", 60_000, 200, 2), ("long", 3_000_000, 503, 1)] {
        let calls = Arc::new(AtomicU32::new(0));
        let endpoint = Endpoint::serve(move |request| {
            let first = calls.fetch_add(1, Ordering::SeqCst) == 0;
            async move {
                let body = request.into_body().collect().await.unwrap().to_bytes();
                assert_eq!(body.len(), length);
                let status = if first { 503 } else { 200 };
                http::Response::builder().status(status).body(whole("")).unwrap()
            }
        })
        .await;
        let retries = json!({"attempts": 1, "retryOn": "5xx"});
        let world = Setup::http(&[&endpoint], json!([rule(json!({"retries": retries}))])).start();
        let body = vec![b'x'; length];
        let got = world.http1().await.send(request("POST /").body(whole(body)).unwrap()).await;
        assert_eq!((got.status, endpoint.hits()), (want_status, want_hits), "{case}");
    }
}

/// Answers one request per connection, closes silently, and counts connections and requests.
async fn forgetful() -> (Endpoint, Arc<AtomicU32>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = Endpoint::at(listener.local_addr().unwrap());
    let requests = Arc::new(AtomicU32::new(0));
    let counted = requests.clone();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let counted = counted.clone();
            tokio::spawn(async move {
                let mut buffer = [0; 4096];
                let _head = socket.read(&mut buffer).await;
                counted.fetch_add(1, Ordering::SeqCst);
                socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
                // The next request is read and left without an answer.
                if matches!(socket.read(&mut buffer).await, Ok(1..)) {
                    counted.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
    });
    (endpoint, requests)
}

#[tokio::test]
async fn a_dead_idle_connection_is_replaced_where_that_is_safe() {
    for (case, method, want) in [("idempotent", "GET", 200), ("not idempotent", "POST", 503)] {
        let (endpoint, requests) = forgetful().await;
        let world = Setup::http(&[&endpoint], json!([rule(json!({}))])).start();
        let mut client = world.http1().await;
        assert_eq!(client.ask("GET /").await.status, 200);
        let got = client.ask(&format!("{method} /")).await;
        assert_eq!(got.status, want, "{case}");
        assert_eq!(requests.load(Ordering::SeqCst), if want == 200 { 3 } else { 2 }, "{case}");
    }
}

#[tokio::test]
async fn a_refused_stream_is_retried_by_default() {
    // An HTTP/2 endpoint by hand: settings, then RST_STREAM with REFUSED_STREAM for the first stream.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let refusing = Endpoint::at(listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            tokio::spawn(async move {
                socket.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.unwrap();
                let mut preface = [0; 24];
                socket.read_exact(&mut preface).await.unwrap();
                let mut header = [0; 9];
                while socket.read_exact(&mut header).await.is_ok() {
                    let length = u32::from_be_bytes([0, header[0], header[1], header[2]]);
                    let mut content = vec![0; length as usize];
                    socket.read_exact(&mut content).await.unwrap();
                    if header[3] == 1 {
                        let stream = &header[5..];
                        socket.write_all(&[&[0, 0, 4, 3, 0], stream, &[0, 0, 0, 7]].concat()).await.unwrap();
                    }
                }
            });
        }
    });
    let good = Endpoint::named("good").await;
    let traffic = json!({"loadBalancer": {"simple": "ROUND_ROBIN"}});
    let world = Setup { traffic, ..Setup::http(&[&refusing, &good], json!([rule(json!({}))])) }.start();
    let mut client = world.http2().await;
    let ask = http::Request::builder().uri("http://reviews/").body(whole("")).unwrap();
    let got = super::world::read(client.send_request(ask).await.unwrap()).await;
    assert_eq!((got.status, &*got.body), (200, "good"));
    assert_eq!(world.count("retries"), 1);
}
