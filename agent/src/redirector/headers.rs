//! Headers that concern one hop only, and the client's address for the next. Rules' operations are elsewhere.

use std::net::IpAddr;

use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{CONNECTION, CONTENT_LENGTH, TE, TRAILER, TRANSFER_ENCODING, UPGRADE},
};

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// Removes what concerns one hop only, and what `Connection` names besides; RFC 9110 section 7.6.1.
pub fn strip_hop(headers: &mut HeaderMap) {
    let lines = headers.get_all(CONNECTION).iter().filter_map(|line| line.to_str().ok());
    let names: Vec<_> = lines
        .flat_map(|line| line.split(','))
        .filter_map(|name| HeaderName::try_from(name.trim()).ok())
        // A client must not take away what we or the endpoint rely on.
        .filter(|name| *name != http::header::HOST && *name != TRAILER && *name != FORWARDED_FOR)
        .collect();
    for name in names {
        headers.remove(name);
    }
    for name in [CONNECTION, KEEP_ALIVE, PROXY_CONNECTION, HTTP2_SETTINGS, UPGRADE, TE] {
        headers.remove(name);
    }
    if headers.remove(TRANSFER_ENCODING).is_some() {
        headers.remove(CONTENT_LENGTH);
    }
}

/// Whether the sender takes trailers.
pub fn takes_trailers(headers: &HeaderMap) -> bool {
    let lines = headers.get_all(TE).iter().filter_map(|line| line.to_str().ok());
    lines.flat_map(|line| line.split(',')).any(|coding| coding.trim().eq_ignore_ascii_case("trailers"))
}

/// The protocol that an HTTP/1.1 client wants to change to, but for cleartext HTTP/2: that is ours and not the endpoint's
/// (`h2c.rs`), and where it cannot be had the request is answered as it came.
pub fn wanted_upgrade(headers: &HeaderMap) -> Option<HeaderValue> {
    let lines = headers.get_all(CONNECTION).iter().filter_map(|line| line.to_str().ok());
    let asked =
        lines.flat_map(|line| line.split(',')).any(|name| name.trim().eq_ignore_ascii_case("upgrade"));
    let protocol = headers.get(UPGRADE).filter(|_| asked)?;
    let cleartext = protocol.to_str().is_ok_and(|protocol| protocol.trim().eq_ignore_ascii_case("h2c"));
    (!cleartext).then(|| protocol.clone())
}

/// Adds the client to those that the request was forwarded for.
pub fn append_client(headers: &mut HeaderMap, client: IpAddr) {
    let mut all = Vec::new();
    for line in headers.get_all(FORWARDED_FOR) {
        all.extend_from_slice(line.as_bytes());
        all.extend_from_slice(b", ");
    }
    all.extend_from_slice(client.to_string().as_bytes());
    if let Ok(value) = HeaderValue::from_bytes(&all) {
        // A map that is full stays as it is.
        drop(headers.try_insert(FORWARDED_FOR, value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        let pair = |(name, value): &(&'static str, &'static str)| {
            (HeaderName::from_static(name), HeaderValue::from_static(value))
        };
        let mut headers = HeaderMap::new();
        for (name, value) in lines.iter().map(pair) {
            headers.append(name, value);
        }
        headers
    }

    #[test]
    fn what_concerns_one_hop_is_removed() {
        for (case, given, want) in [
            ("fixed names", &[("keep-alive", "1"), ("te", "trailers"), ("a", "b")][..], &[("a", "b")][..]),
            ("named", &[("connection", "x-own, close"), ("x-own", "1"), ("x-own", "2")], &[]),
            ("host cannot be named", &[("connection", "host"), ("host", "a")], &[("host", "a")]),
            ("length beside chunked", &[("transfer-encoding", "chunked"), ("content-length", "5")], &[]),
            ("length alone", &[("content-length", "5")], &[("content-length", "5")]),
        ] {
            let mut headers = map(given);
            strip_hop(&mut headers);
            assert_eq!(headers, map(want), "{case}");
        }
    }

    #[test]
    fn upgrades_are_granted_but_for_h2c() {
        for (case, given, want) in [
            ("websocket", &[("connection", "keep-alive, Upgrade"), ("upgrade", "websocket")][..], true),
            ("h2c", &[("connection", "upgrade, http2-settings"), ("upgrade", "h2c")], false),
            ("not in connection", &[("upgrade", "websocket")], false),
        ] {
            assert_eq!(wanted_upgrade(&map(given)).is_some(), want, "{case}");
        }
    }

    #[test]
    fn the_client_comes_last() {
        for (given, want) in [
            (&[][..], "10.0.0.7"),
            (&[("x-forwarded-for", "1.1.1.1"), ("x-forwarded-for", "2.2.2.2")], "1.1.1.1, 2.2.2.2, 10.0.0.7"),
        ] {
            let mut headers = map(given);
            append_client(&mut headers, [10, 0, 0, 7].into());
            assert_eq!(headers["x-forwarded-for"], want);
            assert_eq!(headers.len(), 1);
        }
    }
}
