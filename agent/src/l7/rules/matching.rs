//! Whether a request meets a match, and if not, the first reason why. Which rule wins is in `table`.

use std::{borrow::Cow, fmt};

use http::{HeaderMap, HeaderName};

use super::{pattern::Pattern, work::Work};

/// A request as rules see it.
#[derive(Clone, Copy, Debug)]
pub struct RequestView<'a> {
    /// Method, as sent.
    pub method: &'a str,
    /// `http`; `https` only if the redirector decrypts.
    pub scheme: &'a str,
    /// Host header or `:authority`, with the port if it has one.
    pub authority: &'a str,
    /// Path without the query.
    pub path: &'a str,
    /// What follows `?`, if there is one.
    pub query: Option<&'a str>,
    /// Headers, without pseudo-headers.
    pub headers: &'a HeaderMap,
    /// What its regexes may work; `None` where that does not matter, for requests that nobody sent.
    pub work: Option<&'a Work>,
}

/// One condition of a match; a match is met when all hold.
#[derive(Clone, Debug)]
pub(crate) enum Condition {
    /// `uri`, with `ignoreUriCase`.
    Uri(Pattern, bool),
    /// `scheme`, `method`, `authority`, and pseudo-headers under `headers`.
    Part(Part, Pattern),
    /// `headers`.
    Header(HeaderName, Pattern),
    /// `withoutHeaders`.
    WithoutHeader(HeaderName, Pattern),
    /// Pseudo-headers under `withoutHeaders`.
    WithoutPart(Part, Pattern),
    /// `queryParams`.
    Query(Box<str>, Pattern),
}

/// A part of the request that is always there.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Part {
    Scheme,
    Method,
    Authority,
    /// Path with the query.
    FullPath,
}

impl Part {
    /// From the name of a pseudo-header.
    pub(crate) fn from_pseudo_header(name: &str) -> Option<Self> {
        match name.to_ascii_lowercase().as_str() {
            ":scheme" => Some(Self::Scheme),
            ":method" => Some(Self::Method),
            ":authority" => Some(Self::Authority),
            ":path" => Some(Self::FullPath),
            _ => None,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Scheme => "scheme",
            Self::Method => "method",
            Self::Authority => "authority",
            Self::FullPath => ":path",
        }
    }

    /// Its value; only a path with a query needs memory.
    pub(crate) fn of<'a>(self, request: &RequestView<'a>) -> Cow<'a, str> {
        match (self, request.query) {
            (Self::Scheme, _) => Cow::Borrowed(request.scheme),
            (Self::Method, _) => Cow::Borrowed(request.method),
            (Self::Authority, _) => Cow::Borrowed(request.authority),
            (Self::FullPath, None) => Cow::Borrowed(request.path),
            (Self::FullPath, Some(query)) => Cow::Owned(format!("{}?{query}", request.path)),
        }
    }
}

impl Condition {
    /// Whether the request meets it.
    pub(crate) fn holds(&self, request: &RequestView<'_>) -> bool {
        let fits = |pattern: &Pattern, value: &[u8]| pattern.fits(value, false, request.work);
        match self {
            Self::Uri(pattern, ignore_case) => {
                pattern.fits(request.path.as_bytes(), *ignore_case, request.work)
            }
            Self::Part(part, pattern) => fits(pattern, part.of(request).as_bytes()),
            Self::WithoutPart(part, pattern) => !fits(pattern, part.of(request).as_bytes()),
            Self::Header(name, pattern) => {
                header(request.headers, name).is_some_and(|value| fits(pattern, &value))
            }
            Self::WithoutHeader(name, pattern) => match header(request.headers, name) {
                Some(value) => !fits(pattern, &value),
                // An absent header counts as an empty one, save for the form that asks for presence.
                None => matches!(pattern, Pattern::Present) || !fits(pattern, b""),
            },
            Self::Query(name, pattern) => {
                query_param(request.query, name).is_some_and(|value| fits(pattern, value.as_bytes()))
            }
        }
    }

    /// Why the request does not meet it; to be asked only when [`Self::holds`] says so.
    pub(crate) fn miss<'a>(&'a self, request: &'a RequestView<'_>) -> impl fmt::Display + 'a {
        Miss { condition: self, request }
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Uri(pattern, false) => write!(f, "uri {pattern}"),
            Self::Uri(pattern, true) => write!(f, "uri {pattern} in any case"),
            Self::Part(part, pattern) => write!(f, "{} {pattern}", part.name()),
            Self::WithoutPart(part, pattern) => write!(f, "{} not {pattern}", part.name()),
            Self::Header(name, pattern) => write!(f, "header {:?} {pattern}", name.as_str()),
            Self::WithoutHeader(name, pattern) => write!(f, "header {:?} not {pattern}", name.as_str()),
            Self::Query(name, pattern) => write!(f, "query parameter {name:?} {pattern}"),
        }
    }
}

struct Miss<'a> {
    condition: &'a Condition,
    request: &'a RequestView<'a>,
}

impl fmt::Display for Miss<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let request = self.request;
        match self.condition {
            Condition::Uri(pattern, _) => write!(f, "uri is {:?}, wanted {pattern}", request.path),
            Condition::Part(part, pattern) => {
                write!(f, "{} is {:?}, wanted {pattern}", part.name(), part.of(request))
            }
            Condition::WithoutPart(part, pattern) => {
                write!(f, "{} is {:?}, wanted anything but {pattern}", part.name(), part.of(request))
            }
            Condition::Header(name, pattern) => match header(request.headers, name) {
                Some(value) => {
                    let value = String::from_utf8_lossy(&value);
                    write!(f, "header {:?} is {value:?}, wanted {pattern}", name.as_str())
                }
                None => write!(f, "header {:?} is absent, wanted {pattern}", name.as_str()),
            },
            Condition::WithoutHeader(name, pattern) => match header(request.headers, name) {
                Some(value) => {
                    let value = String::from_utf8_lossy(&value);
                    write!(f, "header {:?} is {value:?}, wanted anything but {pattern}", name.as_str())
                }
                None => write!(
                    f,
                    "header {:?} is absent, which counts as empty, wanted anything but {pattern}",
                    name.as_str()
                ),
            },
            Condition::Query(name, pattern) => match query_param(request.query, name) {
                Some(value) => write!(f, "query parameter {name:?} is {value:?}, wanted {pattern}"),
                None => write!(f, "query parameter {name:?} is absent, wanted {pattern}"),
            },
        }
    }
}

/// The value of a header; several are joined by commas, as Envoy does before it matches.
pub(crate) fn header<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<Cow<'a, [u8]>> {
    let mut values = headers.get_all(name).iter();
    let first = values.next()?.as_bytes();
    let mut joined = Cow::Borrowed(first);
    for value in values {
        let all = joined.to_mut();
        all.push(b',');
        all.extend_from_slice(value.as_bytes());
    }
    Some(joined)
}

/// The first value of a query parameter, not decoded; a name without `=` has an empty value.
pub(crate) fn query_param<'a>(query: Option<&'a str>, name: &str) -> Option<&'a str> {
    query?
        .split('&')
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .find(|(key, _)| *key == name)
        .map(|(_, value)| value)
}
