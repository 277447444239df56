//! The admin endpoints: `/state`, `/metrics`, `/healthz`, `/livez`, `/readyz`, `/proxyMode`.

use std::{
    io::ErrorKind,
    net::SocketAddr,
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, Result};
use hyper::{Method, StatusCode};
use serde::Serialize;
use tokio::net::TcpListener;

use super::{
    http::{self, Answer, json, text},
    metrics,
};
use crate::{
    health::{Shared, State},
    maps::Pins,
};

/// How often an address that somebody else has is tried again.
const AGAIN: Duration = Duration::from_secs(1);

/// Who may come to a listener.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The node itself: everything. Others, if it is bound to more than loopback: what is no secret.
    Admin,
    /// The network: whether we are well, and no more.
    Health,
}

/// A listener with what it serves.
pub struct Server {
    role: Role,
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
        Ok(Self { role, listener, shared: Arc::clone(shared), pins: Pins::at(bpffs) })
    }

    /// Listens on `address` as soon as nobody else does, such as kube-proxy, which this replaces; then serves for ever.
    ///
    /// # Errors
    /// The address is not ours; it is named.
    pub async fn serve_when_free(
        role: Role,
        address: SocketAddr,
        shared: &Arc<Shared>,
        bpffs: &Path,
    ) -> Result<()> {
        let mut told = false;
        loop {
            let error = match Self::bind(role, address, shared, bpffs).await {
                Ok(server) => {
                    tracing::info!(%address, "listening");
                    return server.serve().await;
                }
                Err(error) => error,
            };
            let taken = error.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
            if taken != Some(ErrorKind::AddrInUse) {
                return Err(error);
            }
            if !told {
                tracing::info!(%address, "somebody else listens there: it is tried again until they do not");
                told = true;
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    /// Answers requests for ever.
    ///
    /// # Errors
    /// Never by itself; a connection that fails concerns only its client.
    pub async fn serve(self) -> Result<()> {
        let Self { role, listener, shared, pins } = self;
        let answer =
            move |method: &Method, path: &str, near| answer(role, near, &shared, &pins, method, path);
        http::serve(listener, Arc::new(answer)).await
    }
}

fn answer(role: Role, near: bool, shared: &Shared, pins: &Pins, method: &Method, path: &str) -> Answer {
    if method != Method::GET && method != Method::HEAD {
        return text(StatusCode::METHOD_NOT_ALLOWED, "only GET is served\n".to_owned());
    }
    let state = shared.get();
    let admin = role == Role::Admin;
    match path {
        "/healthz" => health(&state, true),
        "/livez" => health(&state, false),
        "/readyz" => ready(&state),
        _ if !admin => {
            text(StatusCode::NOT_FOUND, "not found; there are /healthz /livez /readyz\n".to_owned())
        }
        // Names of pods and Services, and what is wrong with them.
        "/state" if !near => text(
            StatusCode::FORBIDDEN,
            "only served to the node itself: run `sluice status` there\n".to_owned(),
        ),
        "/state" => json(StatusCode::OK, serde_json::to_string(&state).unwrap_or_default()),
        "/proxyMode" => text(StatusCode::OK, "ebpf".to_owned()),
        "/metrics" => text(StatusCode::OK, metrics::page(&state, pins)),
        _ => text(
            StatusCode::NOT_FOUND,
            "not found; there are /state /metrics /healthz /livez /readyz /proxyMode\n".to_owned(),
        ),
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Health {
    /// When what we were told was in the maps: now, if all is well.
    last_updated: String,
    current_time: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    node_eligible: Option<bool>,
}

/// kube-proxy's words. A node that is about to go is still alive, but should not be used (KEP-3836).
fn health(state: &State, for_load_balancers: bool) -> Answer {
    let now = SystemTime::now();
    let healthy = if for_load_balancers { state.is_forwarding() } else { state.is_alive() };
    let updated = if healthy { now } else { state.updated.unwrap_or(SystemTime::UNIX_EPOCH) };
    let body = Health {
        last_updated: rfc3339(updated),
        current_time: rfc3339(now),
        node_eligible: for_load_balancers.then_some(!state.node_leaving),
    };
    let well = healthy && !(for_load_balancers && state.node_leaving);
    let status = if well { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    json(status, serde_json::to_string(&body).unwrap_or_default())
}

/// Whether this agent has programmed what it was told, so that the next node's may be replaced. A node that starts is well
/// before that, by what the last agent left.
fn ready(state: &State) -> Answer {
    let (status, words) = match (state.programmed, state.is_forwarding()) {
        (true, true) => (StatusCode::OK, "programmed"),
        (true, false) => {
            (StatusCode::SERVICE_UNAVAILABLE, "programmed, but something is wrong: see `sluice status`")
        }
        (false, _) => (StatusCode::SERVICE_UNAVAILABLE, "not everything is in the maps yet"),
    };
    text(status, format!("{words}\n"))
}

fn rfc3339(time: SystemTime) -> String {
    jiff::Timestamp::try_from(time).unwrap_or_default().to_string()
}
