//! Answers that come from us. gRPC clients get theirs as a gRPC status, in headers alone.

use crate::l7::rules::actions::{Abort, grpc_to_http};
use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, Response, StatusCode,
    header::{CONTENT_TYPE, HeaderName},
};

use super::body::Body;

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// Whether a request is gRPC, by its content type.
pub fn is_grpc(headers: &HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
    let rest = kind.strip_prefix(b"application/grpc");
    rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';' | b' ')))
}

/// An answer to a request with these headers: `status` and a line of text.
pub fn reply(request: &HeaderMap, status: StatusCode, text: &'static str) -> Response<Body> {
    if is_grpc(request) {
        return grpc(http_to_grpc(status), text);
    }
    let mut response = Response::new(Body::whole(Bytes::from_static(text.as_bytes())));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    response
}

/// The status of an answer as HTTP has it; gRPC says in a header of its own what went wrong.
pub fn status_of(status: StatusCode, headers: &HeaderMap) -> u16 {
    let code = headers.get(GRPC_STATUS).filter(|_| is_grpc(headers));
    let code = code.and_then(|code| code.to_str().ok()?.parse().ok());
    code.filter(|code| *code != 0).map_or(status.as_u16(), grpc_to_http)
}

/// The answer of an injected abort.
pub fn abort(request: &HeaderMap, abort: Abort) -> Response<Body> {
    const TEXT: &str = "aborted by a rule\n";
    match abort {
        Abort::Grpc(code) if is_grpc(request) => grpc(code, TEXT),
        Abort::Grpc(code) => plain(grpc_to_http(code), TEXT),
        Abort::Http(code) if is_grpc(request) => {
            grpc(http_to_grpc(StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)), TEXT)
        }
        Abort::Http(code) => plain(code, TEXT),
    }
}

fn plain(code: u16, text: &'static str) -> Response<Body> {
    let status = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    reply(&HeaderMap::new(), status, text)
}

fn grpc(code: u8, text: &'static str) -> Response<Body> {
    let mut response = Response::new(Body::whole(Bytes::new()));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(GRPC_STATUS, HeaderValue::from(u16::from(code)));
    headers.insert(GRPC_MESSAGE, HeaderValue::from_static(text.trim_ascii_end()));
    response
}

/// What gRPC clients make of an answer without a gRPC status; of a timeout they get the exact name.
/// Source: <https://github.com/grpc/grpc/blob/master/doc/http-grpc-status-mapping.md>
fn http_to_grpc(status: StatusCode) -> u8 {
    match status.as_u16() {
        200 => 0,
        400 => 13,
        401 => 16,
        403 => 7,
        404 => 12,
        504 => 4,
        429 | 502 | 503 => 14,
        _ => 2,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grpc_is_told_by_the_content_type() {
        for (kind, want) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("application/grpc;charset=x", true),
            ("application/grpc-web", false),
            ("text/plain", false),
        ] {
            let headers = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(kind))]);
            assert_eq!(is_grpc(&headers), want, "{kind}");
        }
    }
}
