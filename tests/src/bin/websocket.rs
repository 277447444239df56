//! WebSocket by tungstenite, which we did not write: `sluice-websocket serve NAME PORT` greets with its name and echoes,
//! `sluice-websocket call URL ADDRESS COUNT` sends so many messages and prints one line of JSON at the end.

use std::net::Ipv6Addr;

use anyhow::{Context as _, Result, bail};
use futures::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::{
    accept_async, client_async,
    tungstenite::{Error, Message},
};

/// Bytes of each second message.
const LARGE: usize = 200_000;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words[..] {
        ["serve", name, port] => serve(name, port.parse()?).await,
        ["call", url, to, count] => {
            println!("{}", call(url, to, count.parse()?).await?);
            Ok(())
        }
        _ => bail!("usage: sluice-websocket serve NAME PORT | sluice-websocket call URL ADDRESS COUNT"),
    }
}

async fn serve(name: &str, port: u16) -> Result<()> {
    let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).await?;
    loop {
        let (socket, _) = listener.accept().await?;
        tokio::spawn(echo(name.to_owned(), socket));
    }
}

/// Until the client closes.
async fn echo(name: String, socket: TcpStream) -> Result<()> {
    let mut socket = accept_async(socket).await?;
    socket.send(Message::text(name)).await?;
    while let Some(message) = socket.next().await {
        let message = message?;
        if message.is_text() || message.is_binary() {
            socket.send(message).await?;
        }
    }
    Ok(())
}

/// What became of it: `by`, `echoed`, `pong`, `closed`; or `status` when the answer was none of a WebSocket.
async fn call(url: &str, to: &str, count: usize) -> Result<Value> {
    let socket = TcpStream::connect(to).await?;
    let mut socket = match client_async(url, socket).await {
        Ok((socket, _)) => socket,
        Err(Error::Http(response)) => return Ok(json!({"status": response.status().as_u16()})),
        Err(error) => return Err(error).context("no handshake"),
    };
    let greeting = socket.next().await.context("no greeting")??;
    let mut echoed = 0;
    for number in 0..count {
        let text = Message::text(format!("{number}"));
        let sent = if number % 2 == 0 { text } else { Message::binary(vec![number as u8; LARGE]) };
        socket.send(sent.clone()).await?;
        echoed += usize::from(socket.next().await.context("no echo")?? == sent);
    }
    socket.send(Message::Ping(vec![7].into())).await?;
    let pong = socket.next().await.context("no pong")??.is_pong();
    socket.close(None).await?;
    let closed = loop {
        match socket.next().await {
            None => break true,
            Some(Ok(_)) => {}
            Some(Err(_)) => break false,
        }
    };
    Ok(json!({"by": greeting.into_text()?.as_str(), "echoed": echoed, "pong": pong, "closed": closed}))
}
