//! An HTTP connection of a client: hyper with our limits. What is done with requests is in `request.rs`.

use std::{
    cell::RefCell, convert::Infallible, error::Error, future::poll_fn, io, net::IpAddr, pin::pin, rc::Rc,
    sync::Arc, task::Poll, time::Duration,
};

use http::Request;
use hyper::{
    body::Incoming,
    rt::Executor,
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{sync::oneshot, time::Instant};

use super::{
    connection::{Look, PREFACE, look},
    counters::{Counter, OneOpen, Open},
    h2c,
    limits::{Excess, Place, RequestPlace},
    pace::{Pace, UnderWay, Watch},
    proxy_protocol::Ends,
    request,
    stream::ClientStream,
    tunnel,
    view::View,
    worker::{DRAIN_GRACE, Worker},
};

/// Names and values of all headers of a message, bytes.
pub const HEADERS_MAX: usize = 60 << 10;
/// Names and values by HTTP/2 that are read at all, so that they can be refused.
pub const HEADERS_LARGEST: usize = 4 * HEADERS_MAX;
/// Streams that a client may open and reset before we have looked at them (CVE-2023-44487).
const RESET_STREAMS_MAX: usize = 32;
/// HTTP/2 clients that do not answer a ping are gone.
const PING_INTERVAL: Duration = Duration::from_secs(60);
/// Bytes on their way to a client, per HTTP/2 stream.
const SEND_BUFFER_MAX: usize = 256 << 10;

/// An HTTP connection of a client.
#[derive(Debug)]
pub struct Session {
    /// The worker that serves it.
    pub worker: Rc<Worker>,
    /// The client.
    pub client: IpAddr,
    /// Whether the client speaks HTTP/2 here.
    pub http2: bool,
    ends: Ends,
    view: RefCell<Option<Rc<View>>>,
    pace: Rc<Pace>,
    place: Rc<Place>,
    /// Who waits for the end of HTTP/1.
    handover: RefCell<Option<oneshot::Sender<ClientStream>>>,
    /// The request that becomes the first stream of HTTP/2, as frames.
    first: RefCell<Option<Vec<u8>>>,
}

/// Runs hyper's tasks on this thread.
#[derive(Clone, Copy, Debug)]
pub struct Local;

impl<F> Executor<F> for Local
where
    F: Future<Output: 'static> + 'static,
{
    fn execute(&self, future: F) {
        tokio::task::spawn_local(future);
    }
}

impl Session {
    /// The frontend by the configuration as it is now; `None` when it has gone.
    pub fn view(&self) -> Option<Rc<View>> {
        let config = self.worker.config();
        let mut view = self.view.borrow_mut();
        if view.as_ref().is_none_or(|view| !Arc::ptr_eq(&view.config, &config)) {
            *view = View::new(config, self.ends).map(Rc::new);
        }
        view.clone()
    }

    /// The head of a request is complete.
    pub fn begin(&self) -> UnderWay {
        self.pace.begin()
    }

    /// The client's connection, or its stream, once it is no HTTP any more.
    pub fn socket(&self, received: &mut Request<Incoming>) -> tunnel::Socket {
        if self.http2 {
            return tunnel::Socket::Http2(hyper::upgrade::on(received));
        }
        let (sender, receiver) = oneshot::channel();
        // Requests come one after the other: of an earlier one that was not granted nobody waits any more.
        self.handover.replace(Some(sender));
        tunnel::Socket::Http1(receiver)
    }

    /// Goes on by HTTP/2, whose first stream has these frames, once the client was told.
    pub fn go_on_by_http2(&self, first: Vec<u8>) {
        self.first.replace(Some(first));
        self.pace.leave();
    }

    /// The answer that was given makes something else than HTTP of an HTTP/1 connection.
    pub fn leave(&self) {
        self.pace.leave();
    }

    /// A place for the request; `None`, counted, when too many are under way, of the client or in all.
    pub fn request_place(&self) -> Option<Rc<RequestPlace>> {
        match self.place.request(self.worker.options().request_limit()) {
            Ok(place) => Some(Rc::new(place)),
            Err(excess) => {
                self.worker.count(match excess {
                    Excess::Client => Counter::RefusedRequestLimit,
                    Excess::All => Counter::RefusedRequestsInAll,
                });
                None
            }
        }
    }
}

/// Serves HTTP on `stream` until it ends.
pub async fn serve(worker: Rc<Worker>, stream: ClientStream, view: View, place: Rc<Place>, http2: bool) {
    let (ends, client) = (view.ends, view.ends.client.ip());
    let pace = Pace::new(worker.options().header_timeout, worker.counters.clone());
    let view = RefCell::new(Some(Rc::new(view)));
    let session = Rc::new(Session {
        worker,
        client,
        http2,
        ends,
        view,
        pace,
        place,
        handover: RefCell::default(),
        first: RefCell::default(),
    });
    // Connections lie idle by the thousand: what lies has no room for what serves.
    let ended = if http2 {
        Box::pin(serve_http2(&session, stream)).await
    } else {
        match serve_http1(&session, stream).await {
            Ok(Some(first)) => Box::pin(upgraded(&session, first)).await,
            Ok(None) => Ok(()),
            Err(error) => Err(error),
        }
    };
    if let Err(error) = ended {
        session.worker.count(reason(&error));
    }
}

/// Returns when draining has begun and a request is under way, whose answer then says that it is the last one; or when none
/// has come for a moment. hyper would close a connection without one at once, and what the client has just sent were lost.
async fn last_request(worker: &Worker, pace: &Pace) {
    let end = worker.draining().await.min(Instant::now() + DRAIN_GRACE);
    // An error is the end of that moment.
    let _elapsed = tokio::time::timeout_at(end, pace.is_under_way()).await;
}

/// Serves requests, and between them keeps nothing but the socket once none has come for a moment: buffers, state and the
/// room for a request are some 20 KB.
async fn serve_http1(session: &Rc<Session>, mut stream: ClientStream) -> hyper::Result<Option<First>> {
    stream.set_watch(Watch::http1(session.pace.clone()));
    loop {
        stream = match Box::pin(talk_http1(session, stream)).await? {
            Then::Rest(stream) => stream,
            Then::Http2(first) => return Ok(Some(first)),
            Then::End => break,
        };
        // It may be of a configuration that has gone.
        session.view.take();
        let options = session.worker.options();
        let _resting = OneOpen::new(&session.worker.counters, Open::Resting);
        tokio::select! {
            biased;
            came = stream.comes() => if came.is_err() { break },
            () = last_request(&session.worker, &session.pace) => break,
            () = tokio::time::sleep(options.client_idle_timeout.saturating_sub(options.rest_after)) => break,
        }
    }
    Ok(None)
}

/// A connection that becomes one of HTTP/2, and the frames of its first stream.
type First = (ClientStream, Vec<u8>);

/// What becomes of an HTTP/1 connection.
enum Then {
    /// It goes on with the next request.
    Rest(ClientStream),
    /// It goes on by HTTP/2.
    Http2(First),
    /// It has ended, or is a tunnel.
    End,
}

/// Serves requests as they come, until none has come for a moment.
async fn talk_http1(session: &Rc<Session>, stream: ClientStream) -> hyper::Result<Then> {
    let serving = session.clone();
    let service = service_fn(move |received: Request<Incoming>| {
        let session = serving.clone();
        async move { Ok::<_, Infallible>(request::handle(session, received).await) }
    });
    let mut builder = http1::Builder::new();
    // Heads are bounded by the stream, and the silence between them here.
    builder.header_read_timeout(None).max_header_size(HEADERS_MAX).max_buf_size(HEADERS_MAX + (4 << 10));
    let mut connection = builder.serve_connection(TokioIo::new(stream), service);
    let (worker, pace) = (&session.worker, &session.pace);
    let mut draining = pin!(last_request(worker, pace));
    let mut told = false;
    // Of a client that does not read its answer nothing can be laid down.
    let mut idle = pin!(pace.idle_for(worker.options().client_idle_timeout, 4));
    loop {
        tokio::select! {
            // First of all what has come already.
            biased;
            ended = &mut connection => {
                ended?;
                break;
            }
            () = draining.as_mut(), if !told => {
                told = true;
                std::pin::Pin::new(&mut connection).graceful_shutdown();
            }
            () = pace.idle_for(worker.options().rest_after, 1), if !told => if pace.is_at_rest() {
                // hyper lets an idle connection go at once, and we do not let it close the socket.
                pace.keep_open(true);
                std::pin::Pin::new(&mut connection).graceful_shutdown();
                let ended = poll_fn(|cx| Poll::Ready(std::pin::Pin::new(&mut connection).poll(cx))).await;
                pace.keep_open(false);
                if let Poll::Ready(ended) = ended {
                    ended?;
                    let parts = connection.into_parts();
                    let mut stream = parts.io.into_inner();
                    stream.unread(&parts.read_buf);
                    return Ok(Then::Rest(stream));
                }
            },
            () = idle.as_mut() => return Ok(Then::End),
        }
    }
    if !session.pace.has_left() {
        return Ok(Then::End);
    }
    let parts = connection.into_parts();
    let mut stream = parts.io.into_inner();
    stream.unread(&parts.read_buf);
    if let Some(first) = session.first.take() {
        return Ok(Then::Http2((stream, first)));
    }
    if let Some(handover) = session.handover.take() {
        // Nobody takes it where a rule has answered a CONNECT.
        drop(handover.send(stream));
    }
    Ok(Then::End)
}

/// Serves HTTP/2 on what was HTTP/1, once the client has begun with it.
async fn upgraded(session: &Rc<Session>, (mut stream, first): First) -> hyper::Result<()> {
    let worker = &session.worker;
    match look(&mut stream, worker.options().header_timeout, h2c::beginning).await {
        Look::Told(Some(end)) => stream.insert(end, &first),
        Look::Told(None) | Look::Ended => {
            worker.count(Counter::Broken);
            return Ok(());
        }
        Look::Late => {
            worker.count(Counter::RefusedSlowHeaders);
            return Ok(());
        }
    }
    let session = Rc::new(Session {
        worker: worker.clone(),
        client: session.client,
        http2: true,
        ends: session.ends,
        view: RefCell::default(),
        pace: Pace::new(worker.options().header_timeout, worker.counters.clone()),
        place: session.place.clone(),
        handover: RefCell::default(),
        first: RefCell::default(),
    });
    serve_http2(&session, stream).await
}

async fn serve_http2(session: &Rc<Session>, mut stream: ClientStream) -> hyper::Result<()> {
    stream.set_watch(Watch::http2(session.pace.clone(), PREFACE.len()));
    let serving = session.clone();
    let service = service_fn(move |received: Request<Incoming>| {
        let session = serving.clone();
        async move { Ok::<_, Infallible>(request::handle(session, received).await) }
    });
    let mut builder = http2::Builder::new(Local);
    builder
        .timer(TokioTimer::new())
        .enable_connect_protocol()
        .max_concurrent_streams(session.worker.options().streams_per_connection)
        .max_pending_accept_reset_streams(RESET_STREAMS_MAX)
        // Beyond it h2 answers 431 by itself, and nobody counts it.
        .max_header_list_size(HEADERS_LARGEST as u32)
        .keep_alive_interval(PING_INTERVAL)
        .max_send_buf_size(SEND_BUFFER_MAX);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
    tokio::select! {
        biased;
        ended = connection.as_mut() => return ended,
        _ = session.worker.draining() => {}
        () = session.pace.idle_for(session.worker.options().client_idle_timeout, 4) => {}
    }
    connection.as_mut().graceful_shutdown();
    connection.await
}

/// What an error of hyper is counted as.
fn reason(error: &hyper::Error) -> Counter {
    if error.is_parse_too_large() {
        return Counter::RefusedLargeHeaders;
    }
    if error.is_parse() {
        return Counter::RefusedMalformed;
    }
    let mut source: Option<&(dyn Error + 'static)> = error.source();
    while let Some(cause) = source {
        let late = cause.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::TimedOut);
        if late {
            return Counter::RefusedSlowHeaders;
        }
        // The type is h2's, which is no dependency of ours; this is its text for ENHANCE_YOUR_CALM.
        if cause.to_string().contains("excessive load") {
            return Counter::RefusedResetFlood;
        }
        source = cause.source();
    }
    Counter::Broken
}
