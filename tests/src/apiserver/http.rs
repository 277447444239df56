//! The HTTP side: one thread with its own runtime, listening in the node's network namespace.

use std::{
    collections::{HashMap, VecDeque},
    convert::Infallible,
    net::{SocketAddr, TcpListener},
    os::fd::AsFd as _,
    sync::Arc,
    time::Duration,
};

use futures::{Stream, StreamExt as _, stream};
use http_body_util::{BodyExt, Full, StreamBody, combinators::BoxBody};
use hyper::{
    Request, Response, StatusCode,
    body::{Bytes, Frame, Incoming},
    header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue, RETRY_AFTER},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde_json::{Value, json};
use tokio::sync::{oneshot, watch};

use super::{RESOURCES, Shared, events};

type Body = BoxBody<Bytes, Infallible>;

/// Stops serving when dropped.
#[derive(Debug)]
pub struct Running {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _its_panic_was_printed = thread.join();
        }
    }
}

/// Serves `shared` at `address` in the namespace `netns`.
///
/// # Panics
/// The address cannot be had.
pub fn serve(netns: &str, address: SocketAddr, shared: Arc<Shared>) -> Running {
    let (stop, stopped) = oneshot::channel::<()>();
    let (ready, wait) = std::sync::mpsc::channel();
    let netns = format!("/run/netns/{netns}");
    let thread = std::thread::spawn(move || {
        let file = std::fs::File::open(&netns).expect("the node's namespace");
        move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).expect("setns");
        // A port whose last connections are in TIME_WAIT is free for std's listeners: they set SO_REUSEADDR.
        let listener = TcpListener::bind(address).expect("the API server's address");
        listener.set_nonblocking(true).expect("a non-blocking listener");
        ready.send(()).expect("somebody waits");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::from_std(listener).expect("a listener");
            tokio::select! {
                () = accept(listener, shared) => {}
                _ = stopped => {}
            }
        });
        // Open watches end with their tasks.
        runtime.shutdown_timeout(Duration::ZERO);
    });
    wait.recv().expect("the server listens");
    Running { stop: Some(stop), thread: Some(thread) }
}

async fn accept(listener: tokio::net::TcpListener, shared: Arc<Shared>) {
    while let Ok((stream, _)) = listener.accept().await {
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            let service = service_fn(move |request| answer(request, Arc::clone(&shared)));
            let _client_left = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn answer(request: Request<Incoming>, shared: Arc<Shared>) -> Result<Response<Body>, Infallible> {
    let query = query(request.uri().query().unwrap_or_default());
    shared.thawed().await;
    let shown = request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    if shared.lock().token.as_deref().is_some_and(|wanted| shown != Some(wanted)) {
        return Ok(status(401, "Unauthorized"));
    }
    if let Some(seconds) = shared.lock().unavailable {
        return Ok(wait(503, "ServiceUnavailable", seconds));
    }
    if request.uri().path() == "/version" {
        let body = json!({"major": "1", "minor": shared.lock().minor.to_string(), "gitVersion": "v1", "gitCommit": "",
            "gitTreeState": "", "buildDate": "", "goVersion": "", "compiler": "", "platform": ""});
        return Ok(respond(StatusCode::OK, Full::new(Bytes::from(body.to_string())).boxed()));
    }
    let rules = request.uri().path().starts_with("/apis/networking.istio.io");
    let service_cidrs = request.uri().path().starts_with("/apis/networking.k8s.io");
    if (rules && !shared.lock().serves_rules) || (service_cidrs && !shared.lock().serves_service_cidrs) {
        return Ok(status(404, "NotFound"));
    }
    if request.uri().path() == "/apis/networking.k8s.io/v1" {
        let kind = json!({"name": "servicecidrs", "kind": "ServiceCIDR", "namespaced": false, "singularName": "",
            "verbs": ["list", "watch"]});
        let body = json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": "networking.k8s.io/v1",
            "resources": [kind]});
        return Ok(respond(StatusCode::OK, Full::new(Bytes::from(body.to_string())).boxed()));
    }
    if request.uri().path() == "/apis/networking.istio.io" {
        let version = json!({"groupVersion": "networking.istio.io/v1beta1", "version": "v1beta1"});
        let body = json!({"kind": "APIGroup", "apiVersion": "v1", "name": "networking.istio.io", "versions": [version]});
        return Ok(respond(StatusCode::OK, Full::new(Bytes::from(body.to_string())).boxed()));
    }
    if request.uri().path() == "/apis/networking.istio.io/v1beta1" {
        let kind = |name: &str, kind: &str| {
            json!({"name": name, "kind": kind, "namespaced": true, "singularName": "",
            "verbs": ["list", "watch"]})
        };
        let kinds = [kind("virtualservices", "VirtualService"), kind("destinationrules", "DestinationRule")];
        let body = json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": "networking.istio.io/v1beta1",
            "resources": kinds});
        return Ok(respond(StatusCode::OK, Full::new(Bytes::from(body.to_string())).boxed()));
    }
    let throttled = shared.edit(|state| {
        let left = state.throttled;
        state.throttled = left.saturating_sub(1);
        left > 0
    });
    if throttled {
        return Ok(wait(429, "TooManyRequests", 1));
    }
    if events::is_theirs(request.uri().path()) {
        return Ok(published(request, &shared).await);
    }
    let Some((path, list)) = RESOURCES.into_iter().find(|(path, _)| *path == request.uri().path()) else {
        return Ok(status(404, "NotFound"));
    };
    if let Some(code) = shared.lock().failing.get(path) {
        return Ok(status(*code, "InternalError"));
    }
    let watches = query.get("watch").is_some_and(|value| value == "true" || value == "1");
    if !shared.lock().allows(path, watches) {
        return Ok(status(403, "Forbidden"));
    }
    if watches {
        return Ok(watch_from(path, &query, &shared));
    }
    let mut changes = shared.changed.subscribe();
    while shared.lock().stalled.contains(path) {
        if changes.changed().await.is_err() {
            break;
        }
    }
    Ok(list_page(path, list, &query, &shared))
}

async fn published(request: Request<Incoming>, shared: &Shared) -> Response<Body> {
    let (method, path) = (request.method().to_string(), request.uri().path().to_owned());
    let body = request.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    match shared.edit(|state| state.publish(&method, &path, &body)) {
        Err(code) => status(code, "Refused"),
        Ok((code, event)) => {
            let code = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            respond(code, Full::new(Bytes::from(event.to_string())).boxed())
        }
    }
}

fn list_page(
    path: &'static str,
    list: &str,
    query: &HashMap<String, String>,
    shared: &Shared,
) -> Response<Body> {
    let mut state = shared.lock();
    // Where the page begins, and the version that the first one was of: it may be forgotten by now.
    let (from, begun): (usize, u64) = match query.get("continue").and_then(|token| token.split_once('-')) {
        Some((from, version)) => (from.parse().unwrap_or(0), version.parse().unwrap_or(0)),
        None => (0, state.version),
    };
    if begun < state.oldest {
        return status(410, "Expired");
    }
    if from == 0 {
        *state.lists.entry(path).or_default() += 1;
    }
    let limit: usize = query.get("limit").and_then(|limit| limit.parse().ok()).unwrap_or(usize::MAX);
    let limit = state.forgets_after.map_or(limit, |page| limit.min(page));
    let objects = state.objects.iter().filter(|((of, _), object)| *of == path && selected(object, query));
    let mut rest = objects.map(|(_, object)| object).skip(from);
    let items: Vec<&Value> = rest.by_ref().take(limit).collect();
    let (version, kind) = list.split_once(' ').unwrap_or_default();
    let mut metadata = json!({ "resourceVersion": state.version.to_string() });
    if rest.next().is_some() {
        metadata["continue"] = json!(format!("{}-{begun}", from + items.len()));
    }
    let items = serde_json::to_string(&items).expect("values are JSON");
    let body =
        format!(r#"{{"apiVersion":"{version}","kind":"{kind}","metadata":{metadata},"items":{items}}}"#);
    state.vanish(path);
    state.forget_between_pages(from == 0 && body.contains("\"continue\""));
    respond(StatusCode::OK, Full::new(Bytes::from(body)).boxed())
}

fn selected(object: &Value, query: &HashMap<String, String>) -> bool {
    let selectors = query.get("fieldSelector").into_iter().flat_map(|selector| selector.split(','));
    let mut fields = selectors.filter_map(|selector| selector.split_once('='));
    fields.all(|(field, value)| {
        let pointer = format!("/{}", field.replace('.', "/"));
        object.pointer(&pointer).and_then(Value::as_str) == Some(value)
    })
}

fn watch_from(path: &'static str, query: &HashMap<String, String>, shared: &Arc<Shared>) -> Response<Body> {
    let initial = query.get("sendInitialEvents").is_some_and(|value| value == "true");
    if initial && shared.lock().refuses_streams {
        return status(422, "Invalid");
    }
    let from: u64 = query.get("resourceVersion").and_then(|version| version.parse().ok()).unwrap_or(0);
    let generation = shared.lock().generation;
    if !initial && from < shared.lock().oldest {
        return status(410, "Expired");
    }
    let (mut lines, mut next) = (VecDeque::new(), from);
    // A server that knows nothing of streamed lists takes the request for one that it knows.
    if initial && shared.lock().minor >= 32 {
        (lines, next) = initial_events(path, query, shared);
    }
    let watcher = Watcher {
        path,
        lines,
        query: query.clone(),
        next,
        generation,
        shared: Arc::clone(shared),
        changes: shared.changed.subscribe(),
    };
    let frames = watcher.events().map(|line| Ok(Frame::data(Bytes::from(line))));
    respond(StatusCode::OK, BodyExt::boxed(StreamBody::new(frames)))
}

/// Everything there is, then the bookmark that says so; and the version of it.
fn initial_events(
    path: &'static str,
    query: &HashMap<String, String>,
    shared: &Shared,
) -> (VecDeque<String>, u64) {
    shared.edit(|state| {
        state.streams += 1;
        let objects = state.objects.iter().filter(|((of, _), object)| *of == path && selected(object, query));
        let mut lines: VecDeque<String> = objects.map(|(_, object)| line("ADDED", object)).collect();
        let mut object = super::empty_object(path);
        object["metadata"] = json!({"resourceVersion": state.version.to_string(),
            "annotations": {"k8s.io/initial-events-end": "true"}});
        lines.push_back(line("BOOKMARK", &object));
        let listed = state.version;
        state.vanish(path);
        (lines, listed)
    })
}

struct Watcher {
    path: &'static str,
    /// Said before anything else.
    lines: VecDeque<String>,
    query: HashMap<String, String>,
    next: u64,
    generation: u64,
    shared: Arc<Shared>,
    changes: watch::Receiver<u64>,
}

impl Watcher {
    /// Lines of JSON until the generation changes or the events were compacted away.
    fn events(self) -> impl Stream<Item = String> {
        stream::unfold(self, |mut watcher| async move {
            loop {
                watcher.shared.thawed().await;
                if let Some(line) = watcher.lines.pop_front() {
                    return Some((line, watcher));
                }
                {
                    let state = watcher.shared.lock();
                    if state.generation != watcher.generation {
                        return None;
                    }
                    if watcher.next < state.oldest {
                        drop(state);
                        watcher.next = u64::MAX;
                        let error = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
                            "message": "too old resource version", "reason": "Expired", "code": 410});
                        return Some((line("ERROR", &error), watcher));
                    }
                    // They are in the order of their versions.
                    let first = state.events.partition_point(|event| event.version <= watcher.next);
                    let found = state.events[first..].iter().find(|event| {
                        let bookmark = event.kind == "BOOKMARK";
                        event.path == watcher.path && (bookmark || selected(&event.object, &watcher.query))
                    });
                    if let Some(event) = found.cloned() {
                        drop(state);
                        watcher.next = event.version;
                        return Some((line(event.kind, &event.object), watcher));
                    }
                }
                watcher.changes.changed().await.ok()?;
            }
        })
    }
}

/// An event, its type first, as real servers write it.
fn line(kind: &str, object: &Value) -> String {
    format!("{{\"type\":\"{kind}\",\"object\":{object}}}\n")
}

fn status(code: u16, reason: &str) -> Response<Body> {
    let body = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": reason, "reason": reason, "code": code});
    let code = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    respond(code, Full::new(Bytes::from(body.to_string())).boxed())
}

/// A refusal for some seconds.
fn wait(code: u16, reason: &str, seconds: u32) -> Response<Body> {
    let mut response = status(code, reason);
    response.headers_mut().insert(RETRY_AFTER, seconds.into());
    response
}

fn respond(code: StatusCode, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = code;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// `a=b&c=d`, percent-encoding undone as far as the clients' selectors need it.
fn query(text: &str) -> HashMap<String, String> {
    let pairs = text.split('&').filter_map(|pair| pair.split_once('='));
    pairs.map(|(name, value)| (name.to_owned(), value.replace("%3D", "=").replace("%2C", ","))).collect()
}
