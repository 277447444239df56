//! A client's socket that gives back what was looked at, and that bounds how long the head of a request takes.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::{Buf, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf},
    net::TcpStream,
};

use super::{pace::Watch, session::HEADERS_LARGEST};

/// How much is read at once while the protocol is unknown.
const LOOK: usize = 4 << 10;

/// What a client is told whose request does not come to its end.
const TOO_SLOW: &[u8] = b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";

/// A client's socket.
#[derive(Debug)]
pub struct ClientStream {
    seen: BytesMut,
    socket: TcpStream,
    watch: Option<Watch>,
}

impl ClientStream {
    /// Nothing was looked at yet.
    pub fn new(socket: TcpStream) -> Self {
        Self { seen: BytesMut::new(), socket, watch: None }
    }

    /// All that was looked at.
    pub fn seen(&self) -> &[u8] {
        &self.seen
    }

    /// Looks at more; 0 is the end.
    pub async fn look(&mut self) -> io::Result<usize> {
        self.seen.reserve(LOOK);
        self.socket.read_buf(&mut self.seen).await
    }

    /// Puts `bytes` into what was looked at, in front of what is at `place`.
    pub fn insert(&mut self, place: usize, bytes: &[u8]) {
        let rest = self.seen.split_off(place.min(self.seen.len()));
        self.seen.extend_from_slice(bytes);
        self.seen.extend_from_slice(&rest);
    }

    /// Gives back what was read too much.
    pub fn unread(&mut self, bytes: &[u8]) {
        let rest = std::mem::take(&mut self.seen);
        self.seen.reserve(bytes.len() + rest.len());
        self.seen.extend_from_slice(bytes);
        self.seen.extend_from_slice(&rest);
    }

    /// Bounds the heads of requests from here on.
    pub fn set_watch(&mut self, watch: Watch) {
        self.watch = Some(watch);
    }

    /// Waits for what comes next, or for the end.
    pub async fn comes(&self) -> io::Result<()> {
        if self.seen.is_empty() { self.socket.readable().await } else { Ok(()) }
    }

    /// Tells the client that its request takes too long; it is HTTP/1, and nothing else is being said.
    pub fn refuse_slow(&self) {
        // What does not go at once is not waited for.
        let _told = self.socket.try_write(TOO_SLOW);
    }

    /// `TimedOut` when the head of a request takes too long; `came` is what came just now.
    fn watch(&mut self, cx: &mut Context<'_>, came: &[u8]) -> io::Result<()> {
        let Some(watch) = &mut self.watch else { return Ok(()) };
        if !came.is_empty() {
            watch.take(came, HEADERS_LARGEST);
        }
        if watch.poll_late(cx).is_pending() {
            return Ok(());
        }
        if watch.can_tell() {
            self.refuse_slow();
        }
        Err(io::Error::new(io::ErrorKind::TimedOut, "the head of a request took too long"))
    }

    fn note(&mut self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Some(watch) = &self.watch {
            watch.set_full(written.is_pending());
        }
        written
    }
}

impl AsyncRead for ClientStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buf.filled().len();
        let read = if this.seen.is_empty() {
            Pin::new(&mut this.socket).poll_read(cx, buf)?
        } else {
            let length = this.seen.len().min(buf.remaining());
            buf.put_slice(&this.seen[..length]);
            this.seen.advance(length);
            if this.seen.is_empty() {
                // Thousands of clients lie idle, each with its buffer.
                this.seen = BytesMut::new();
            }
            Poll::Ready(())
        };
        this.watch(cx, &buf.filled()[before..])?;
        read.map(Ok)
    }
}

impl AsyncWrite for ClientStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.socket).poll_write(cx, buf);
        self.note(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.socket).poll_write_vectored(cx, bufs);
        self.note(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.watch.as_ref().is_some_and(Watch::keeps_open) {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}
