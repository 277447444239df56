//! What the agent's HTTP servers share: connections and answers. What they answer is elsewhere.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::Result;
use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::{CONTENT_TYPE, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

/// Long enough for any scrape; a place is not held for ever.
const LONGEST_CONNECTION: Duration = Duration::from_secs(300);
/// Open connections at once; more wait.
const MOST_CONNECTIONS: usize = 64;

/// A whole response.
pub type Answer = Response<Full<Bytes>>;

/// Answers requests on `listener` for ever, by method, path and whether somebody on
/// this node asks. When the future is dropped, its connections end with it.
///
/// # Errors
/// Never by itself; a connection that fails concerns only its client.
pub async fn serve(
    listener: TcpListener,
    answer: Arc<impl Fn(&Method, &str, bool) -> Answer + Send + Sync + 'static>,
) -> Result<()> {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            Some(_) = connections.join_next() => {}
            accepted = listener.accept(), if connections.len() < MOST_CONNECTIONS => match accepted {
                Ok((stream, peer)) => drop(connections.spawn(connection(stream, peer, Arc::clone(&answer)))),
                // Out of file descriptors, most likely: they come back.
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    }
}

async fn connection(
    stream: TcpStream,
    peer: SocketAddr,
    answer: Arc<impl Fn(&Method, &str, bool) -> Answer + Send + Sync + 'static>,
) {
    // Whoever asks one of the node's addresses from the node has that very address.
    let own = stream.local_addr().is_ok_and(|own| own.ip() == peer.ip());
    let near = own || peer.ip().to_canonical().is_loopback();
    let answer = service_fn(|request: Request<Incoming>| {
        let response = answer(request.method(), request.uri().path(), near);
        async move { Ok::<_, std::convert::Infallible>(response) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_secs(5))
        .serve_connection(TokioIo::new(stream), answer);
    match tokio::time::timeout(LONGEST_CONNECTION, connection).await {
        Ok(Ok(())) | Err(_) => {}
        Ok(Err(error)) => tracing::debug!(%error, "a connection to the agent ended early"),
    }
}

/// A response of plain text.
pub fn text(status: StatusCode, body: String) -> Answer {
    respond(status, "text/plain; charset=utf-8", body)
}

/// A response of JSON.
pub fn json(status: StatusCode, body: String) -> Answer {
    respond(status, "application/json", body)
}

fn respond(status: StatusCode, kind: &'static str, body: String) -> Answer {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}
