//! Sessions of HTTP/2 through the redirector: requests one after the other on a connection that stays, beside a response
//! that goes on and on. A connection that the redirector closes in good order (GOAWAY) is replaced, as clients do, where a
//! redirector goes; one that ends otherwise is lost, and so are a request that fails and a long response that breaks off.

use std::{
    net::SocketAddr,
    os::fd::AsFd as _,
    sync::Arc,
    time::{Duration, Instant},
};

use http_body_util::{BodyExt as _, Empty};
use hyper::{
    Request, Response, StatusCode,
    body::{Bytes, Incoming},
    client::conn::http2::{SendRequest, handshake},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::{
    runtime::{Builder, Runtime},
    sync::watch,
    task::JoinHandle,
};

use super::{Cluster, Runner, Shared, cluster::RULED};

/// How many there are.
pub const CLIENTS: usize = 4;
const REQUESTS: usize = 20;
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a long response is read: a redirector that goes waits a minute for it and no longer.
const LIFE: Duration = Duration::from_secs(20);

/// A client's runtime, its connection, and the response that it reads on and on, if it has one.
struct Client {
    netns: String,
    to: SocketAddr,
    connection: Option<Connection>,
    long: Option<Long>,
    lost: Vec<String>,
}

/// A connection, since when it is there, and what becomes of it.
struct Connection {
    sender: SendRequest<Empty<Bytes>>,
    since: Instant,
    ended: JoinHandle<hyper::Result<()>>,
}

/// A response that is read as it comes, all of it at once: what lies unread holds up others of its connection.
struct Long {
    since: Instant,
    /// Bytes that came.
    read: watch::Receiver<usize>,
    /// How it ended, which it never does by itself.
    broken: JoinHandle<String>,
}

pub fn start(cluster: &Cluster, shared: &Arc<Shared>) -> Vec<Runner> {
    let to = crate::peer::address(RULED);
    let netns = format!("/run/netns/{}", cluster.inside.netns);
    let client = || Client { netns: netns.clone(), to, connection: None, long: None, lost: Vec::new() };
    let clients = std::iter::repeat_with(client).take(CLIENTS).map(|mut client| {
        let mut running = None;
        // Connection and long response.
        Runner::start(shared, 2, move |shared| {
            let running = running.get_or_insert_with(|| enter(&client.netns));
            running.block_on(client.round(shared))
        })
    });
    clients.collect()
}

impl Client {
    async fn round(&mut self, shared: &Shared) -> Vec<String> {
        for _ in 0..REQUESTS {
            let sent = Instant::now();
            if let Err(error) = patiently(self.ask(shared)).await {
                // What failed is lost once, whatever became of its connection.
                self.connection = None;
                let error = format!("HTTP/2 to {}: {error}", self.to);
                self.lost.extend(shared.judge(sent, error));
            }
        }
        self.long.take_if(|long| long.since.elapsed() > LIFE);
        let since = self.long.as_ref().map_or_else(Instant::now, |long| long.since);
        if let Err(error) = patiently(self.read_on(shared)).await {
            self.long = None;
            let error = format!("a long response of {} since {:?}: {error}", self.to, since.elapsed());
            self.lost.extend(shared.judge(since, error));
        }
        std::mem::take(&mut self.lost)
    }

    async fn ask(&mut self, shared: &Shared) -> Result<(), String> {
        let answer = self.request(shared, "/kb").await?;
        let body = answer.into_body().collect().await;
        body.map(drop).map_err(|error| format!("an answer's body: {error:?}"))
    }

    /// Waits until more of the long response has come, or the first of another one.
    async fn read_on(&mut self, shared: &Shared) -> Result<(), String> {
        let mut long = match self.long.take() {
            Some(long) => long,
            None => Long::of(self.request(shared, "/long").await?),
        };
        if long.read.changed().await.is_err() {
            return Err((&mut long.broken).await.unwrap_or_else(|panicked| panicked.to_string()));
        }
        self.long = Some(long);
        Ok(())
    }

    /// Sends a request on the connection that there is, or on another one if that takes no more.
    async fn request(&mut self, shared: &Shared, path: &str) -> Result<Response<Incoming>, String> {
        loop {
            let mut connection = match self.connection.take() {
                Some(connection) => connection,
                None => connect(self.to).await?,
            };
            let uri = format!("http://{}{path}", self.to);
            let request = Request::get(uri).body(Empty::new()).expect("a request");
            let answered = match connection.sender.ready().await {
                Ok(()) => connection.sender.send_request(request).await,
                Err(closed) => Err(closed),
            };
            match answered {
                // Not even sent.
                Err(error) if error.is_canceled() || error.is_closed() => {
                    self.lost.extend(connection.judge(shared, self.to).await);
                }
                Err(error) => return Err(format!("a request: {error:?}")),
                Ok(answer) => {
                    self.connection = Some(connection);
                    let status = answer.status();
                    return if status == StatusCode::OK {
                        Ok(answer)
                    } else {
                        Err(format!("answered {status}"))
                    };
                }
            }
        }
    }
}

impl Connection {
    /// The loss, if there is one, of a connection that takes no more requests. Streams on it may go on.
    async fn judge(self, shared: &Shared, to: SocketAddr) -> Option<String> {
        let how = match self.ended.await {
            Ok(Ok(())) if shared.redirector_goes() => return None,
            Ok(Ok(())) => "closed in good order, though no redirector was told to go".to_owned(),
            Ok(Err(_)) if shared.excuses(self.since) => return None,
            Ok(Err(error)) => format!("{error:?}"),
            Err(panicked) => panicked.to_string(),
        };
        Some(format!("a connection of HTTP/2 to {to} since {:?}: {how}", self.since.elapsed()))
    }
}

impl Long {
    fn of(answer: Response<Incoming>) -> Self {
        let (told, read) = watch::channel(0);
        let mut body = answer.into_body();
        let broken = tokio::spawn(async move {
            loop {
                match body.frame().await {
                    Some(Ok(frame)) => {
                        told.send_modify(|read| *read += frame.data_ref().map_or(0, Bytes::len))
                    }
                    Some(Err(error)) => return format!("it breaks off: {error:?}"),
                    None => return format!("it ends after {} bytes", *told.borrow()),
                }
            }
        });
        Self { since: Instant::now(), read, broken }
    }
}

impl Drop for Long {
    fn drop(&mut self) {
        self.broken.abort();
    }
}

async fn patiently<T>(work: impl Future<Output = Result<T, String>>) -> Result<T, String> {
    tokio::time::timeout(PATIENCE, work).await.unwrap_or_else(|_| Err("no answer".to_owned()))
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

async fn connect(to: SocketAddr) -> Result<Connection, String> {
    let socket = tokio::net::TcpStream::connect(to).await.map_err(|error| format!("connect: {error}"))?;
    let connected = handshake(TokioExecutor::new(), TokioIo::new(socket)).await;
    let (sender, connection) = connected.map_err(|error| format!("handshake: {error:?}"))?;
    Ok(Connection { sender, since: Instant::now(), ended: tokio::spawn(connection) })
}
