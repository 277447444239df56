//! Asks as a gRPC client does: `sluice-grpc ADDRESS COUNT` sends so many calls over one HTTP/2 connection, and prints what
//! curl prints in the demo. curl 7.88 cannot: it breaks off a connection with prior knowledge at the second request.

use std::net::SocketAddr;

use anyhow::{Context as _, Result};
use http_body_util::{BodyExt as _, Empty};
use hyper::{Request, body::Bytes, client::conn::http2};
use hyper_util::rt::{TokioExecutor, TokioIo};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [to, count] = &words[..] else { anyhow::bail!("usage: sluice-grpc ADDRESS COUNT") };
    let (to, count): (SocketAddr, u32) = (to.parse()?, count.parse()?);
    let socket = tokio::net::TcpStream::connect(to).await?;
    let peer = socket.peer_addr()?;
    println!("connects 1");
    let (mut sender, connection) =
        http2::handshake(TokioExecutor::new(), TokioIo::new(socket)).await.context("no HTTP/2")?;
    tokio::spawn(connection);
    for _ in 0..count {
        let call = Request::post(format!("http://{to}/shop.Ratings/Get"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(Empty::<Bytes>::new())?;
        sender.ready().await?;
        let response = sender.send_request(call).await?;
        let status = response.status().as_u16();
        let body = response.into_body().collect().await?.to_bytes();
        print!("{}", String::from_utf8_lossy(&body));
        let error = if status == 200 { String::new() } else { format!("returned error: {status}") };
        println!("{} {} {error}", peer.ip(), peer.port());
    }
    Ok(())
}
