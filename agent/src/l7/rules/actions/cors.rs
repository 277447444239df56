//! CORS: which answers and headers a browser gets. Sending them is the caller's.

use http::{HeaderMap, HeaderName, HeaderValue, Method, header};

use super::super::{
    objects::{CorsPolicy, Messages, StringMatch, UnmatchedPreflights},
    pattern::Pattern,
    work::Work,
};

/// A compiled corsPolicy.
#[derive(Clone, Debug)]
pub struct Cors {
    origins: Vec<Pattern>,
    methods: Option<HeaderValue>,
    headers: Option<HeaderValue>,
    expose: Option<HeaderValue>,
    max_age: Option<HeaderValue>,
    credentials: bool,
    forward_unmatched: bool,
}

/// What CORS says about a request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum CorsAnswer {
    /// Nothing: send the request on.
    Pass,
    /// Answer 200 with these headers and no body; do not send the request on.
    Preflight(HeaderMap),
    /// Send the request on, and overwrite these headers of the response.
    Response(HeaderMap),
    /// Nobody knows: the regexes for its origin have worked too long.
    Spent,
}

impl Cors {
    /// Compiles `raw`.
    pub(crate) fn compile(raw: &CorsPolicy, path: &str, messages: &mut Messages) -> Self {
        let mut origins = Vec::new();
        for (i, origin) in raw.allow_origins.iter().enumerate() {
            origins.extend(Pattern::compile(origin, &format!("{path}.allowOrigins[{i}]"), messages));
        }
        if !raw.allow_origin.is_empty() {
            messages.warn(format!("{path}.allowOrigin"), "is deprecated; use allowOrigins");
            let exact =
                |origin: &String| StringMatch { exact: Some(origin.clone()), ..StringMatch::default() };
            // Upstream looks at the old list only where there is no new one.
            if raw.allow_origins.is_empty() {
                origins.extend(
                    raw.allow_origin.iter().filter_map(|text| Pattern::compile(&exact(text), path, messages)),
                );
            }
        }
        let mut list = |name: &str, values: &[String]| {
            let joined = values.join(",");
            let legal = HeaderValue::from_str(&joined);
            if legal.is_err() {
                messages.error(format!("{path}.{name}"), "has characters that no header value may have");
            }
            legal.ok().filter(|value| !value.is_empty())
        };
        let methods = list("allowMethods", &raw.allow_methods);
        let headers = list("allowHeaders", &raw.allow_headers);
        let expose = list("exposeHeaders", &raw.expose_headers);
        if raw.max_age.is_some_and(|age| age.0.subsec_nanos() != 0) {
            messages.error(format!("{path}.maxAge"), "must be whole seconds");
        }
        Self {
            origins,
            methods,
            headers,
            expose,
            max_age: raw.max_age.map(|age| HeaderValue::from(age.0.as_secs())),
            credentials: raw.allow_credentials == Some(true),
            forward_unmatched: raw.unmatched_preflights != Some(UnmatchedPreflights::Ignore),
        }
    }

    /// What to do with a request of these headers, whose regexes may do so much `work`.
    pub fn evaluate(&self, method: &Method, request: &HeaderMap, work: Option<&Work>) -> CorsAnswer {
        let Some(origin) = request.get(header::ORIGIN).filter(|origin| !origin.is_empty()) else {
            return CorsAnswer::Pass;
        };
        let preflight =
            *method == Method::OPTIONS && request.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
        let allowed = self.allows(origin, work);
        if work.is_some_and(Work::is_spent) {
            return CorsAnswer::Spent;
        }
        if !allowed {
            let answered = preflight && !self.forward_unmatched;
            return if answered { CorsAnswer::Preflight(HeaderMap::new()) } else { CorsAnswer::Pass };
        }
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
        if self.credentials {
            headers.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
        }
        let mut put = |name: HeaderName, value: &Option<HeaderValue>| {
            headers.extend(value.clone().map(|value| (name, value)));
        };
        if !preflight {
            put(header::ACCESS_CONTROL_EXPOSE_HEADERS, &self.expose);
            return CorsAnswer::Response(headers);
        }
        put(header::ACCESS_CONTROL_ALLOW_METHODS, &self.methods);
        put(header::ACCESS_CONTROL_ALLOW_HEADERS, &self.headers);
        put(header::ACCESS_CONTROL_MAX_AGE, &self.max_age);
        CorsAnswer::Preflight(headers)
    }

    fn allows(&self, origin: &HeaderValue, work: Option<&Work>) -> bool {
        let any = |pattern: &Pattern| matches!(pattern, Pattern::Exact(text) if text.as_ref() == "*");
        self.origins.iter().any(|pattern| any(pattern) || pattern.fits(origin.as_bytes(), false, work))
    }
}
