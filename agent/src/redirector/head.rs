//! The head of a request as endpoints get it, in either version of HTTP.

use http::{
    HeaderMap, HeaderValue, Method, Request, Uri, Version,
    header::{CONNECTION, HOST},
    uri::{Authority, Parts, Scheme},
};

use super::{headers::takes_trailers, replay::Outgoing};

/// The head of a request.
#[derive(Clone, Debug)]
pub struct Head {
    /// Method.
    pub method: Method,
    /// In origin form for HTTP/1, whole for HTTP/2.
    pub uri: Uri,
    /// Headers.
    pub headers: HeaderMap,
    /// Whether HTTP/2 is spoken.
    pub http2: bool,
}

impl Head {
    /// The request with this head.
    pub fn request(&self, body: Outgoing) -> Request<Outgoing> {
        let mut request = Request::new(body);
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = self.uri.clone();
        *request.version_mut() = if self.http2 { Version::HTTP_2 } else { Version::HTTP_11 };
        request.headers_mut().clone_from(&self.headers);
        request
    }

    /// The same request for an endpoint that speaks HTTP/2, or one that does not; `None` where it has no such form. Not
    /// for CONNECT and upgrades, which nobody copies.
    pub fn spoken(&self, http2: bool) -> Option<Self> {
        let mut head = self.clone();
        if self.http2 == http2 {
            return Some(head);
        }
        let mut parts = Parts::default();
        parts.path_and_query = self.uri.path_and_query().cloned();
        if http2 {
            let host = head.headers.remove(HOST)?;
            parts.scheme = Some(Scheme::HTTP);
            parts.authority = Some(Authority::try_from(host.as_bytes()).ok()?);
            // It concerned one connection only.
            head.headers.remove(CONNECTION);
        } else {
            let host = HeaderValue::try_from(self.uri.authority()?.as_str()).ok()?;
            head.headers.insert(HOST, host);
            if takes_trailers(&self.headers) {
                head.headers.insert(CONNECTION, HeaderValue::from_static("te"));
            }
        }
        head.uri = Uri::from_parts(parts).ok()?;
        head.http2 = http2;
        Some(head)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(http2: bool, uri: &str, lines: &[(&'static str, &'static str)]) -> Head {
        let headers = lines
            .iter()
            .map(|(name, value)| (http::HeaderName::from_static(name), HeaderValue::from_static(value)));
        Head { method: Method::POST, uri: uri.parse().unwrap(), headers: headers.collect(), http2 }
    }

    #[test]
    fn a_request_has_a_form_in_either_version() {
        for (case, http1, lines1, http2, lines2) in [
            ("plain", "/p?q", &[("host", "a:80"), ("x", "y")][..], "http://a:80/p?q", &[("x", "y")][..]),
            (
                "trailers",
                "/",
                &[("host", "a"), ("te", "trailers"), ("connection", "te")],
                "http://a/",
                &[("te", "trailers")],
            ),
        ] {
            let (one, two) = (head(false, http1, lines1), head(true, http2, lines2));
            for (from, to) in [(&one, &two), (&two, &one), (&one, &one), (&two, &two)] {
                let told = from.spoken(to.http2).unwrap();
                assert_eq!(
                    (&told.uri, &told.headers, told.http2),
                    (&to.uri, &to.headers, to.http2),
                    "{case}"
                );
            }
        }
        assert!(head(false, "/", &[]).spoken(true).is_none(), "no host");
    }
}
