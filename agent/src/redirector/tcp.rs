//! Connections that are passed through: TCP, and TLS by server name. Half-closed is half-closed on both sides.

use std::{net::IpAddr, rc::Rc, time::Duration};

use crate::l7::rules::table::Target;
use tokio::{io::copy_bidirectional_with_sizes, net::TcpStream};

use super::{
    balance::{InFlight, Wish},
    circuit::What,
    connect::Peer,
    counters::Counter,
    destinations::Use,
    hash::Stick,
    idle::Watched,
    outliers::Event,
    stream::ClientStream,
    view::View,
    worker::Worker,
};

/// Endpoints that are tried before a connection is given up; none of them has seen a byte.
const TRIES: usize = 3;
const BUFFER: usize = 16 << 10;
/// What `connectionPool.tcp.idleTimeout` is when nobody sets it.
const IDLE: Duration = Duration::from_secs(3600);

/// Passes a connection through by the rules of `tcp`.
pub async fn serve(worker: Rc<Worker>, stream: ClientStream, view: &View, client: IpAddr) {
    let rule = view.routes.select_tcp();
    let target = match rule {
        Some(rule) => rule.pick(worker.draws.next()),
        None => Some(&view.routes.service),
    };
    pass(worker, stream, view, client, target).await;
}

/// Passes a connection through by the rules of `tls`, else by those of `tcp`.
pub async fn serve_tls(
    worker: Rc<Worker>,
    stream: ClientStream,
    view: &View,
    client: IpAddr,
    server_name: Option<String>,
) {
    match view.routes.select_tls(server_name.as_deref()) {
        Some(rule) => {
            let target = rule.pick(worker.draws.next());
            pass(worker, stream, view, client, target).await;
        }
        None => serve(worker, stream, view, client).await,
    }
}

async fn pass(
    worker: Rc<Worker>,
    mut stream: ClientStream,
    view: &View,
    client: IpAddr,
    target: Option<&Target>,
) {
    let Some((upstream, in_flight)) = connect(&worker, view, client, target).await else { return };
    worker.count(Counter::Passed);
    let pool =
        target.and_then(|target| target.policy.as_ref()?.traffic.connection_pool.as_ref()?.tcp.as_ref());
    let idle = pool.and_then(|pool| pool.idle_timeout).map_or(IDLE, |limit| limit.0);
    let age = pool.and_then(|pool| pool.max_connection_duration).map(|limit| limit.0);
    let (mut upstream, used) = Watched::new(upstream);
    let outcome = tokio::select! {
        copied = copy_bidirectional_with_sizes(&mut stream, &mut upstream, BUFFER, BUFFER) => {
            copied.is_err().then_some(Counter::Broken)
        }
        () = used.silent_for(idle) => Some(Counter::ClosedIdle),
        () = aged(age) => Some(Counter::ClosedOld),
    };
    if let Some(counter) = outcome {
        worker.count(counter);
    }
    drop(in_flight);
}

async fn aged(limit: Option<Duration>) {
    match limit {
        Some(limit) => tokio::time::sleep(limit).await,
        None => std::future::pending().await,
    }
}

async fn connect(
    worker: &Rc<Worker>,
    view: &View,
    client: IpAddr,
    target: Option<&Target>,
) -> Option<(TcpStream, InFlight)> {
    let candidates = match target {
        Some(target) => worker.balancer.candidates(worker, &view.config, target).await,
        None => None,
    };
    let Some((target, candidates)) = target.zip(candidates) else {
        worker.count(Counter::NoEndpoints);
        return None;
    };
    let policy = target.policy.as_deref();
    let peer = Peer::new(worker, view, client, policy);
    let circuit = worker.shared.circuits.circuit(client, target);
    let place = circuit.as_ref().map(|circuit| circuit.enter(What::Connection));
    if matches!(place, Some(None)) {
        worker.count(Counter::OverflowConnections);
        return None;
    }
    let place = place.flatten().map(Rc::new);
    let hash = Stick::of_connection(policy, candidates.affinity(), client).hash;
    let mut tried = Vec::new();
    while tried.len() < TRIES.min(candidates.len()) {
        let wish = Wish { hash, tried: &tried, avoid_tried: true, leaves_zone: false };
        let endpoint = worker.balancer.choose(&worker.draws, &candidates, policy, wish)?;
        let mut in_flight = worker.balancer.enter(endpoint, &candidates, Use::Passed);
        let connected = peer.connect(worker, endpoint).await;
        let event = if connected.is_ok() { Event::Answer(200) } else { Event::Failure(503) };
        candidates.note(worker, endpoint, event);
        if let Ok(socket) = connected {
            in_flight.hold(place);
            return Some((socket, in_flight));
        }
        tried.push(endpoint);
    }
    None
}
