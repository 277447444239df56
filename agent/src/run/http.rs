//! What the agent's HTTP servers share: listeners, connections and answers. What they answer is elsewhere.

use std::{
    io::{self, ErrorKind},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use anyhow::Result;
use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::{CONTENT_TYPE, HeaderValue, X_CONTENT_TYPE_OPTIONS},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustix::io::Errno;
use socket2::{Domain, Socket, Type};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

mod places;

pub use places::{Place, Places};

/// As many as wait to be accepted.
const BACKLOG: i32 = 1024;

/// How connections are used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Use {
    /// One answer each.
    Check,
    /// As many as the client asks for.
    Scrape,
}

impl Use {
    /// After which a connection ends, whatever it does. A scrape takes its time; who checks waits no longer than this.
    const fn longest(self) -> Duration {
        match self {
            Self::Check => Duration::from_secs(5),
            Self::Scrape => Duration::from_secs(300),
        }
    }
}

/// A whole response.
pub type Answer = Response<Full<Bytes>>;

/// Whom `[::]` is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Families {
    /// Everybody, as with kube-proxy.
    Both,
    /// Clients of IPv6: those of IPv4 have a listener of their own.
    V6,
}

/// Listens on `address`: on `[::]` for clients of both families, and for those of IPv4 alone where the node has no IPv6.
///
/// # Errors
/// The address is taken or not ours.
pub fn listen(address: SocketAddr, families: Families) -> io::Result<TcpListener> {
    let both = matches!(address.ip(), IpAddr::V6(ip) if ip.is_unspecified()) && families == Families::Both;
    let lacks_v6 = |error: &io::Error| {
        error.raw_os_error() == Some(Errno::AFNOSUPPORT.raw_os_error())
            || error.kind() == ErrorKind::AddrNotAvailable
    };
    match listen_on(address, both) {
        Err(error) if both && lacks_v6(&error) => {
            listen_on(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), address.port()), both)
        }
        result => result,
    }
}

fn listen_on(address: SocketAddr, both: bool) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    if address.is_ipv6() {
        // Else the sysctl net.ipv6.bindv6only would decide.
        socket.set_only_v6(!both)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Answers requests on `listener` for ever, by method, path and whether somebody on
/// this node asks. When the future is dropped, its connections end with it.
///
/// # Errors
/// Never by itself; a connection that fails concerns only its client.
pub async fn serve(
    listener: TcpListener,
    kind: Use,
    places: Arc<Places>,
    answer: Arc<impl Fn(&Method, &str, bool) -> Answer + Send + Sync + 'static>,
) -> Result<()> {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => {
                    let near = is_near(&stream, peer);
                    let place = places.take(peer.ip(), near);
                    connections.spawn(connection(stream, kind, place, near, Arc::clone(&answer)));
                }
                // Out of file descriptors, most likely: they come back.
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    }
}

/// Whoever asks one of the node's addresses from the node has that very address.
fn is_near(stream: &TcpStream, peer: SocketAddr) -> bool {
    let own = stream.local_addr().is_ok_and(|own| own.ip() == peer.ip());
    own || peer.ip().to_canonical().is_loopback()
}

async fn connection(
    stream: TcpStream,
    kind: Use,
    mut place: Place,
    near: bool,
    answer: Arc<impl Fn(&Method, &str, bool) -> Answer + Send + Sync + 'static>,
) {
    let answer = service_fn(|request: Request<Incoming>| {
        let response = answer(request.method(), request.uri().path(), near);
        async move { Ok::<_, std::convert::Infallible>(response) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_secs(5))
        .keep_alive(kind == Use::Scrape)
        .serve_connection(TokioIo::new(stream), answer);
    tokio::select! {
        ended = connection => if let Err(error) = ended {
            tracing::debug!(%error, "a connection to the agent ended early");
        },
        () = place.is_lost() => {}
        () = tokio::time::sleep(kind.longest()) => {}
    }
}

/// A response of plain text.
pub fn text(status: StatusCode, body: String) -> Answer {
    respond(status, "text/plain; charset=utf-8", body)
}

/// A response of JSON.
pub fn json(status: StatusCode, body: String) -> Answer {
    respond(status, "application/json", body)
}

/// A page of metrics in Prometheus' text form.
pub fn metrics(body: String) -> Answer {
    respond(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", body)
}

fn respond(status: StatusCode, kind: &'static str, body: String) -> Answer {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response.headers_mut().insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}
