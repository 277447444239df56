//! Connections that stop being HTTP: upgrades and CONNECT. From then on bytes are copied both ways.

use std::rc::Rc;

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::{io::copy_bidirectional, sync::oneshot, task::spawn_local};

use super::{
    balance::InFlight, counters::Counter, limits::RequestPlace, pace::UnderWay, stream::ClientStream,
    worker::Worker,
};

/// On an answer: the client's side of a tunnel that was wanted by HTTP/2.
#[derive(Clone, Copy, Debug)]
pub struct Switched;

/// The client's side of what may become a tunnel, which counts as its request for as long as it is there.
#[derive(Debug)]
pub struct Near {
    /// Where it comes from.
    pub socket: Socket,
    /// The request's place.
    pub place: Rc<RequestPlace>,
    /// By HTTP/2: a connection with a tunnel is not idle.
    pub under_way: Option<UnderWay>,
}

/// The client's connection, or its stream, once hyper has let go of it.
#[derive(Debug)]
pub enum Socket {
    /// The connection as it came: what we know of it is not hidden from us.
    Http1(oneshot::Receiver<ClientStream>),
    /// A stream among others.
    Http2(OnUpgrade),
}

/// Joins both sides once hyper has let go of them.
pub fn start(worker: &Rc<Worker>, client: Near, endpoint: OnUpgrade, in_flight: InFlight) {
    worker.count(Counter::Tunnels);
    let open = worker.keep();
    spawn_local(async move {
        // How a tunnel ends is its users' affair.
        match client.socket {
            Socket::Http1(client) => {
                if let (Ok(mut client), Ok(endpoint)) = tokio::join!(client, endpoint) {
                    let _copied = copy_bidirectional(&mut client, &mut TokioIo::new(endpoint)).await;
                }
            }
            Socket::Http2(client) => {
                if let (Ok(client), Ok(endpoint)) = tokio::join!(client, endpoint) {
                    let (mut client, mut endpoint) = (TokioIo::new(client), TokioIo::new(endpoint));
                    let _copied = copy_bidirectional(&mut client, &mut endpoint).await;
                }
            }
        }
        drop((open, in_flight, client.place, client.under_way));
    });
}
