//! Sockets to endpoints: whose address they come from, how long connecting may take, keep-alive.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use crate::l7::rules::{TcpKeepalive, table::Policy};
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::{
    net::{TcpSocket, TcpStream},
    time::timeout,
};

use super::{counters::Counter, options::SourceAddress, view::View, worker::Worker};

/// What `connectionPool.tcp.connectTimeout` is when nobody sets it.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// How one client's requests to one destination are connected.
#[derive(Clone, Copy, Debug)]
pub struct Peer<'a> {
    client: Option<IpAddr>,
    policy: Option<&'a Policy>,
}

impl<'a> Peer<'a> {
    /// For requests of `client` under `policy`.
    pub fn new(worker: &Worker, view: &View, client: IpAddr, policy: Option<&'a Policy>) -> Self {
        let own = match worker.options().source {
            SourceAddress::Node => None,
            // Hosts and clients outside the cluster would be answered by another way than ours.
            SourceAddress::Client => Some(client).filter(|_| view.from_pod),
        };
        Self { client: own, policy }
    }

    /// Whose address connections to `endpoint` have; `None` is the node's.
    pub fn source(&self, endpoint: SocketAddr) -> Option<IpAddr> {
        // An endpoint that calls itself would answer itself, not us.
        self.client.filter(|client| *client != endpoint.ip() && client.is_ipv4() == endpoint.is_ipv4())
    }

    /// Connects to `endpoint`; counts what came of it.
    pub async fn connect(&self, worker: &Worker, endpoint: SocketAddr) -> io::Result<TcpStream> {
        let pool = self.policy.and_then(|policy| policy.traffic.connection_pool.as_ref()?.tcp.as_ref());
        let limit = pool.and_then(|pool| pool.connect_timeout).map_or(CONNECT_TIMEOUT, |limit| limit.0);
        let keepalive = pool.and_then(|pool| pool.tcp_keepalive.as_ref());
        let connecting = async {
            let socket = self.socket(endpoint)?;
            socket.set_nodelay(true)?;
            if let Some(keepalive) = keepalive {
                SockRef::from(&socket).set_tcp_keepalive(&probes(keepalive))?;
            }
            socket.connect(endpoint).await
        };
        let connected = timeout(limit, connecting)
            .await
            .unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::TimedOut, "connecting took too long")));
        worker.count(match &connected {
            Ok(_) => Counter::UpstreamConnections,
            Err(_) => Counter::UpstreamConnectFailures,
        });
        connected
    }

    fn socket(&self, endpoint: SocketAddr) -> io::Result<TcpSocket> {
        let Some(source) = self.source(endpoint) else {
            return if endpoint.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() };
        };
        let socket = Socket::new(Domain::for_address(endpoint), Type::STREAM, Some(Protocol::TCP))?;
        if source.is_ipv4() {
            socket.set_ip_transparent_v4(true)?;
        } else {
            socket.set_ip_transparent_v6(true)?;
        }
        socket.set_nonblocking(true)?;
        socket.bind(&SocketAddr::new(source, 0).into())?;
        Ok(TcpSocket::from_std_stream(socket.into()))
    }
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
