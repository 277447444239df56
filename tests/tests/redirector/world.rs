//! A redirector with one Service, endpoints that tell what they got, and clients.

use std::{
    convert::Infallible,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
};

use bytes::Bytes;

use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Full, combinators::BoxBody};
use hyper::{body::Incoming, client::conn, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use serde_json::{Value, json};
use sluice::redirector::{Options, Redirector, Snapshot};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

pub type AnyBody = BoxBody<Bytes, hyper::Error>;
type BoxFuture = std::pin::Pin<Box<dyn Future<Output = Response<AnyBody>> + Send>>;
type Answer = Arc<dyn Fn(Request<Incoming>) -> BoxFuture + Send + Sync>;

/// An endpoint.
#[derive(Clone)]
pub struct Endpoint {
    pub address: SocketAddr,
    hits: Arc<AtomicU32>,
    seen: Arc<Mutex<Vec<http::request::Parts>>>,
}

impl Endpoint {
    /// Answers with `answer`, over HTTP/1 and HTTP/2.
    pub async fn serve<F>(answer: impl Fn(Request<Incoming>) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Response<AnyBody>> + Send + 'static,
    {
        Self::with(None, answer).await
    }

    /// Answers with `answer`, over HTTP/2 only or over HTTP/1 only.
    pub async fn speaking<F>(
        http2: bool,
        answer: impl Fn(Request<Incoming>) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = Response<AnyBody>> + Send + 'static,
    {
        Self::with(Some(http2), answer).await
    }

    async fn with<F>(
        only_http2: Option<bool>,
        answer: impl Fn(Request<Incoming>) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = Response<AnyBody>> + Send + 'static,
    {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let answer: Answer = Arc::new(move |request| Box::pin(answer(request)));
        let endpoint = Self { address, hits: Arc::default(), seen: Arc::default() };
        let this = endpoint.clone();
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let (answer, this) = (answer.clone(), this.clone());
                tokio::spawn(async move {
                    let service = service_fn(move |request: Request<Incoming>| {
                        this.hits.fetch_add(1, Ordering::SeqCst);
                        let mut copy = Request::new(());
                        *copy.method_mut() = request.method().clone();
                        *copy.uri_mut() = request.uri().clone();
                        *copy.version_mut() = request.version();
                        *copy.headers_mut() = request.headers().clone();
                        this.seen.lock().unwrap().push(copy.into_parts().0);
                        let answered = answer(request);
                        async move { Ok::<_, Infallible>(answered.await) }
                    });
                    let builder = auto::Builder::new(TokioExecutor::new());
                    let builder = match only_http2 {
                        Some(true) => builder.http2_only(),
                        Some(false) => builder.http1_only(),
                        None => builder,
                    };
                    builder.serve_connection_with_upgrades(TokioIo::new(socket), service).await
                });
            }
        });
        endpoint
    }

    /// Reads the request and answers 200 with `name`.
    pub async fn named(name: &'static str) -> Self {
        Self::serve(move |request| async move {
            let _all = request.into_body().collect().await;
            Response::new(whole(name))
        })
        .await
    }

    /// Answers with `status`.
    pub async fn status(status: u16) -> Self {
        Self::serve(move |request| async move {
            let _all = request.into_body().collect().await;
            let mut response = Response::new(whole("status"));
            *response.status_mut() = status.try_into().unwrap();
            response
        })
        .await
    }

    /// An address where nobody listens.
    pub async fn nobody() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        Self { address, hits: Arc::default(), seen: Arc::default() }
    }

    /// Something that is served elsewhere.
    pub fn at(address: SocketAddr) -> Self {
        Self { address, hits: Arc::default(), seen: Arc::default() }
    }

    pub fn hits(&self) -> u32 {
        self.hits.load(Ordering::SeqCst)
    }

    /// Waits until so many requests came.
    pub async fn hit(&self, times: u32) {
        soon("requests at the endpoint", || self.hits() >= times).await;
    }

    /// The last request, without its body.
    pub fn last(&self) -> http::request::Parts {
        self.seen.lock().unwrap().last().cloned().expect("no request came")
    }
}

pub fn whole(bytes: impl Into<Bytes>) -> AnyBody {
    Full::new(bytes.into()).map_err(|never: Infallible| match never {}).boxed()
}

/// What a world is made of; `reviews.shop:80` has all endpoints.
pub struct Setup<'a> {
    pub endpoints: Vec<(&'a Endpoint, Value)>,
    pub port: Value,
    pub rules: Value,
    pub subsets: Value,
    pub traffic: Value,
    /// Pods besides.
    pub pods: Value,
    /// Services besides.
    pub others: Value,
    pub options: Options,
}

impl Default for Setup<'_> {
    fn default() -> Self {
        Self {
            endpoints: Vec::new(),
            port: json!({"name": "http"}),
            rules: Value::Null,
            subsets: json!([]),
            traffic: Value::Null,
            pods: json!([]),
            others: json!([]),
            options: Options { seed: Some(1), ..Options::default() },
        }
    }
}

impl<'a> Setup<'a> {
    /// Rules for `http`, all to all endpoints.
    pub fn http(endpoints: &[&'a Endpoint], rules: Value) -> Self {
        let endpoints = endpoints.iter().map(|endpoint| (*endpoint, json!({}))).collect();
        Self { endpoints, rules: json!({"http": rules}), ..Self::default() }
    }

    pub fn snapshot(&self, front: SocketAddr) -> Snapshot {
        let numbered = || self.endpoints.iter().enumerate();
        let endpoints: Vec<_> = numbered()
            .map(
                |(i, (endpoint, _))| json!({"address": endpoint.address, "pod": format!("shop/reviews-{i}")}),
            )
            .collect();
        let mut pods: Vec<_> = numbered()
            .map(|(i, (_, labels))| {
                json!({"namespace": "shop", "name": format!("reviews-{i}"), "labels": labels})
            })
            .collect();
        pods.extend(self.pods.as_array().unwrap().iter().cloned());
        let mut port = self.port.clone();
        port["port"] = json!(80);
        port["frontends"] = json!([front]);
        port["endpoints"] = json!(endpoints);
        let object = |kind: &str, spec: &Value| {
            json!({
                "apiVersion": "networking.istio.io/v1",
                "kind": kind,
                "metadata": {"name": "reviews", "namespace": "shop"},
                "spec": spec,
            })
        };
        let mut rules = self.rules.clone();
        let mut services = Vec::new();
        if !rules.is_null() {
            rules["hosts"] = json!(["reviews"]);
            services.push(object("VirtualService", &rules));
        }
        let mut destination = json!({"host": "reviews", "subsets": self.subsets});
        if !self.traffic.is_null() {
            destination["trafficPolicy"] = self.traffic.clone();
        }
        let mut all = vec![json!({"namespace": "shop", "name": "reviews", "ports": [port]})];
        all.extend(self.others.as_array().unwrap().iter().cloned());
        serde_json::from_value(json!({
            "version": 1,
            "domain": "cluster.local",
            "services": all,
            "pods": pods,
            "virtualServices": services,
            "destinationRules": [object("DestinationRule", &destination)],
        }))
        .unwrap()
    }

    pub fn start(self) -> World {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let front = listener.local_addr().unwrap();
        let redirector = Redirector::start(vec![vec![listener]], self.options.clone()).unwrap();
        assert_eq!(redirector.apply(self.snapshot(front)), Vec::<String>::new());
        World { front, redirector }
    }
}

pub struct World {
    pub front: SocketAddr,
    pub redirector: Redirector,
}

/// An answer, read to its end.
#[derive(Debug)]
pub struct Got {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: String,
}

impl World {
    pub fn count(&self, name: &str) -> u64 {
        self.redirector.counters()[name]
    }

    /// Waits until something was counted so often; the redirector counts after it has answered.
    pub async fn until(&self, name: &str, wanted: u64) {
        soon(name, || self.count(name) >= wanted).await;
    }

    pub async fn http1(&self) -> Client1 {
        let socket = TcpStream::connect(self.front).await.unwrap();
        let (sender, connection) = conn::http1::handshake(TokioIo::new(socket)).await.unwrap();
        tokio::spawn(connection.with_upgrades());
        Client1(sender)
    }

    pub async fn http2(&self) -> conn::http2::SendRequest<AnyBody> {
        let socket = TcpStream::connect(self.front).await.unwrap();
        let (sender, connection) =
            conn::http2::handshake(TokioExecutor::new(), TokioIo::new(socket)).await.unwrap();
        tokio::spawn(connection);
        sender
    }

    /// One request on a connection of its own: `GET /path` and `name: value` lines.
    pub async fn ask(&self, text: &str) -> Got {
        self.http1().await.ask(text).await
    }

    /// Sends bytes as they are and reads to the end.
    pub async fn raw(&self, bytes: &[u8]) -> String {
        let mut socket = TcpStream::connect(self.front).await.unwrap();
        socket.write_all(bytes).await.unwrap();
        let mut answer = Vec::new();
        // A reset after the answer is an end like any other.
        let _end = socket.read_to_end(&mut answer).await;
        String::from_utf8_lossy(&answer).into_owned()
    }
}

/// Waits until `check` holds; fails when that takes too long.
pub async fn soon(what: &str, check: impl Fn() -> bool) {
    let start = std::time::Instant::now();
    while !check() {
        assert!(start.elapsed() < sluice_tests::wait::DEADLINE, "{what}: it does not come true");
        tokio::task::yield_now().await;
    }
}

pub struct Client1(pub conn::http1::SendRequest<AnyBody>);

impl Client1 {
    pub async fn ask(&mut self, text: &str) -> Got {
        self.send(request(text).body(whole("")).unwrap()).await
    }

    pub async fn send(&mut self, request: Request<AnyBody>) -> Got {
        let answered = async {
            self.0.ready().await.unwrap();
            read(self.0.send_request(request).await.unwrap()).await
        };
        tokio::time::timeout(sluice_tests::wait::DEADLINE, answered).await.expect("no answer in time")
    }
}

/// `GET /path` and `name: value` lines; the host is reviews unless a line says otherwise.
pub fn request(text: &str) -> http::request::Builder {
    let mut lines = text.lines();
    let (method, path) = lines.next().unwrap().split_once(' ').unwrap();
    let mut builder = Request::builder().method(method).uri(path);
    let mut host = Some(("host", "reviews"));
    for (name, value) in lines.map(|line| line.split_once(": ").unwrap()) {
        host = host.filter(|_| name != "host");
        builder = builder.header(name, value);
    }
    if let Some((name, value)) = host {
        builder = builder.header(name, value);
    }
    builder
}

pub async fn read(response: Response<Incoming>) -> Got {
    let (parts, body) = response.into_parts();
    let collected = body.collect().await.unwrap();
    Got {
        status: parts.status.as_u16(),
        headers: parts.headers,
        body: String::from_utf8(collected.to_bytes().to_vec()).unwrap(),
    }
}

/// Rules that send everything to reviews, with `fields` besides.
pub fn rule(fields: Value) -> Value {
    let mut rule = json!({"route": [{"destination": {"host": "reviews"}}]});
    for (name, value) in fields.as_object().unwrap() {
        rule[name] = value.clone();
    }
    rule
}
