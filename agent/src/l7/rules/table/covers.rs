//! Whether one match, as written, includes another: for unreachable rules and for delegates.

use std::collections::BTreeMap;

use super::super::{
    hosts::binds_mesh,
    objects::{HttpMatch, HttpRoute, Messages, StringMatch},
};

/// Whether every request that meets `inner` meets `outer` too, as far as can be told; in doubt no.
pub(super) fn covers(outer: &HttpMatch, inner: &HttpMatch) -> bool {
    let part = |outer: &Option<StringMatch>, inner: &Option<StringMatch>| match (outer, inner) {
        (None, _) => true,
        (Some(outer), Some(inner)) => string_covers(outer, inner, false),
        (Some(outer), None) => is_anything(outer),
    };
    binds_mesh(&outer.gateways)
        && uri_covers(outer, inner)
        && part(&outer.scheme, &inner.scheme)
        && part(&outer.method, &inner.method)
        && part(&outer.authority, &inner.authority)
        && map_covers(&outer.headers, &inner.headers, true)
        && map_covers(&outer.query_params, &inner.query_params, false)
        && outer.without_headers.iter().all(|(name, raw)| inner.without_headers.get(name) == Some(raw))
        && (outer.port.is_none() || outer.port == inner.port)
        && (outer.source_namespace.is_none() || outer.source_namespace == inner.source_namespace)
        && outer.source_labels.iter().all(|(key, value)| inner.source_labels.get(key) == Some(value))
}

fn uri_covers(outer: &HttpMatch, inner: &HttpMatch) -> bool {
    match (&outer.uri, &inner.uri) {
        (None, _) => true,
        // Every path begins with a slash.
        (Some(outer), _) if is_anything(outer) || outer.prefix.as_deref() == Some("/") => true,
        (Some(_), None) => false,
        (Some(_), Some(_)) if inner.ignore_uri_case && !outer.ignore_uri_case => false,
        (Some(text), Some(inner)) => string_covers(text, inner, outer.ignore_uri_case),
    }
}

fn map_covers(
    outer: &BTreeMap<String, StringMatch>,
    inner: &BTreeMap<String, StringMatch>,
    ignore_case: bool,
) -> bool {
    outer.iter().all(|(name, raw)| {
        let same = |other: &str| if ignore_case { other.eq_ignore_ascii_case(name) } else { other == name };
        inner.iter().any(|(other, inner)| same(other) && string_covers(raw, inner, false))
    })
}

fn is_anything(raw: &StringMatch) -> bool {
    *raw == StringMatch::default()
        || raw.prefix.as_deref() == Some("")
        || raw.regex.as_deref().is_some_and(|regex| regex == "*" || regex == ".*")
}

fn string_covers(outer: &StringMatch, inner: &StringMatch, ignore_case: bool) -> bool {
    if outer == inner || is_anything(outer) {
        return true;
    }
    let fold = |text: &str| if ignore_case { text.to_ascii_lowercase() } else { text.to_owned() };
    match (&outer.exact, &outer.prefix) {
        (Some(exact), _) => inner.exact.as_deref().is_some_and(|inner| fold(inner) == fold(exact)),
        (None, Some(prefix)) => {
            let inner = inner.exact.as_deref().or(inner.prefix.as_deref());
            inner.is_some_and(|inner| fold(inner).starts_with(&fold(prefix)))
        }
        (None, None) => false,
    }
}

/// Warns of rules that no request reaches, because earlier ones take all that they want.
pub(super) fn warn_unreachable(routes: &[HttpRoute], messages: &mut Messages) {
    let everything = [HttpMatch::default()];
    let entries = |route: &HttpRoute| -> Vec<HttpMatch> {
        if route.matches.is_empty() { everything.to_vec() } else { route.matches.clone() }
    };
    let entries: Vec<_> = routes.iter().map(entries).collect();
    for (i, wanted) in entries.iter().enumerate() {
        // A root rule with a delegate takes only what the delegate takes.
        let taken = |inner: &HttpMatch| {
            let earlier = (0..i).filter(|earlier| routes[*earlier].delegate.is_none());
            earlier.into_iter().find(|earlier| entries[*earlier].iter().any(|outer| covers(outer, inner)))
        };
        let takers: Option<Vec<_>> =
            wanted.iter().filter(|inner| binds_mesh(&inner.gateways)).map(taken).collect();
        if let Some(taker) = takers.and_then(|takers| takers.into_iter().max()) {
            messages.warn(
                format!("spec.http[{i}]"),
                format!("no request reaches this rule: http[{taker}] takes all that it wants; move it up"),
            );
        }
    }
}
