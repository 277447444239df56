//! Sessions as WebSocket has them: requests that switch protocols and go on as bytes both ways. One that has lived for a
//! while ends by itself and another one begins, for a redirector that goes waits a minute for it and no longer.

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpStream},
    sync::Arc,
    time::{Duration, Instant},
};

use super::{Cluster, Runner, Shared, cluster::UPGRADED, http2::move_into};

const CLIENTS: usize = 4;
const ECHOES: usize = 20;
const PATIENCE: Duration = Duration::from_secs(10);
const LIFE: Duration = Duration::from_secs(20);
const SWITCHED: &[u8] = b"HTTP/1.1 101 ";

/// A client, and its session if it has one.
struct Client {
    netns: String,
    to: SocketAddr,
    is_inside: bool,
    session: Option<(TcpStream, Instant)>,
    count: u64,
}

pub fn start(cluster: &Cluster, shared: &Arc<Shared>) -> Vec<Runner> {
    let to = crate::peer::address(UPGRADED);
    let netns = format!("/run/netns/{}", cluster.inside.netns);
    let clients =
        (0..CLIENTS).map(|_| Client { netns: netns.clone(), to, is_inside: false, session: None, count: 0 });
    clients.map(|mut client| Runner::start(shared, 1, move |shared| client.round(shared))).collect()
}

impl Client {
    fn round(&mut self, shared: &Shared) -> Vec<String> {
        if !std::mem::replace(&mut self.is_inside, true) {
            move_into(&self.netns);
        }
        let mut lost = Vec::new();
        for _ in 0..ECHOES {
            let session = self.session.take().filter(|(stream, since)| {
                let stays = since.elapsed() < LIFE;
                // The end of a session that has nothing on its way.
                stays || stream.shutdown(Shutdown::Both).is_err()
            });
            let since = session.as_ref().map_or_else(Instant::now, |(_, since)| *since);
            self.count += 1;
            let stream = session.map_or_else(|| switch(self.to), |(stream, _)| Ok(stream));
            match stream.and_then(|stream| echo(stream, self.count)) {
                Ok(stream) => self.session = Some((stream, since)),
                Err(error) => {
                    let error = format!("a session of {} since {:?}: {error}", self.to, since.elapsed());
                    lost.extend(shared.judge(since, error));
                }
            }
        }
        lost
    }
}

/// A connection whose protocol is switched.
fn switch(to: SocketAddr) -> Result<TcpStream, String> {
    let mut stream =
        TcpStream::connect_timeout(&to, PATIENCE).map_err(|error| format!("connect: {error}"))?;
    stream.set_read_timeout(Some(PATIENCE)).map_err(|error| error.to_string())?;
    let request =
        format!("GET /chat HTTP/1.1\r\nHost: {to}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n");
    stream.write_all(request.as_bytes()).map_err(|error| format!("a request: {error}"))?;
    let (mut head, mut byte) = (Vec::<u8>::new(), [0_u8]);
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).map_err(|error| format!("its answer: {error}"))?;
        head.extend(byte);
    }
    if head.starts_with(SWITCHED) { Ok(stream) } else { Err(String::from_utf8_lossy(&head).into_owned()) }
}

/// Sends a line, which comes back.
fn echo(mut stream: TcpStream, count: u64) -> Result<TcpStream, String> {
    let line = format!("{count:>63}\n");
    stream.write_all(line.as_bytes()).map_err(|error| format!("a line: {error}"))?;
    let mut back = vec![0; line.len()];
    stream.read_exact(&mut back).map_err(|error| format!("its echo: {error}"))?;
    if back == line.as_bytes() { Ok(stream) } else { Err("another line came back".to_owned()) }
}
