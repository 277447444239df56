//! A client's socket that gives back what was looked at, and that bounds how long the head of a request takes.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::{Buf, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf},
    net::TcpStream,
    sync::Notify,
    time::Sleep,
};

/// How much is read at once while the protocol is unknown.
const LOOK: usize = 4 << 10;

/// A client's socket.
#[derive(Debug)]
pub struct ClientStream {
    seen: BytesMut,
    socket: TcpStream,
    pace: Option<Arc<Pace>>,
    timer: Option<(u64, Pin<Box<Sleep>>)>,
}

/// Which requests of an HTTP/1 connection have begun and ended.
///
/// Atomics because hyper wants sockets that may be sent; only one thread ever touches them.
#[derive(Debug)]
pub struct Pace {
    begun: AtomicU64,
    ended: AtomicU64,
    limit: Duration,
    begins: Notify,
}

/// A request that is under way until this is dropped.
#[derive(Debug)]
pub struct UnderWay(Arc<Pace>);

impl Pace {
    /// No request yet; `limit` is how long the head of one may take from its first byte.
    pub fn new(limit: Duration) -> Arc<Self> {
        Arc::new(Self { begun: AtomicU64::new(0), ended: AtomicU64::new(0), limit, begins: Notify::new() })
    }

    /// The head of a request is complete.
    pub fn begin(self: &Arc<Self>) -> UnderWay {
        self.begun.fetch_add(1, Ordering::Relaxed);
        self.begins.notify_one();
        UnderWay(self.clone())
    }

    /// Returns once a request is under way.
    pub async fn is_under_way(&self) {
        while self.begun.load(Ordering::Relaxed) == self.ended.load(Ordering::Relaxed) {
            self.begins.notified().await;
        }
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.ended.fetch_add(1, Ordering::Relaxed);
    }
}

impl ClientStream {
    /// Nothing was looked at yet.
    pub fn new(socket: TcpStream) -> Self {
        Self { seen: BytesMut::new(), socket, pace: None, timer: None }
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

    /// Bounds the heads of requests from here on.
    pub fn set_pace(&mut self, pace: Arc<Pace>) {
        self.pace = Some(pace);
    }

    /// `TimedOut` when the head of a request takes too long; `came` says whether bytes of it came just now.
    fn watch(&mut self, cx: &mut Context<'_>, came: bool) -> io::Result<()> {
        let Some(pace) = &self.pace else { return Ok(()) };
        let begun = pace.begun.load(Ordering::Relaxed);
        if begun != pace.ended.load(Ordering::Relaxed) {
            self.timer = None;
            return Ok(());
        }
        if self.timer.as_ref().is_some_and(|(of, _)| *of != begun) {
            self.timer = None;
        }
        if came && self.timer.is_none() {
            self.timer = Some((begun, Box::pin(tokio::time::sleep(pace.limit))));
        }
        let late = self.timer.as_mut().is_some_and(|(_, timer)| timer.as_mut().poll(cx).is_ready());
        if late {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "the head of a request took too long"));
        }
        Ok(())
    }
}

impl AsyncRead for ClientStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if !this.seen.is_empty() {
            let length = this.seen.len().min(buf.remaining());
            buf.put_slice(&this.seen[..length]);
            this.seen.advance(length);
            if this.seen.is_empty() {
                // Thousands of clients lie idle, each with its buffer.
                this.seen = BytesMut::new();
            }
            this.watch(cx, true)?;
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        let read = Pin::new(&mut this.socket).poll_read(cx, buf)?;
        this.watch(cx, buf.filled().len() > before)?;
        read.map(Ok)
    }
}

impl AsyncWrite for ClientStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}
