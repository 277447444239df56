//! The admin endpoints: `/state`, `/metrics`, `/healthz`, `/livez`, `/readyz`, `/proxyMode`.

use std::{
    io::{self, ErrorKind},
    net::SocketAddr,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
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
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// The node itself: everything. Others, if it is bound to more than loopback: what is no secret.
    Admin,
    /// The network: whether we are well, and no more.
    Health,
    /// The same at an address that somebody else may have, such as kube-proxy, which this replaces.
    MoreHealth,
}

impl Role {
    const fn flag(self) -> &'static str {
        match self {
            Self::Admin => "--admin",
            Self::Health | Self::MoreHealth => "--healthz",
        }
    }

    const fn connections(self) -> http::Use {
        match self {
            Self::Admin => http::Use::Scrape,
            Self::Health | Self::MoreHealth => http::Use::Check,
        }
    }
}

/// What all listeners answer from.
#[derive(Debug)]
pub struct Desk {
    shared: Arc<Shared>,
    pins: Pins,
    told: Told,
}

/// How often health was told, as kube-proxy counts it: at the address for health alone.
#[derive(Debug, Default)]
pub struct Told {
    healthz: [AtomicU64; 2],
    livez: [AtomicU64; 2],
}

impl Told {
    /// Codes that `/healthz` was answered with, and how often.
    pub fn healthz(&self) -> [(&'static str, u64); 2] {
        Self::counts(&self.healthz)
    }

    /// The same of `/livez`.
    pub fn livez(&self) -> [(&'static str, u64); 2] {
        Self::counts(&self.livez)
    }

    fn counts([well, not_well]: &[AtomicU64; 2]) -> [(&'static str, u64); 2] {
        [("200", well.load(Ordering::Relaxed)), ("503", not_well.load(Ordering::Relaxed))]
    }

    fn count(counts: &[AtomicU64; 2], answer: &Answer) {
        counts[usize::from(answer.status() != StatusCode::OK)].fetch_add(1, Ordering::Relaxed);
    }
}

impl Desk {
    /// Nothing was told yet.
    pub fn new(shared: &Arc<Shared>, bpffs: &Path) -> Self {
        Self { shared: Arc::clone(shared), pins: Pins::at(bpffs), told: Told::default() }
    }

    fn answer(&self, role: Role, near: bool, method: &Method, path: &str) -> Answer {
        if method != Method::GET && method != Method::HEAD {
            return text(StatusCode::METHOD_NOT_ALLOWED, "only GET is served\n".to_owned());
        }
        match path {
            // kube-proxy's, which says that it listens, and no more.
            "/healthz" if role == Role::Admin => text(StatusCode::OK, "ok".to_owned()),
            "/healthz" => self.told(&self.told.healthz, true),
            "/livez" if role == Role::Admin => self.shared.see(|state| health(state, false)),
            "/livez" => self.told(&self.told.livez, false),
            "/readyz" => self.shared.see(ready),
            _ if role != Role::Admin => {
                text(StatusCode::NOT_FOUND, "not found; there are /healthz /livez /readyz\n".to_owned())
            }
            // Names of pods and Services, and what is wrong with them.
            "/state" if !near => text(
                StatusCode::FORBIDDEN,
                "only served to the node itself: run `sluice status` there\n".to_owned(),
            ),
            "/state" => json(StatusCode::OK, serde_json::to_string(&self.shared.get()).unwrap_or_default()),
            "/proxyMode" => text(StatusCode::OK, "ebpf".to_owned()),
            "/metrics" => http::metrics(metrics::page(&self.shared.get(), &self.pins, &self.told)),
            _ => text(
                StatusCode::NOT_FOUND,
                "not found; there are /state /metrics /healthz /livez /readyz /proxyMode\n".to_owned(),
            ),
        }
    }

    fn told(&self, counts: &[AtomicU64; 2], for_load_balancers: bool) -> Answer {
        let answer = self.shared.see(|state| health(state, for_load_balancers));
        Told::count(counts, &answer);
        answer
    }
}

/// An address with what is served there.
pub struct Server {
    role: Role,
    address: SocketAddr,
    families: http::Families,
    /// `None` while somebody else has the address.
    listener: Option<TcpListener>,
    desk: Arc<Desk>,
}

impl Server {
    /// Listens on `address`. If somebody else does, that is told, and tried again later: what was programmed must be kept up
    /// in spite of them.
    ///
    /// # Errors
    /// The address is not ours; it is named.
    pub fn bind(role: Role, address: SocketAddr, families: http::Families, desk: &Arc<Desk>) -> Result<Self> {
        let mut server = Self { role, address, families, listener: None, desk: Arc::clone(desk) };
        match http::listen(address, families) {
            Ok(listener) => server.listener = Some(listener),
            Err(error) if error.kind() == ErrorKind::AddrInUse => {
                if role == Role::MoreHealth {
                    tracing::info!(%address, "somebody else listens there: it is tried again until they do not");
                }
                server.note(Some(&error));
            }
            Err(error) => {
                return Err(error).with_context(|| {
                    format!("cannot listen on {address}; choose another address with {}", role.flag())
                });
            }
        }
        Ok(server)
    }

    /// Answers requests for ever, from when the address is free.
    ///
    /// # Errors
    /// Never by itself; a connection that fails concerns only its client.
    pub async fn serve(mut self) -> Result<()> {
        let listener = loop {
            if let Some(listener) = self.listener.take() {
                break listener;
            }
            tokio::time::sleep(AGAIN).await;
            match http::listen(self.address, self.families) {
                Ok(listener) => {
                    tracing::info!(address = %self.address, "listening");
                    self.note(None);
                    self.listener = Some(listener);
                }
                Err(error) => self.note(Some(&error)),
            }
        };
        let (role, desk) = (self.role, self.desk);
        let answer = move |method: &Method, path: &str, near| desk.answer(role, near, method, path);
        http::serve(listener, role.connections(), Arc::default(), Arc::new(answer)).await
    }

    /// Notes that nobody is answered at the address, unless that is as it should be.
    fn note(&self, error: Option<&io::Error>) {
        if self.role == Role::MoreHealth {
            return;
        }
        let (address, flag) = (self.address, self.role.flag());
        let problem = error.map(|error| match error.kind() {
            ErrorKind::AddrInUse => format!(
                "{address} is in use by another program of this node, and nobody is answered there; it is tried again \
                 each second: end that program, or choose another address with {flag}"
            ),
            _ => format!("cannot listen on {address}: {error}; it is tried again each second"),
        });
        self.desk.shared.problem(&format!("port/{address}"), problem);
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
