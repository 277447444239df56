//! Sessions of HTTP/2 through the redirector: requests one after the other on a connection that stays. One that the
//! redirector closes in good order (GOAWAY) is replaced, as clients do; a request that fails is lost.

use std::{
    net::SocketAddr,
    os::fd::AsFd as _,
    sync::Arc,
    time::{Duration, Instant},
};

use http_body_util::{BodyExt as _, Empty};
use hyper::{
    Request, StatusCode,
    body::Bytes,
    client::conn::http2::{SendRequest, handshake},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::runtime::{Builder, Runtime};

use super::{Cluster, Runner, Shared, cluster::RULED};

const CLIENTS: usize = 4;
const REQUESTS: usize = 20;
const PATIENCE: Duration = Duration::from_secs(10);

type Sender = SendRequest<Empty<Bytes>>;

/// A client's runtime and its connection, if it has one.
struct Client {
    netns: String,
    to: SocketAddr,
    running: Option<Runtime>,
    sender: Option<Sender>,
}

pub fn start(cluster: &Cluster, shared: &Arc<Shared>) -> Vec<Runner> {
    let to = crate::peer::address(RULED);
    let netns = format!("/run/netns/{}", cluster.inside.netns);
    let clients = (0..CLIENTS).map(|_| Client { netns: netns.clone(), to, running: None, sender: None });
    clients.map(|mut client| Runner::start(shared, 1, move |shared| client.round(shared))).collect()
}

impl Client {
    fn round(&mut self, shared: &Shared) -> Vec<String> {
        let running = self.running.take().unwrap_or_else(|| enter(&self.netns));
        let mut lost = Vec::new();
        for _ in 0..REQUESTS {
            let sent = Instant::now();
            if let Err(error) = running.block_on(self.ask()) {
                self.sender = None;
                lost.extend(shared.judge(sent, error));
            }
        }
        self.running = Some(running);
        lost
    }

    async fn ask(&mut self) -> Result<(), String> {
        let asking = async {
            let mut kept = self.sender.take();
            let is_open = match &mut kept {
                Some(sender) => sender.ready().await.is_ok(),
                None => false,
            };
            let mut sender = match kept.filter(|_| is_open) {
                Some(sender) => sender,
                None => connect(self.to).await?,
            };
            let request =
                Request::get(format!("http://{}/kb", self.to)).body(Empty::new()).expect("a request");
            let answered = sender.send_request(request).await;
            let answer = match answered {
                // Not even sent, for the other end had said that it takes no more: others will.
                Err(error) if error.is_canceled() => {
                    sender = connect(self.to).await?;
                    let again =
                        Request::get(format!("http://{}/kb", self.to)).body(Empty::new()).expect("a request");
                    sender.send_request(again).await
                }
                answered => answered,
            };
            let answer = answer.map_err(|error| format!("a request: {error:?}"))?;
            let status = answer.status();
            answer.into_body().collect().await.map_err(|error| format!("an answer's body: {error:?}"))?;
            if status != StatusCode::OK {
                return Err(format!("answered {status}"));
            }
            Ok(sender)
        };
        let sender =
            tokio::time::timeout(PATIENCE, asking).await.unwrap_or_else(|_| Err("no answer".to_owned()));
        self.sender = Some(sender.map_err(|error| format!("HTTP/2 to {}: {error}", self.to))?);
        Ok(())
    }
}

/// This thread is in the pod's network from now on.
pub fn move_into(netns: &str) {
    let file = std::fs::File::open(netns).expect("the pod's namespace");
    move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).expect("setns");
}

/// A runtime on this thread, which is in the pod's network from now on.
fn enter(netns: &str) -> Runtime {
    move_into(netns);
    Builder::new_current_thread().enable_all().build().expect("a runtime")
}

async fn connect(to: SocketAddr) -> Result<Sender, String> {
    let socket = tokio::net::TcpStream::connect(to).await.map_err(|error| format!("connect: {error}"))?;
    let connected = handshake(TokioExecutor::new(), TokioIo::new(socket)).await;
    let (sender, connection) = connected.map_err(|error| format!("handshake: {error:?}"))?;
    tokio::spawn(connection);
    Ok(sender)
}
