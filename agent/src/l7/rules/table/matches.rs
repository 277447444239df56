//! Matches of HTTP rules: from what is written to what is evaluated. Evaluation is in `matching.rs`.

use std::sync::Arc;

use http::HeaderName;

use super::super::{
    actions::MatchedUri,
    client::{Filter, RawFilter},
    matching::{Condition, Part, RequestView},
    objects::{HttpMatch, Messages, StringMatch},
    pattern::Pattern,
};

/// Keys that older texts list among headers and that upstream ignores there.
const NOT_HEADERS: [&str; 4] = ["uri", "scheme", "method", "authority"];

/// One entry of `match`.
#[derive(Clone, Debug)]
pub struct Match {
    /// Its place in the list.
    pub index: usize,
    /// `name`, for logs.
    pub name: Option<Arc<str>>,
    /// `statPrefix`, for metrics.
    pub stat_prefix: Option<Arc<str>>,
    /// What of the path it stands for.
    pub uri: MatchedUri,
    pub(crate) filter: Filter,
    conditions: Vec<Condition>,
}

impl Match {
    /// Compiles `raw`, the entry number `index` at `path`.
    pub(crate) fn compile(raw: &HttpMatch, index: usize, path: &str, messages: &mut Messages) -> Self {
        let filter = Filter::compile(
            RawFilter {
                gateways: &raw.gateways,
                port: raw.port,
                source_namespace: raw.source_namespace.as_ref(),
                source_labels: &raw.source_labels,
                subnets: &[],
            },
            path,
            messages,
        );
        if raw.stat_prefix.is_some() {
            let text = "names nothing in metrics, which have the names of the VirtualService and of the rule";
            messages.warn(format!("{path}.statPrefix"), text);
        }
        let mut out = Self {
            index,
            name: raw.name.as_deref().filter(|name| !name.is_empty()).map(Arc::from),
            stat_prefix: raw.stat_prefix.as_deref().map(Arc::from),
            uri: MatchedUri::Nothing,
            filter,
            conditions: Vec::new(),
        };
        // Cheap and telling conditions first.
        for (part, name, raw) in [
            (Part::Method, "method", &raw.method),
            (Part::Scheme, "scheme", &raw.scheme),
            (Part::Authority, "authority", &raw.authority),
        ] {
            let pattern = compile_optional(raw.as_ref(), &format!("{path}.{name}"), messages);
            if part == Part::Scheme
                && pattern.as_ref().is_some_and(|pattern| !pattern.fits(b"http", false, None))
            {
                let text = "never matches: plain requests are `http`, and TLS passes through undecrypted";
                messages.warn(format!("{path}.scheme"), text);
            }
            out.conditions.extend(pattern.map(|pattern| Condition::Part(part, pattern)));
        }
        if let Some(pattern) = compile_optional(raw.uri.as_ref(), &format!("{path}.uri"), messages) {
            out.uri = match &pattern {
                Pattern::Exact(_) | Pattern::Regex(..) => MatchedUri::Whole,
                Pattern::Prefix(prefix) => MatchedUri::Prefix(prefix.len()),
                Pattern::Present => MatchedUri::Nothing,
            };
            out.conditions.push(Condition::Uri(pattern, raw.ignore_uri_case));
        }
        out.headers(raw, path, messages);
        for (name, raw) in &raw.query_params {
            let pattern = Pattern::compile(raw, &format!("{path}.queryParams.{name}"), messages);
            out.conditions.extend(pattern.map(|pattern| Condition::Query(name.as_str().into(), pattern)));
        }
        out
    }

    fn headers(&mut self, raw: &HttpMatch, path: &str, messages: &mut Messages) {
        for (list, entries, wanted) in
            [("headers", &raw.headers, true), ("withoutHeaders", &raw.without_headers, false)]
        {
            for (name, raw) in entries {
                let path = format!("{path}.{list}.{name}");
                if name.starts_with("@request.auth.claims") {
                    messages.unsupported(path, "claims exist on gateways only");
                    continue;
                }
                if NOT_HEADERS.contains(&name.as_str()) {
                    messages.warn(
                        path,
                        format!("is ignored; the field `{name}` of the match is meant, or `:{name}`"),
                    );
                    continue;
                }
                let pattern = Pattern::compile(raw, &path, messages);
                let condition = match (Part::from_pseudo_header(name), HeaderName::try_from(name.as_str())) {
                    (Some(part), _) if wanted => pattern.map(|pattern| Condition::Part(part, pattern)),
                    (Some(part), _) => pattern.map(|pattern| Condition::WithoutPart(part, pattern)),
                    (None, Ok(header)) if wanted => pattern.map(|pattern| Condition::Header(header, pattern)),
                    (None, Ok(header)) => pattern.map(|pattern| Condition::WithoutHeader(header, pattern)),
                    (None, Err(_)) => {
                        messages.error(path, format!("{name:?} is no name of a header"));
                        None
                    }
                };
                self.conditions.extend(condition);
            }
        }
    }

    /// All of which must hold.
    pub(super) fn conditions(&self) -> &[Condition] {
        &self.conditions
    }

    /// Whether the request meets all conditions.
    pub(crate) fn fits(&self, request: &RequestView<'_>) -> bool {
        self.conditions.iter().all(|condition| condition.holds(request))
    }

    /// The first condition that the request does not meet, in words; `None` exactly when it fits.
    pub(crate) fn miss(&self, request: &RequestView<'_>) -> Option<String> {
        let missed = self.conditions.iter().find(|condition| !condition.holds(request))?;
        Some(missed.miss(request).to_string())
    }
}

/// `{}` says nothing about a part that is always there.
fn compile_optional(raw: Option<&StringMatch>, path: &str, messages: &mut Messages) -> Option<Pattern> {
    Pattern::compile(raw?, path, messages)
}
