//! The admin endpoints: `/state`, `/metrics`, `/healthz`, `/livez`, `/proxyMode`.

use std::{fmt::Write as _, net::SocketAddr, path::Path, sync::Arc, time::SystemTime};

use anyhow::{Context as _, Result};
use hyper::{Method, StatusCode};
use serde::Serialize;
use tokio::net::TcpListener;

use super::http::{self, Answer, json, text};
use crate::{
    flows::Removal,
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

    /// Answers requests for ever.
    ///
    /// # Errors
    /// Never by itself; a connection that fails concerns only its client.
    pub async fn serve(self) -> Result<()> {
        let Self { role, listener, shared, pins } = self;
        let answer = move |method: &Method, path: &str| answer(role, &shared, &pins, method, path);
        http::serve(listener, Arc::new(answer)).await
    }
}

fn answer(role: Role, shared: &Shared, pins: &Pins, method: &Method, path: &str) -> Answer {
    if method != Method::GET && method != Method::HEAD {
        return text(StatusCode::METHOD_NOT_ALLOWED, "only GET is served\n".to_owned());
    }
    let state = shared.get();
    let admin = role == Role::Admin;
    match path {
        "/healthz" => health(&state, true),
        "/livez" => health(&state, false),
        _ if !admin => text(StatusCode::NOT_FOUND, "not found; there are /healthz /livez\n".to_owned()),
        "/state" => json(StatusCode::OK, serde_json::to_string(&state).unwrap_or_default()),
        "/proxyMode" => text(StatusCode::OK, "ebpf".to_owned()),
        "/metrics" => text(StatusCode::OK, metrics(&state, pins)),
        _ => text(
            StatusCode::NOT_FOUND,
            "not found; there are /state /metrics /healthz /livez /proxyMode\n".to_owned(),
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
    let healthy = state.is_forwarding();
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

fn rfc3339(time: SystemTime) -> String {
    jiff::Timestamp::try_from(time).unwrap_or_default().to_string()
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
    let forwarding = vec![(String::new(), u64::from(state.is_forwarding()))];
    family("sluice_forwarding", "gauge", "1 when this node forwards: what /livez says.", forwarding);
    let eligible = vec![(String::new(), u64::from(!state.node_leaving))];
    family("sluice_node_eligible", "gauge", "0 when the node is about to be deleted (KEP-3836).", eligible);
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
    let removed = Removal::ALL.map(|removal| {
        let count = state.flows_removed.get(removal.name()).copied().unwrap_or(0);
        (format!("{{reason=\"{}\"}}", removal.name()), count)
    });
    family(
        "sluice_flows_removed_total",
        "counter",
        "Connections of the packet path that the agent made the kernel forget.",
        removed.into(),
    );
    let counters = state.redirector.iter().map(|(what, n)| (format!("{{event=\"{what}\"}}"), *n)).collect();
    family(
        "sluice_redirector_total",
        "counter",
        "What happened in the redirector since its start.",
        counters,
    );
    let entries = state.map_entries.iter().map(|(map, n)| (format!("{{map=\"{map}\"}}"), *n)).collect();
    family(
        "sluice_map_entries",
        "gauge",
        "Entries that a map holds; those of FLOWS when they were last looked through.",
        entries,
    );
    if let Ok(maps) = BpfMaps::open(pins) {
        let reasons = maps.reasons().unwrap_or_default();
        let samples = reasons.iter().map(|(r, n)| (format!("{{reason=\"{}\"}}", r.name()), *n)).collect();
        family("sluice_reasons_total", "counter", "Outcomes of all hooks, by reason.", samples);
        let samples = maps.capacities().iter().map(|(map, n)| (format!("{{map=\"{map}\"}}"), u64::from(*n)));
        family("sluice_map_capacity", "gauge", "Entries that a map can hold.", samples.collect());
    }
    out
}
