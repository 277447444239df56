//! The admin endpoints: `/state`, `/metrics`, `/healthz`, `/livez`, `/proxyMode`.

use std::{fmt::Write as _, net::SocketAddr, path::Path, sync::Arc};

use anyhow::{Context as _, Result};
use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::{CONTENT_TYPE, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{net::TcpListener, sync::Semaphore};

use crate::{
    health::{Shared, State},
    maps::{Pins, bpf::BpfMaps},
};

/// Who may come to a listener.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The node itself: everything.
    Admin,
    /// The network: whether we are well, and no more.
    Health,
}

/// Long enough for any scrape; a place is not held for ever.
const LONGEST_CONNECTION: std::time::Duration = std::time::Duration::from_secs(300);
/// Open connections at once; more wait.
const MOST_CONNECTIONS: usize = 64;

/// A listener with what it serves.
pub struct Server {
    role: Role,
    room: Arc<Semaphore>,
    listener: TcpListener,
    shared: Arc<Shared>,
    pins: Pins,
}

impl Server {
    /// Listens on `address`.
    ///
    /// # Errors
    /// The address is taken or not ours; it is named.
    pub async fn bind(role: Role, address: SocketAddr, shared: &Arc<Shared>, bpffs: &Path) -> Result<Self> {
        let listener = TcpListener::bind(address).await.with_context(|| {
            format!("cannot listen on {address}; choose another address with --admin or --healthz")
        })?;
        let room = Arc::new(Semaphore::new(MOST_CONNECTIONS));
        Ok(Self { role, room, listener, shared: Arc::clone(shared), pins: Pins::at(bpffs) })
    }

    /// Answers requests for ever.
    ///
    /// # Errors
    /// Never by itself; a connection that fails concerns only its client.
    pub async fn serve(self) -> Result<()> {
        let server = Arc::new(self);
        loop {
            let place = Arc::clone(&server.room).acquire_owned().await?;
            let Ok((stream, _)) = server.listener.accept().await else {
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                continue;
            };
            let server = Arc::clone(&server);
            tokio::spawn(async move {
                let answer = service_fn(|request: Request<Incoming>| {
                    let response = server.answer(request.method(), request.uri().path());
                    async move { Ok::<_, std::convert::Infallible>(response) }
                });
                let connection = http1::Builder::new()
                    .timer(TokioTimer::new())
                    .header_read_timeout(std::time::Duration::from_secs(5))
                    .serve_connection(TokioIo::new(stream), answer);
                match tokio::time::timeout(LONGEST_CONNECTION, connection).await {
                    Ok(Ok(())) | Err(_) => {}
                    Ok(Err(error)) => tracing::debug!(%error, "an admin connection ended early"),
                }
                drop(place);
            });
        }
    }

    fn answer(&self, method: &Method, path: &str) -> Response<Full<Bytes>> {
        if method != Method::GET && method != Method::HEAD {
            return text(StatusCode::METHOD_NOT_ALLOWED, "only GET is served\n".to_owned());
        }
        let state = self.shared.get();
        let admin = self.role == Role::Admin;
        match path {
            "/healthz" => health(&state),
            "/livez" => text(StatusCode::OK, "ok\n".to_owned()),
            _ if !admin => text(StatusCode::NOT_FOUND, "not found; there are /healthz /livez\n".to_owned()),
            "/state" => json(StatusCode::OK, serde_json::to_string(&state).unwrap_or_default()),
            "/proxyMode" => text(StatusCode::OK, "ebpf".to_owned()),
            "/metrics" => text(StatusCode::OK, metrics(&state, &self.pins)),
            _ => text(
                StatusCode::NOT_FOUND,
                "not found; there are /state /metrics /healthz /livez /proxyMode\n".to_owned(),
            ),
        }
    }
}

/// Whether this node forwards as it should. An API server that is away or a Service that does not fit is for
/// `sluice status` to tell: taking the node out of every load balancer would not mend it.
fn health(state: &State) -> Response<Full<Bytes>> {
    let serious = |topic: &str| {
        !["source/", "service/", "full/", "redirector"].iter().any(|prefix| topic.starts_with(prefix))
    };
    let healthy =
        state.programmed && state.probed_s.is_some() && !state.problems.keys().any(|topic| serious(topic));
    let status = if healthy { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    json(status, serde_json::json!({ "healthy": healthy }).to_string())
}

fn metrics(state: &State, pins: &Pins) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    let mut family = |name: &str, kind: &str, help: &str, samples: Vec<(String, u64)>| {
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
        for (labels, value) in samples {
            let _ = writeln!(out, "{name}{labels} {value}");
        }
    };
    let version = format!("{{version=\"{}\"}}", state.version);
    family("sluice_build_info", "gauge", "Always 1; the version is in the label.", vec![(version, 1)]);
    let healthy = vec![(String::new(), u64::from(state.is_healthy()))];
    family(
        "sluice_healthy",
        "gauge",
        "1 when programs run, the self-probe passes and nothing is wrong.",
        healthy,
    );
    let synced = state.sources.iter();
    let synced = synced.map(|s| (format!("{{source=\"{}\"}}", s.name), u64::from(s.synced))).collect();
    family("sluice_source_synced", "gauge", "1 when the source was listed completely.", synced);
    let writes = vec![(String::new(), state.writes)];
    family("sluice_map_writes_total", "counter", "Map entries written or deleted since the start.", writes);
    let destroyed = vec![(String::new(), state.sockets_destroyed)];
    family(
        "sluice_sockets_destroyed_total",
        "counter",
        "Sockets told that their backend is gone.",
        destroyed,
    );
    let counters = state.redirector.iter().map(|(what, n)| (format!("{{event=\"{what}\"}}"), *n)).collect();
    family(
        "sluice_redirector_total",
        "counter",
        "What happened in the redirector since its start.",
        counters,
    );
    if let Ok(maps) = BpfMaps::open(pins) {
        let reasons = maps.reasons().unwrap_or_default();
        let samples = reasons.iter().map(|(r, n)| (format!("{{reason=\"{}\"}}", r.name()), *n)).collect();
        family("sluice_reasons_total", "counter", "Outcomes of the socket hooks, by reason.", samples);
        let samples = maps.capacities().iter().map(|(map, n)| (format!("{{map=\"{map}\"}}"), u64::from(*n)));
        family("sluice_map_capacity", "gauge", "Entries that a map can hold.", samples.collect());
    }
    out
}

fn text(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    respond(status, "text/plain; charset=utf-8", body)
}

fn json(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    respond(status, "application/json", body)
}

fn respond(status: StatusCode, kind: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}
