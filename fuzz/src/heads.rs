//! Requests of HTTP/1: what our checks and hyper let through has one meaning only, however its bytes come in.

use std::{cell::RefCell, convert::Infallible, rc::Rc};

use http::{Request, Response, header::CONNECTION, request::Parts};
use http_body_util::{BodyExt as _, Empty};
use hyper::{
    body::{Bytes, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use sluice::redirector::{Heads, authority};

use tokio::runtime::{Builder, Runtime};

use crate::http1::{Message, message};

thread_local! {
    static RUNTIME: Runtime = Builder::new_current_thread().build().expect("a runtime");
}

/// What hyper read and nobody refused.
type Taken = Rc<RefCell<Vec<Message>>>;

/// Reads them in parts, and as a server does.
///
/// # Panics
/// Parts are read otherwise than the whole, or a request that is served can be read in two ways.
pub fn run(bytes: &[u8]) {
    let heads = in_parts(bytes, bytes.len());
    for size in [1, 7, 64] {
        assert_eq!(told(&in_parts(bytes, size)), told(&heads), "{size} bytes at a time");
    }
    let taken = Taken::default();
    serve(bytes, heads.doubtful().unwrap_or(u64::MAX), &taken);
    let (mut rest, taken) = (bytes, taken.borrow());
    for (number, request) in taken.iter().enumerate() {
        let strict = message(&mut rest).unwrap_or_else(|| panic!("{request:?}, number {number}, is made up"));
        let strict =
            strict.unwrap_or_else(|why| panic!("{request:?}, number {number}, is served with {why}"));
        assert_eq!(strict.method, request.method, "number {number}");
        if strict.body.is_none() {
            // Nobody knows where it ends.
            assert_eq!(taken.len(), number + 1, "served behind {request:?}");
            break;
        }
        assert!(request.body.is_none() || strict == *request, "{request:?} is {strict:?}, number {number}");
    }
}

fn in_parts(bytes: &[u8], size: usize) -> Heads {
    let mut heads = Heads::default();
    bytes.chunks(size.max(1)).for_each(|part| heads.take(part));
    heads
}

fn told(heads: &Heads) -> (Option<u64>, Option<u64>, bool) {
    (heads.doubtful(), heads.open(), heads.is_between())
}

/// Serves a connection on which that comes; requests from number `doubtful` on are refused, and so is what the checks of
/// heads refuse.
fn serve(bytes: &[u8], doubtful: u64, taken: &Taken) {
    let service = service_fn(|request: Request<Incoming>| {
        let (taken, number) = (taken.clone(), taken.borrow().len() as u64);
        async move {
            let (parts, body) = request.into_parts();
            let mut response = Response::new(Empty::<Bytes>::new());
            if number >= doubtful || authority(&parts).is_err() {
                *response.status_mut() = http::StatusCode::BAD_REQUEST;
                response.headers_mut().insert(CONNECTION, http::HeaderValue::from_static("close"));
                return Ok::<_, Infallible>(response);
            }
            taken.borrow_mut().push(Message { method: method(&parts), body: None });
            let body = body.collect().await.ok().map(|body| body.to_bytes().to_vec());
            if let Some(last) = taken.borrow_mut().last_mut() {
                last.body = body;
            }
            Ok(response)
        }
    });
    let stream = tokio::io::join(bytes, tokio::io::sink());
    let connection =
        http1::Builder::new().header_read_timeout(None).serve_connection(TokioIo::new(stream), service);
    // How it ends is told to the client only.
    let _ended = RUNTIME.with(|runtime| runtime.block_on(connection));
}

fn method(parts: &Parts) -> String {
    parts.method.as_str().to_owned()
}
