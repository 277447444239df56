//! The client: tonic's channel, one connection.

use std::{
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU32, Ordering},
    },
    task::{Context as Task, Poll},
    time::Duration,
};

use anyhow::{Context as _, Result};
use http::{Uri, uri::PathAndQuery};
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::net::TcpStream;
use tonic::{Request, Status, client::Grpc, codegen::Service, metadata::MetadataMap, transport::Endpoint};

use super::text::Text;

/// Makes the channel's connections, and counts them: a channel would make another one without a word.
#[derive(Clone)]
struct Dial {
    to: SocketAddr,
    made: Arc<AtomicU32>,
    /// Whom the first connection leads to, as the socket has it.
    peer: Arc<OnceLock<SocketAddr>>,
}

impl Service<Uri> for Dial {
    type Response = TokioIo<TcpStream>;
    type Error = std::io::Error;
    type Future = Pin<Box<dyn Future<Output = std::io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Task<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let (to, made, peer) = (self.to, self.made.clone(), self.peer.clone());
        Box::pin(async move {
            let socket = TcpStream::connect(to).await?;
            socket.set_nodelay(true)?;
            peer.get_or_init(|| socket.peer_addr().unwrap_or(to));
            made.fetch_add(1, Ordering::Relaxed);
            Ok(TokioIo::new(socket))
        })
    }
}

/// Asks `count` times, one after the other; each line says over how many connections so far, and to whom.
pub async fn call(to: &str, method: &str, count: u32, deadline_ms: Option<u64>) -> Result<()> {
    let to_address = to.parse().context("not ADDRESS:PORT")?;
    let dial = Dial { to: to_address, made: Arc::default(), peer: Arc::default() };
    let (made, peer) = (dial.made.clone(), dial.peer.clone());
    let endpoint = Endpoint::from_shared(format!("http://{to}"))?;
    let channel = endpoint.connect_with_connector(dial).await.context("no HTTP/2")?;
    let mut client = Grpc::new(channel);
    let path: PathAndQuery = format!("/shop.Echo/{method}").parse()?;
    for number in 0..count {
        client.ready().await.context("the channel is broken")?;
        let mut request = Request::new(format!("{number}"));
        if let Some(deadline_ms) = deadline_ms {
            request.set_timeout(Duration::from_millis(deadline_ms));
        }
        let mut line = if method == "Count" {
            stream(&mut client, request, path.clone()).await
        } else {
            match client.unary(request, path.clone(), Text).await {
                Ok(answer) => json!({"code": 0, "messages": [answer.into_inner()]}),
                Err(status) => failed(&status, &[]),
            }
        };
        line["peer"] = peer.get().map(SocketAddr::to_string).into();
        line["connections"] = made.load(Ordering::Relaxed).into();
        println!("{line}");
    }
    Ok(())
}

async fn stream(
    client: &mut Grpc<tonic::transport::Channel>,
    request: Request<String>,
    path: PathAndQuery,
) -> serde_json::Value {
    let mut answers = match client.server_streaming(request, path, Text).await {
        Ok(answer) => answer.into_inner(),
        Err(status) => return failed(&status, &[]),
    };
    let mut messages = Vec::new();
    loop {
        match answers.message().await {
            Ok(Some(message)) => messages.push(message),
            Ok(None) => break,
            Err(status) => return failed(&status, &messages),
        }
    }
    let trailers = answers.trailers().await.ok().flatten().unwrap_or_default();
    json!({"code": 0, "messages": messages, "end": end(&trailers)})
}

fn failed(status: &Status, messages: &[String]) -> serde_json::Value {
    let code = status.code() as i32;
    json!({"code": code, "text": status.message(), "messages": messages, "end": end(status.metadata())})
}

fn end(metadata: &MetadataMap) -> &str {
    metadata.get("x-end").and_then(|value| value.to_str().ok()).unwrap_or_default()
}
