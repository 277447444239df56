//! The server: tonic's half of it on hyper's HTTP/2.

use std::{convert::Infallible, net::Ipv6Addr, pin::Pin, sync::Arc, time::Duration};

use anyhow::Result;
use futures::{Stream, StreamExt as _, future::BoxFuture, stream};
use hyper::{body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpListener;
use tonic::{
    Request, Response, Status,
    server::{Grpc, ServerStreamingService, UnaryService},
};

use super::text::Text;

/// How many messages a stream has.
const MESSAGES: usize = 5;

/// Serves for ever, on all addresses. `Say` answers with the name; `Deadline` with the deadline that it was given; `Slow`
/// after ten seconds; `Flaky` not at all at a server whose name ends in 1; `Count` with a stream that fails in the end.
pub async fn serve(name: &str, port: u16) -> Result<()> {
    let name: Arc<str> = name.into();
    let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).await?;
    loop {
        let (socket, _) = listener.accept().await?;
        let name = name.clone();
        tokio::spawn(async move {
            let service = service_fn(|call| answer(name.clone(), call));
            http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(socket), service).await
        });
    }
}

async fn answer(
    name: Arc<str>,
    call: http::Request<Incoming>,
) -> Result<http::Response<tonic::body::Body>, Infallible> {
    let method = call.uri().path().trim_start_matches("/shop.Echo/").to_owned();
    let mut grpc = Grpc::new(Text);
    let echo = Echo { name, method };
    Ok(if echo.method == "Count" {
        grpc.server_streaming(echo, call).await
    } else {
        grpc.unary(echo, call).await
    })
}

struct Echo {
    name: Arc<str>,
    method: String,
}

impl UnaryService<String> for Echo {
    type Response = String;
    type Future = BoxFuture<'static, Result<Response<String>, Status>>;

    fn call(&mut self, request: Request<String>) -> Self::Future {
        let (name, method) = (self.name.clone(), self.method.clone());
        Box::pin(async move {
            match method.as_str() {
                "Flaky" if name.ends_with('1') => Err(Status::unavailable("not me")),
                "Slow" => {
                    tokio::time::sleep(Duration::from_secs(10)).await;
                    Ok(Response::new(name.to_string()))
                }
                "Deadline" => {
                    let given = request.metadata().get("grpc-timeout").and_then(|value| value.to_str().ok());
                    Ok(Response::new(given.unwrap_or("none").to_owned()))
                }
                _ => Ok(Response::new(name.to_string())),
            }
        })
    }
}

impl ServerStreamingService<String> for Echo {
    type Response = String;
    type ResponseStream = Pin<Box<dyn Stream<Item = Result<String, Status>> + Send>>;
    type Future = BoxFuture<'static, Result<Response<Self::ResponseStream>, Status>>;

    fn call(&mut self, _request: Request<String>) -> Self::Future {
        let name = self.name.clone();
        let mut end = Status::data_loss("the end");
        if let Ok(value) = name.parse() {
            end.metadata_mut().insert("x-end", value);
        }
        let messages = stream::iter(0..MESSAGES).map(move |number| Ok(format!("{name} {number}")));
        let all: Self::ResponseStream = Box::pin(messages.chain(stream::iter([Err(end)])));
        Box::pin(async move { Ok(Response::new(all)) })
    }
}
