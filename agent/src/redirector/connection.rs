//! One connection: which frontend it is for, and what it speaks. Serving it is in `session.rs` and `tcp.rs`.

use std::{net::SocketAddr, rc::Rc, time::Duration};

use crate::l7::rules::{
    clienthello::{self, Hello},
    protocol::{self, Speech},
};
use tokio::{net::TcpStream, time::timeout};

use super::{
    config::canonical,
    counters::Counter,
    limits::Place,
    proxy_protocol::Ends,
    session,
    stream::ClientStream,
    tcp,
    view::View,
    worker::{DRAIN_GRACE, Worker},
};

/// What HTTP/2 connections begin with, RFC 9113 section 3.4.
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What a look at the first bytes told.
pub enum Look<T> {
    /// What they are.
    Told(T),
    /// The client sent nothing more that would tell.
    Ended,
    /// The time was up.
    Late,
}

/// Serves one connection from `peer`, which has `place`, until it ends.
pub async fn serve(worker: Rc<Worker>, socket: TcpStream, peer: SocketAddr, place: Rc<Place>) {
    let Ok(dialled) = socket.local_addr() else { return };
    let (dialled, peer) = (canonical(dialled), canonical(peer));
    let Some(view) = View::new(worker.config(), Ends { client: peer, dialled }) else {
        return worker.count(Counter::RefusedUnknownFrontend);
    };
    // It only costs time if it fails.
    let _set = socket.set_nodelay(true);
    let mut stream = ClientStream::new(socket);
    let header_timeout = worker.options().header_timeout;
    match speech(&worker, &view, &mut stream).await {
        Speech::Http | Speech::Http2 => {
            let unused = async {
                worker.draining().await;
                tokio::time::sleep(DRAIN_GRACE).await;
            };
            let told = tokio::select! {
                told = look(&mut stream, header_timeout, preface) => told,
                () = unused => Look::Ended,
            };
            match told {
                Look::Told(http2) => session::serve(worker, stream, view, place, http2).await,
                Look::Ended => {}
                Look::Late => {
                    worker.count(Counter::RefusedSlowHeaders);
                    // The beginning of a preface may be one of a method. Who has said nothing is told nothing.
                    if !stream.seen().is_empty() {
                        stream.refuse_slow();
                    }
                }
            }
        }
        Speech::Tls if view.routes.has_tls() => match look(&mut stream, header_timeout, hello).await {
            Look::Told(server_name) => {
                Box::pin(tcp::serve_tls(worker, stream, &view, peer.ip(), server_name)).await
            }
            Look::Ended => Box::pin(tcp::serve_tls(worker, stream, &view, peer.ip(), None)).await,
            Look::Late => worker.count(Counter::RefusedSlowHeaders),
        },
        Speech::Tls | Speech::Tcp => Box::pin(tcp::serve(worker, stream, &view, peer.ip())).await,
    }
}

/// What the port is declared to speak; else what the first bytes look like, where some rule asks for it.
async fn speech(worker: &Worker, view: &View, stream: &mut ClientStream) -> Speech {
    if let Some(speech) = view.frontend.speech {
        return speech;
    }
    if !view.wants_http() && !view.routes.has_tls() {
        return Speech::Tcp;
    }
    match look(stream, worker.options().sniff_timeout, protocol::sniff).await {
        Look::Told(Speech::Http | Speech::Http2) if !view.wants_http() => Speech::Tcp,
        Look::Told(speech) => speech,
        Look::Ended => Speech::Tcp,
        Look::Late => {
            worker.count(Counter::SniffTimeouts);
            Speech::Tcp
        }
    }
}

/// Reads until `judge` can tell, for `limit` at most. From some number of bytes on, `judge` must be able to.
pub async fn look<T>(
    stream: &mut ClientStream,
    limit: Duration,
    judge: impl Fn(&[u8]) -> Option<T>,
) -> Look<T> {
    let told = async {
        loop {
            if let Some(told) = judge(stream.seen()) {
                return Look::Told(told);
            }
            if !matches!(stream.look().await, Ok(1..)) {
                return Look::Ended;
            }
        }
    };
    timeout(limit, told).await.unwrap_or(Look::Late)
}

/// Whether HTTP/2 is spoken.
fn preface(bytes: &[u8]) -> Option<bool> {
    if bytes.starts_with(PREFACE) {
        return Some(true);
    }
    if PREFACE.starts_with(bytes) { None } else { Some(false) }
}

/// The server name; `None` within for a client that sends none.
fn hello(bytes: &[u8]) -> Option<Option<String>> {
    match clienthello::parse(bytes) {
        Hello::NeedMore => None,
        Hello::NotTls | Hello::NoSni => Some(None),
        Hello::Sni(name) => Some(Some(name)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes of what `_serves` returns.
    fn size_of_future<A, B, C, D, F: Future>(_serves: fn(A, B, C, D) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn a_connection_that_lies_idle_is_small() {
        let size = size_of_future(serve);
        assert!(size <= 3072, "{size} bytes for each of thousands of connections");
    }

    #[test]
    fn http2_is_told_by_its_preface() {
        for (case, bytes, want) in [
            ("nothing", &b""[..], None),
            ("part", b"PRI * HT", None),
            ("whole", PREFACE, Some(true)),
            ("a method with the same beginning", b"PRINT / ", Some(false)),
            ("http/1", b"GET / HTTP/1.1\r\n", Some(false)),
        ] {
            assert_eq!(preface(bytes), want, "{case}");
        }
    }
}
