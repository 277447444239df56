//! What the agent says of itself at its admin address.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};

use crate::health::State;

/// Between two parts of the answer.
const SILENCE: Duration = Duration::from_secs(2);

/// How much somebody who has the agent's address may say, and for how long.
struct Limits {
    bytes: usize,
    time: Duration,
}

const LIMITS: Limits = Limits { bytes: 64 << 20, time: Duration::from_secs(10) };

/// Fetches the agent's state.
///
/// # Errors
/// Nobody answers, or it is not the agent.
pub fn state(admin: SocketAddr) -> Result<State> {
    let mut stream = TcpStream::connect_timeout(&admin, SILENCE)?;
    stream.set_write_timeout(Some(SILENCE))?;
    let request = format!("GET /state HTTP/1.1\r\nHost: {admin}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let answer = answer(&mut stream, &LIMITS)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("the answer is not HTTP")?;
    if !head.starts_with("HTTP/1.1 200") {
        bail!("the answer is {:?}", head.lines().next().unwrap_or_default());
    }
    serde_json::from_str(body).context("the answer is not the state of an agent of this version")
}

fn answer(stream: &mut TcpStream, limits: &Limits) -> Result<String> {
    let end = Instant::now() + limits.time;
    let (mut bytes, mut part) = (Vec::new(), vec![0; 64 << 10]);
    loop {
        let left = end.saturating_duration_since(Instant::now());
        ensure!(!left.is_zero(), "the answer takes more than {:?}", limits.time);
        stream.set_read_timeout(Some(left.min(SILENCE)))?;
        match stream.read(&mut part)? {
            0 => return String::from_utf8(bytes).context("the answer is no text"),
            length => bytes.extend_from_slice(&part[..length]),
        }
        ensure!(bytes.len() <= limits.bytes, "the answer has more than {} bytes", limits.bytes);
    }
}

#[cfg(test)]
mod tests {
    use std::{net::TcpListener, thread};

    use super::*;

    /// What comes of a server that says `part` until nobody listens, with a pause before each.
    fn said(part: &'static [u8], pause: Duration, limits: &Limits) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let server = thread::spawn(move || {
            let (mut to, _) = listener.accept().unwrap();
            while to.write_all(part).is_ok() {
                thread::sleep(pause);
            }
        });
        let error = answer(&mut stream, limits).unwrap_err().to_string();
        drop(stream);
        server.join().unwrap();
        error
    }

    #[test]
    fn who_never_ends_is_not_listened_to_for_ever() {
        let limits = Limits { bytes: 1 << 20, time: Duration::from_secs(60) };
        assert_eq!(said(&[b'a'; 4096], Duration::ZERO, &limits), "the answer has more than 1048576 bytes");
        let limits = Limits { time: Duration::from_millis(100), ..limits };
        let error = said(b"a", Duration::from_millis(1), &limits);
        assert_eq!(error, "the answer takes more than 100ms");
    }
}
