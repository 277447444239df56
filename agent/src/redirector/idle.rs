//! A socket that remembers when something last went through it.

use std::{
    cell::Cell,
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{Instant, sleep_until},
};

/// Nothing is waited for longer: a year is for ever, and keeps clocks from overflowing.
const FOR_EVER: Duration = Duration::from_secs(365 * 24 * 3600);

/// A socket whose use is noted.
#[derive(Debug)]
pub struct Watched {
    socket: TcpStream,
    used: Used,
}

/// When the socket was used.
#[derive(Clone, Debug)]
pub struct Used(Rc<Cell<Instant>>);

impl Watched {
    /// The socket, used now, and what tells of it.
    pub fn new(socket: TcpStream) -> (Self, Used) {
        let used = Used(Rc::new(Cell::new(Instant::now())));
        (Self { socket, used: used.clone() }, used)
    }
}

impl Used {
    /// Returns once nothing has gone through for `limit`; zero is never.
    pub async fn silent_for(&self, limit: Duration) {
        let limit = if limit.is_zero() { FOR_EVER } else { limit.min(FOR_EVER) };
        while self.0.get() + limit > Instant::now() {
            sleep_until(self.0.get() + limit).await;
        }
    }

    fn note(&self) {
        self.0.set(Instant::now());
    }
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.socket).poll_read(cx, buf);
        if read.is_ready() {
            self.used.note();
        }
        read
    }
}

impl AsyncWrite for Watched {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.socket).poll_write(cx, buf);
        if written.is_ready() {
            self.used.note();
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}
