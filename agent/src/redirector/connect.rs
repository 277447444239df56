//! Sockets to endpoints: whose address they come from, how long connecting may take, keep-alive.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use crate::l7::rules::{ProxyProtocolVersion, TcpKeepalive, table::Policy};
use sluice_common::layout::FIRST_BORROWED_PORT;
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::{
    io::AsyncWriteExt as _,
    net::{TcpSocket, TcpStream},
    time::timeout,
};

use super::{
    config::Config,
    counters::Counter,
    options::SourceAddress,
    proxy_protocol::{Ends, header},
    snapshot::Pod,
    view::View,
    worker::Worker,
};

/// What `connectionPool.tcp.connectTimeout` is when nobody sets it.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Ports of a client's address that are tried: one may be in use, or rest after use.
const PORT_TRIES: usize = 16;

/// How one client's requests to one destination are connected.
#[derive(Clone, Copy, Debug)]
pub struct Peer<'a> {
    lender: Option<&'a Pod>,
    config: &'a Config,
    policy: Option<&'a Policy>,
    /// What endpoints are told first.
    told: Option<(ProxyProtocolVersion, Ends)>,
}

impl<'a> Peer<'a> {
    /// For requests of `client` under `policy`.
    pub fn new(worker: &Worker, view: &'a View, client: IpAddr, policy: Option<&'a Policy>) -> Self {
        let lender = match worker.options().source {
            SourceAddress::Node => None,
            // Hosts and clients outside the cluster would be answered by another way than ours.
            SourceAddress::Client => view.config.pod(client).map(|pod| &**pod).filter(|pod| pod.can_lend),
        };
        let told = policy.and_then(|policy| policy.traffic.proxy_protocol.as_ref());
        let told = told.map(|wanted| (wanted.version, view.ends));
        Self { lender, config: &view.config, policy, told }
    }

    /// Whose connection it is, where endpoints are told: it is nobody else's then.
    pub fn ends(&self) -> Option<Ends> {
        self.told.map(|(_, ends)| ends)
    }

    /// Whose address connections to `endpoint` have; `None` is the node's.
    pub fn source(&self, endpoint: SocketAddr) -> Option<IpAddr> {
        let mut own = self.lender?.addresses.iter().map(IpAddr::to_canonical);
        // An endpoint that calls itself would answer itself, not us.
        let answers = |pod: &Pod| pod.answers_at.iter().any(|at| at.to_canonical() == endpoint.ip());
        if own.clone().any(|own| own == endpoint.ip()) || !answers(self.config.pod(endpoint.ip())?) {
            return None;
        }
        // Whatever family was dialled: the endpoint's is the other's too, if the pod has both.
        own.find(|own| own.is_ipv4() == endpoint.is_ipv4())
    }

    /// Connects to `endpoint`; counts what came of it.
    pub async fn connect(&self, worker: &Worker, endpoint: SocketAddr) -> io::Result<TcpStream> {
        let pool = self.policy.and_then(|policy| policy.traffic.connection_pool.as_ref()?.tcp.as_ref());
        let limit = pool.and_then(|pool| pool.connect_timeout).map_or(CONNECT_TIMEOUT, |limit| limit.0);
        let keepalive = pool.and_then(|pool| pool.tcp_keepalive.as_ref());
        let dialling = async {
            let Some(source) = self.source(endpoint) else {
                let socket = if endpoint.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
                return begin(socket, endpoint, keepalive).await;
            };
            let mut last = None;
            for _ in 0..PORT_TRIES {
                let ports = usize::from(u16::MAX - FIRST_BORROWED_PORT) + 1;
                let port = FIRST_BORROWED_PORT + worker.draws.below(ports) as u16;
                let begun = match borrow(SocketAddr::new(source, port)) {
                    Ok(socket) => begin(socket, endpoint, keepalive).await,
                    Err(error) => Err(error),
                };
                match begun {
                    Err(error) if is_taken(&error) => last = Some(error),
                    done => return done,
                }
            }
            worker.count(Counter::SourcePortsTaken);
            Err(last.unwrap_or_else(|| io::ErrorKind::AddrInUse.into()))
        };
        let connecting = async {
            let mut socket = dialling.await?;
            if let Some((version, ends)) = &self.told {
                socket.write_all(&header(*version, ends)).await?;
            }
            Ok(socket)
        };
        let connected = timeout(limit, connecting)
            .await
            .unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::TimedOut, "connecting took too long")));
        if let Err(error) = &connected {
            tracing::debug!(%endpoint, %error, "no connection");
        }
        worker.count(match &connected {
            Ok(_) => Counter::UpstreamConnections,
            Err(_) => Counter::UpstreamConnectFailures,
        });
        connected
    }
}

/// A socket with a client's address. Many may have one port, to different endpoints.
fn borrow(source: SocketAddr) -> io::Result<TcpSocket> {
    let socket = Socket::new(Domain::for_address(source), Type::STREAM, Some(Protocol::TCP))?;
    if source.is_ipv4() {
        socket.set_ip_transparent_v4(true)?;
    } else {
        socket.set_ip_transparent_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&source.into())?;
    Ok(TcpSocket::from_std_stream(socket.into()))
}

/// Whether another port may do.
fn is_taken(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::AddrInUse | io::ErrorKind::AddrNotAvailable)
}

async fn begin(
    socket: TcpSocket,
    endpoint: SocketAddr,
    keepalive: Option<&TcpKeepalive>,
) -> io::Result<TcpStream> {
    socket.set_nodelay(true)?;
    if let Some(keepalive) = keepalive {
        SockRef::from(&socket).set_tcp_keepalive(&probes(keepalive))?;
    }
    socket.connect(endpoint).await
}

fn probes(keepalive: &TcpKeepalive) -> socket2::TcpKeepalive {
    let mut probes = socket2::TcpKeepalive::new();
    if keepalive.probes > 0 {
        probes = probes.with_retries(keepalive.probes);
    }
    if let Some(time) = keepalive.time {
        probes = probes.with_time(time.0);
    }
    if let Some(interval) = keepalive.interval {
        probes = probes.with_interval(interval.0);
    }
    probes
}
