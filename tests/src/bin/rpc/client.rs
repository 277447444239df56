//! The client: tonic's channel, one connection.

use std::time::Duration;

use anyhow::{Context as _, Result};
use http::uri::PathAndQuery;
use serde_json::json;
use tonic::{Request, Status, client::Grpc, metadata::MetadataMap, transport::Endpoint};

use super::text::Text;

/// Asks `count` times, one after the other.
pub async fn call(to: &str, method: &str, count: u32, deadline_ms: Option<u64>) -> Result<()> {
    let channel = Endpoint::from_shared(format!("http://{to}"))?.connect().await.context("no HTTP/2")?;
    let mut client = Grpc::new(channel);
    let path: PathAndQuery = format!("/shop.Echo/{method}").parse()?;
    for number in 0..count {
        client.ready().await.context("the channel is broken")?;
        let mut request = Request::new(format!("{number}"));
        if let Some(deadline_ms) = deadline_ms {
            request.set_timeout(Duration::from_millis(deadline_ms));
        }
        let line = if method == "Count" {
            stream(&mut client, request, path.clone()).await
        } else {
            match client.unary(request, path.clone(), Text).await {
                Ok(answer) => json!({"code": 0, "messages": [answer.into_inner()]}),
                Err(status) => failed(&status, &[]),
            }
        };
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
