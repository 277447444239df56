//! Connections that are passed through: TCP, and TLS by server name. Half-closed is half-closed on both sides.

use std::{net::IpAddr, rc::Rc};

use crate::l7::rules::table::Target;
use tokio::{io::copy_bidirectional_with_sizes, net::TcpStream};

use super::{
    balance::{InFlight, Wish},
    connect::Peer,
    counters::Counter,
    stream::ClientStream,
    view::View,
    worker::Worker,
};

/// Endpoints that are tried before a connection is given up; none of them has seen a byte.
const TRIES: usize = 3;
const BUFFER: usize = 16 << 10;

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
    let Some((mut upstream, in_flight)) = connect(&worker, view, client, target).await else { return };
    worker.count(Counter::Passed);
    let copied = copy_bidirectional_with_sizes(&mut stream, &mut upstream, BUFFER, BUFFER).await;
    if copied.is_err() {
        worker.count(Counter::Broken);
    }
    drop(in_flight);
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
    let mut tried = Vec::new();
    while tried.len() < TRIES.min(candidates.len()) {
        let wish = Wish { hash: candidates.client_hash(policy, client), tried: &tried, avoid_tried: true };
        let endpoint = worker.balancer.choose(&worker.draws, &candidates, policy, wish)?;
        let in_flight = worker.balancer.enter(endpoint);
        if let Ok(socket) = peer.connect(worker, endpoint).await {
            return Some((socket, in_flight));
        }
        tried.push(endpoint);
    }
    None
}
