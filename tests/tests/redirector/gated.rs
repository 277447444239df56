//! Endpoints that answer when they are let, and requests that wait for that.

use std::sync::Arc;

use http_body_util::BodyExt;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::Semaphore,
    task::JoinHandle,
};

use super::world::{Endpoint, World, whole};

/// Answers `late`, to as many requests as `gate` has places; the others wait.
pub async fn gated(gate: &Arc<Semaphore>) -> Endpoint {
    let gate = gate.clone();
    Endpoint::serve(move |request| {
        let gate = gate.clone();
        async move {
            let _all = request.into_body().collect().await;
            gate.acquire().await.unwrap().forget();
            http::Response::new(whole("late"))
        }
    })
    .await
}

/// Starts a request that is answered once someone opens the gate: status and body.
pub fn start(world: &World) -> JoinHandle<(u16, String)> {
    let front = world.front;
    tokio::spawn(async move {
        let mut socket = TcpStream::connect(front).await.unwrap();
        let text = b"GET / HTTP/1.1\r\nhost: reviews\r\nconnection: close\r\n\r\n";
        socket.write_all(text).await.unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).await.unwrap();
        let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
        (status, answer.split("\r\n\r\n").nth(1).unwrap().to_owned())
    })
}
