//! Requests that two readers may read differently: refused. What hyper refuses already is not looked at here.

use http::{
    HeaderMap, Method, Version,
    header::{CONTENT_LENGTH, HOST, TRANSFER_ENCODING},
    request::Parts,
};

/// Checks the head of a request, and says whom it addresses; the error is for the client.
///
/// hyper lets through: several Hosts, none, and codings below `chunked`. Of a request with both lengths it
/// removes `Content-Length`, so that nobody can tell here; the stream does (`heads.rs`).
pub fn authority(parts: &Parts) -> Result<String, &'static str> {
    let headers = &parts.headers;
    check_length(headers)?;
    let mut hosts = headers.get_all(HOST).iter();
    let host = hosts.next();
    if hosts.next().is_some() {
        return Err("more than one Host\n");
    }
    let host = match host.map(|host| host.to_str()) {
        None => None,
        Some(Ok(host)) => Some(host),
        Some(Err(_)) => return Err("no legal Host\n"),
    };
    let target = parts.uri.authority().map(|authority| authority.as_str());
    let authority = match (parts.version, target, host) {
        (Version::HTTP_2, Some(target), Some(host)) if !target.eq_ignore_ascii_case(host) => {
            return Err("Host differs from :authority\n");
        }
        (Version::HTTP_11, _, None) => return Err("no Host\n"),
        // A target in absolute form counts more than the Host, RFC 9112 section 3.2.2.
        (_, Some(target), _) => target,
        (_, None, host) => host.unwrap_or_default(),
    };
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~:[]%!$&'()*+;=".contains(&byte);
    if !authority.bytes().all(legal) {
        return Err("no legal Host\n");
    }
    if parts.method != Method::CONNECT && parts.uri.path().is_empty() {
        return Err("no path\n");
    }
    Ok(authority.to_owned())
}

fn check_length(headers: &HeaderMap) -> Result<(), &'static str> {
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    let coding = codings.next();
    let only_chunked = coding.is_none_or(|coding| coding.as_bytes().eq_ignore_ascii_case(b"chunked"));
    if !only_chunked || codings.next().is_some() {
        return Err("a Transfer-Encoding other than chunked\n");
    }
    let lengths = headers.get_all(CONTENT_LENGTH).iter().count();
    if lengths > 1 || (lengths == 1 && coding.is_some()) {
        return Err("two lengths\n");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use http::{HeaderValue, Request};

    use super::*;

    #[test]
    fn ambiguous_requests_are_refused() {
        for (case, version, uri, lines, want) in [
            ("plain", Version::HTTP_11, "/", &[("host", "a:80")][..], Some("a:80")),
            ("absolute form wins", Version::HTTP_11, "http://b/", &[("host", "a")], Some("b")),
            ("no host", Version::HTTP_11, "/", &[], None),
            ("no host in 1.0", Version::HTTP_10, "/", &[], Some("")),
            ("two hosts", Version::HTTP_11, "/", &[("host", "a"), ("host", "a")], None),
            ("list of hosts", Version::HTTP_11, "/", &[("host", "a, b")], None),
            ("host with a path", Version::HTTP_11, "/", &[("host", "a/b")], None),
            ("host with a user", Version::HTTP_11, "/", &[("host", "u@b")], None),
            ("same in http/2", Version::HTTP_2, "http://a/", &[("host", "A")], Some("a")),
            ("other in http/2", Version::HTTP_2, "http://a/", &[("host", "b")], None),
            (
                "gzip below chunked",
                Version::HTTP_11,
                "/",
                &[("host", "a"), ("transfer-encoding", "gzip, chunked")],
                None,
            ),
            (
                "chunked twice",
                Version::HTTP_11,
                "/",
                &[("host", "a"), ("transfer-encoding", "chunked"), ("transfer-encoding", "chunked")],
                None,
            ),
            (
                "two lengths",
                Version::HTTP_11,
                "/",
                &[("host", "a"), ("content-length", "1"), ("content-length", "1")],
                None,
            ),
        ] {
            let mut request = Request::builder().version(version).uri(uri).body(()).unwrap();
            for (name, value) in lines {
                request.headers_mut().append(*name, HeaderValue::from_static(value));
            }
            let (parts, ()) = request.into_parts();
            assert_eq!(authority(&parts).ok().as_deref(), want, "{case}");
        }
    }
}
