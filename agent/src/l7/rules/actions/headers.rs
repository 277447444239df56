//! Header operations of a route and its destination, in the order in which upstream applies them.

use http::{HeaderMap, HeaderName, HeaderValue};

use super::super::objects::{self, Messages};
use super::{Facts, format::Format};

/// Operations on the headers of one direction.
#[derive(Clone, Default, Debug)]
pub struct Operations {
    remove: Vec<HeaderName>,
    write: Vec<(HeaderName, Format, Mode)>,
    authority: Option<HeaderValue>,
}

#[derive(Clone, Copy, Debug)]
enum Mode {
    Overwrite,
    Append,
}

/// Operations of a route or of a destination, for both directions.
#[derive(Clone, Default, Debug)]
pub struct HeaderRules {
    /// On the request.
    pub request: Operations,
    /// On the response.
    pub response: Operations,
}

impl HeaderRules {
    /// Compiles `raw`; what is wrong is added to `messages`.
    pub(crate) fn compile(raw: Option<&objects::Headers>, path: &str, messages: &mut Messages) -> Self {
        let side = |raw: Option<&objects::HeaderOperations>, name, messages: &mut Messages| {
            raw.map_or_else(Operations::default, |raw| {
                Operations::compile(raw, name == "request", &format!("{path}.{name}"), messages)
            })
        };
        Self {
            request: side(raw.and_then(|raw| raw.request.as_ref()), "request", messages),
            response: side(raw.and_then(|raw| raw.response.as_ref()), "response", messages),
        }
    }
}

impl Operations {
    fn compile(
        raw: &objects::HeaderOperations,
        on_request: bool,
        path: &str,
        messages: &mut Messages,
    ) -> Self {
        let mut out = Self::default();
        for (i, name) in raw.remove.iter().enumerate() {
            out.remove.extend(header_name(name, &format!("{path}.remove[{i}]"), messages));
        }
        for (verb, entries, mode) in [("set", &raw.set, Mode::Overwrite), ("add", &raw.add, Mode::Append)] {
            for (name, value) in entries {
                let path = format!("{path}.{verb}.{name}");
                let is_host = is_host(name);
                if is_host && verb == "set" && on_request {
                    out.authority = host_value(value, &path, messages);
                    continue;
                }
                let Some(name) = header_name(name, &path, messages) else { continue };
                match Format::compile(value) {
                    Ok(Format::Fixed(value)) if value.is_empty() => {
                        messages.warn(path, "an empty value changes nothing; use remove");
                    }
                    Ok(format) => out.write.push((name, format, mode)),
                    Err(why) => messages.error(path, format!("{value:?}: {why}")),
                }
            }
        }
        out
    }

    /// The Host that requests get.
    pub fn authority(&self) -> Option<&HeaderValue> {
        self.authority.as_ref()
    }

    /// Whether there is nothing to do to the header map.
    pub fn is_empty(&self) -> bool {
        self.remove.is_empty() && self.write.is_empty()
    }

    fn removes(&self, headers: &mut HeaderMap) {
        for name in &self.remove {
            headers.remove(name);
        }
    }

    /// `request` is where variables look; `None` means in `headers` itself, as they are by then.
    fn writes(&self, headers: &mut HeaderMap, facts: &Facts<'_>, request: Option<&HeaderMap>) {
        for (name, format, mode) in &self.write {
            let Some(value) = format.render(facts, request.unwrap_or(headers)) else { continue };
            match mode {
                // A map that is full stays as it is; the plain methods would panic.
                Mode::Overwrite => drop(headers.try_insert(name, value)),
                Mode::Append => drop(headers.try_append(name, value)),
            }
        }
    }
}

/// Applies a route's and a destination's operations to `headers`.
///
/// A route with one destination: all removes, then the route's writes, then the destination's. With several,
/// all of the destination's come first, then all of the route's, so that the route's `set` wins: this is what
/// Envoy does with what Istio gives it. `request` has the request's headers when `headers` are a response's.
pub(crate) fn apply(
    route: &Operations,
    destination: &Operations,
    single: bool,
    headers: &mut HeaderMap,
    request: Option<&HeaderMap>,
    facts: &Facts<'_>,
) {
    if single {
        route.removes(headers);
        destination.removes(headers);
        route.writes(headers, facts, request);
        destination.writes(headers, facts, request);
    } else {
        destination.removes(headers);
        destination.writes(headers, facts, request);
        route.removes(headers);
        route.writes(headers, facts, request);
    }
}

fn is_host(name: &str) -> bool {
    name.eq_ignore_ascii_case("host") || name.eq_ignore_ascii_case(":authority")
}

fn header_name(name: &str, path: &str, messages: &mut Messages) -> Option<HeaderName> {
    if is_host(name) {
        messages.error(path, "the host can only be set, and only on the request");
        return None;
    }
    let parsed = HeaderName::try_from(name).ok();
    if parsed.is_none() {
        messages.error(path, format!("{name:?} is no name of a header"));
    }
    parsed
}

/// A literal; variables are not looked at, as upstream.
pub(crate) fn host_value(value: &str, path: &str, messages: &mut Messages) -> Option<HeaderValue> {
    let legal = !value.is_empty() && value.bytes().all(|b| b.is_ascii_graphic() && !b"/?#@".contains(&b));
    if !legal {
        messages.error(path, format!("{value:?} is no host"));
        return None;
    }
    HeaderValue::from_str(value).ok()
}
