//! Connections that stop being HTTP: upgrades and CONNECT. From then on bytes are copied both ways.

use std::rc::Rc;

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::{io::copy_bidirectional, task::spawn_local};

use super::{balance::InFlight, counters::Counter, limits::RequestPlace, stream::UnderWay, worker::Worker};

/// On an answer: the client's side of a tunnel that was wanted by HTTP/2.
#[derive(Clone, Copy, Debug)]
pub struct Switched;

/// The client's side of what may become a tunnel, which counts as its request for as long as it is there.
#[derive(Debug)]
pub struct Near {
    /// What hyper will let go of.
    pub socket: OnUpgrade,
    /// The request's place.
    pub place: Rc<RequestPlace>,
    /// What comes on the connection is no head of a request, which must not be slow.
    pub under_way: UnderWay,
}

/// Joins both sides once hyper has let go of them.
pub fn start(worker: &Rc<Worker>, client: Near, endpoint: OnUpgrade, in_flight: InFlight) {
    worker.count(Counter::Tunnels);
    let open = worker.keep();
    spawn_local(async move {
        if let (Ok(client), Ok(endpoint)) = tokio::join!(client.socket, endpoint) {
            // How a tunnel ends is its users' affair.
            let _copied = copy_bidirectional(&mut TokioIo::new(client), &mut TokioIo::new(endpoint)).await;
        }
        drop((open, in_flight, client.place, client.under_way));
    });
}
