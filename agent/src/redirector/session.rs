//! An HTTP connection of a client: hyper with our limits. What is done with requests is in `request.rs`.

use std::{
    cell::RefCell, convert::Infallible, error::Error, io, net::IpAddr, pin::pin, rc::Rc, sync::Arc,
    time::Duration,
};

use http::Request;
use hyper::{
    body::Incoming,
    rt::Executor,
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::time::Instant;

use super::{
    counters::Counter,
    limits::{Place, RequestPlace},
    proxy_protocol::Ends,
    request,
    stream::{ClientStream, Pace, UnderWay},
    view::View,
    worker::{DRAIN_GRACE, Worker},
};

/// Names and values of all headers of a message, bytes.
pub const HEADERS_MAX: usize = 60 << 10;
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
    pace: Arc<Pace>,
    place: Rc<Place>,
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

    /// A place for the request; `None`, counted, when the client has too many under way.
    pub fn request_place(&self) -> Option<Rc<RequestPlace>> {
        let place = self.place.request(self.worker.options().requests_per_client);
        if place.is_none() {
            self.worker.count(Counter::RefusedRequestLimit);
        }
        place.map(Rc::new)
    }
}

/// Serves HTTP on `stream` until it ends.
pub async fn serve(worker: Rc<Worker>, mut stream: ClientStream, view: View, place: Rc<Place>, http2: bool) {
    let (ends, client) = (view.ends, view.ends.client.ip());
    let pace = Pace::new(worker.options().header_timeout);
    if !http2 {
        stream.set_pace(pace.clone());
    }
    let view = RefCell::new(Some(Rc::new(view)));
    let session = Session { worker: worker.clone(), client, http2, ends, view, pace: pace.clone(), place };
    let session = Rc::new(session);
    let service = service_fn(move |received: Request<Incoming>| {
        let session = session.clone();
        async move { Ok::<_, Infallible>(request::handle(session, received).await) }
    });
    let ended = if http2 {
        let mut builder = http2::Builder::new(Local);
        builder
            .timer(TokioTimer::new())
            .enable_connect_protocol()
            .max_concurrent_streams(worker.options().streams_per_connection)
            .max_pending_accept_reset_streams(RESET_STREAMS_MAX)
            .max_header_list_size(HEADERS_MAX as u32)
            .keep_alive_interval(PING_INTERVAL)
            .max_send_buf_size(SEND_BUFFER_MAX);
        let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
        tokio::select! {
            ended = connection.as_mut() => ended,
            _ = worker.draining() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        }
    } else {
        let mut builder = http1::Builder::new();
        // This bounds the silence between requests; heads are bounded by the stream.
        builder
            .timer(TokioTimer::new())
            .header_read_timeout(worker.options().client_idle_timeout)
            .max_header_size(HEADERS_MAX)
            .max_buf_size(HEADERS_MAX + (4 << 10));
        let connection = builder.serve_connection(TokioIo::new(stream), service).with_upgrades();
        let mut connection = pin!(connection);
        tokio::select! {
            ended = connection.as_mut() => ended,
            () = last_request(&worker, &pace) => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        }
    };
    if let Err(error) = ended {
        worker.count(reason(&error));
    }
}

/// Returns when draining has begun and a request is under way, whose answer then says that it is the last one; or when none
/// has come for a moment. hyper would close a connection without one at once, and what the client has just sent were lost.
async fn last_request(worker: &Worker, pace: &Pace) {
    let end = worker.draining().await.min(Instant::now() + DRAIN_GRACE);
    // An error is the end of that moment.
    let _elapsed = tokio::time::timeout_at(end, pace.is_under_way()).await;
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
