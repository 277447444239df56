//! Connections that stop being HTTP: upgrades and CONNECT. From then on bytes are copied both ways.

use std::rc::Rc;

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::{io::copy_bidirectional, task::spawn_local};

use super::{balance::InFlight, counters::Counter, worker::Worker};

/// On an answer: the client's side of a tunnel that was wanted by HTTP/2.
#[derive(Clone, Copy, Debug)]
pub struct Switched;

/// Joins both sides once hyper has let go of them.
pub fn start(worker: &Rc<Worker>, client: OnUpgrade, endpoint: OnUpgrade, in_flight: InFlight) {
    worker.count(Counter::Tunnels);
    let open = worker.keep();
    spawn_local(async move {
        if let (Ok(client), Ok(endpoint)) = tokio::join!(client, endpoint) {
            // How a tunnel ends is its users' affair.
            let _copied = copy_bidirectional(&mut TokioIo::new(client), &mut TokioIo::new(endpoint)).await;
        }
        drop((open, in_flight));
    });
}
