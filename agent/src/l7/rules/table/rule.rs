//! One HTTP rule, compiled: matches, action, and what goes with it. Destinations are resolved in `routes.rs`.

use std::{sync::Arc, time::Duration};

use http::HeaderValue;

use super::super::{
    ObjectName,
    actions::{
        Cors, DestinationName, Direct, Fault, HeaderRules, Mirror, PathRewrite, Redirect, RetryPolicy,
        Weights, host_value, timeout,
    },
    client::{Filter, Filtered},
    hosts::Mesh,
    objects::{HttpRoute, Messages},
};
use super::Match;

/// A rule of `http`.
#[derive(Clone, Debug)]
pub struct HttpRule {
    /// `name`, or its place, as in `http[0]`.
    pub name: Arc<str>,
    /// Its place; for a delegate's rule both places, as in `http[0] > http[1]`.
    pub place: Arc<str>,
    /// The VirtualService that owns the host.
    pub virtual_service: Arc<ObjectName>,
    /// The VirtualService that the rule was delegated to.
    pub delegate: Option<Arc<ObjectName>>,
    /// Entries, any of which is enough; empty matches everything.
    pub matches: Vec<Match>,
    /// Header operations of the route.
    pub headers: HeaderRules,
    /// CORS, evaluated before the action.
    pub cors: Option<Cors>,
    /// What is done.
    pub action: Action,
}

/// What a rule does with a request.
#[derive(Clone, Debug)]
pub enum Action {
    /// Sends the client elsewhere.
    Redirect(Redirect),
    /// Answers.
    Direct(Direct),
    /// Sends the request on.
    Route(Box<Route>),
}

/// Where and how a request is sent on.
#[derive(Clone, Debug)]
pub struct Route {
    /// Destinations as written, also those of weight 0.
    pub destinations: Vec<RouteDestination>,
    /// Their weights, in the same order.
    pub weights: Weights,
    /// Change of the path.
    pub rewrite: Option<PathRewrite>,
    /// `rewrite.authority`.
    pub authority: Option<HeaderValue>,
    /// From the end of the request to the end of the response; `None` is off.
    pub timeout: Option<Duration>,
    /// Retries.
    pub retries: RetryPolicy,
    /// Injected faults, before everything else.
    pub fault: Option<Fault>,
    /// Copies.
    pub mirrors: Vec<Mirror>,
}

/// One of a route's destinations.
#[derive(Clone, Debug)]
pub struct RouteDestination {
    /// Where to.
    pub name: DestinationName,
    /// Header operations of this destination.
    pub headers: HeaderRules,
}

/// Where a rule comes from.
#[derive(Clone, Debug)]
pub(super) struct Origin<'a> {
    pub(super) virtual_service: Arc<ObjectName>,
    pub(super) delegate: Option<Arc<ObjectName>>,
    pub(super) place: String,
    /// For messages: `spec.http[0]`.
    pub(super) path: String,
    pub(super) mesh: &'a Mesh,
}

impl Origin<'_> {
    /// Namespace that short names are looked up in.
    pub(super) fn namespace(&self) -> &str {
        &self.delegate.as_ref().unwrap_or(&self.virtual_service).namespace
    }
}

impl Filtered for HttpRule {
    fn filters(&self) -> impl ExactSizeIterator<Item = &Filter> {
        self.matches.iter().map(|entry| &entry.filter)
    }
}

impl HttpRule {
    /// Compiles `raw`; `None` after an error was added.
    pub(super) fn compile(raw: &HttpRoute, origin: &Origin<'_>, messages: &mut Messages) -> Option<Self> {
        let path = &origin.path;
        let matches = compile_matches(raw, path, messages);
        let headers = HeaderRules::compile(raw.headers.as_ref(), &format!("{path}.headers"), messages);
        let cors = raw.cors_policy.as_ref();
        let cors = cors.map(|cors| Cors::compile(cors, &format!("{path}.corsPolicy"), messages));
        check_exclusive(raw, path, messages);
        let action = if let Some(redirect) = &raw.redirect {
            let prefix = |entry: &super::super::objects::HttpMatch| {
                entry.uri.as_ref().is_some_and(|uri| uri.prefix.is_some())
            };
            let prefixes = !raw.matches.is_empty() && raw.matches.iter().all(prefix);
            Redirect::compile(redirect, prefixes, &format!("{path}.redirect"), messages).map(Action::Redirect)
        } else if let Some(direct) = &raw.direct_response {
            Direct::compile(direct, &format!("{path}.directResponse"), messages).map(Action::Direct)
        } else {
            compile_route(raw, &headers, origin, messages).map(|route| Action::Route(Box::new(route)))
        };
        let name = raw.name.as_deref().filter(|name| !name.is_empty()).unwrap_or(&origin.place);
        Some(Self {
            name: name.into(),
            place: origin.place.as_str().into(),
            virtual_service: origin.virtual_service.clone(),
            delegate: origin.delegate.clone(),
            matches,
            headers,
            cors,
            action: action?,
        })
    }
}

/// Compiles the matches of the rule at `path`.
pub(super) fn compile_matches(raw: &HttpRoute, path: &str, messages: &mut Messages) -> Vec<Match> {
    let entries = raw.matches.iter().enumerate();
    entries.map(|(i, entry)| Match::compile(entry, i, &format!("{path}.match[{i}]"), messages)).collect()
}

fn compile_route(
    raw: &HttpRoute,
    headers: &HeaderRules,
    origin: &Origin<'_>,
    messages: &mut Messages,
) -> Option<Route> {
    let path = &origin.path;
    if raw.route.is_empty() {
        messages.error(path, "does nothing: set route, redirect, directResponse or delegate");
        return None;
    }
    let mut destinations = Vec::with_capacity(raw.route.len());
    for (i, entry) in raw.route.iter().enumerate() {
        let path = format!("{path}.route[{i}]");
        let place = format!("{path}.destination");
        let headers = HeaderRules::compile(entry.headers.as_ref(), &format!("{path}.headers"), messages);
        let name = entry.destination.as_ref();
        let name = DestinationName::compile(name, &place, origin.namespace(), origin.mesh, messages);
        destinations.extend(name.map(|name| RouteDestination { name, headers }));
    }
    let weights: Vec<_> = raw.route.iter().map(|entry| entry.weight).collect();
    let weights = Weights::compile(&weights, &format!("{path}.route"), messages);
    let rewrite_path = format!("{path}.rewrite");
    let rewrite =
        raw.rewrite.as_ref().and_then(|rewrite| PathRewrite::compile(rewrite, &rewrite_path, messages));
    let authority = raw.rewrite.as_ref().and_then(|rewrite| rewrite.authority.as_deref());
    let authority = authority.filter(|text| !text.is_empty());
    let authority_path = format!("{rewrite_path}.authority");
    if authority.is_some() && headers.request.authority().is_some() {
        messages.error(&authority_path, "stands beside a Host in headers.request.set; keep one");
    }
    let fault = raw.fault.as_ref();
    Some(Route {
        destinations,
        weights,
        rewrite,
        authority: authority.and_then(|text| host_value(text, &authority_path, messages)),
        timeout: timeout::compile(raw.timeout, &format!("{path}.timeout"), messages),
        retries: RetryPolicy::compile(raw.retries.as_ref(), &format!("{path}.retries"), messages),
        fault: fault.and_then(|fault| Fault::compile(fault, &format!("{path}.fault"), messages)),
        mirrors: Mirror::compile(raw, path, origin.namespace(), origin.mesh, messages),
    })
}

/// Which fields cannot stand together, and which have no effect together.
pub(super) fn check_exclusive(raw: &HttpRoute, path: &str, messages: &mut Messages) {
    let fields = [
        ("route", !raw.route.is_empty()),
        ("redirect", raw.redirect.is_some()),
        ("directResponse", raw.direct_response.is_some()),
        ("delegate", raw.delegate.is_some()),
        ("rewrite", raw.rewrite.is_some()),
        ("fault", raw.fault.is_some()),
        ("timeout", raw.timeout.is_some()),
        ("retries", raw.retries.is_some()),
        ("mirror", raw.mirror.is_some()),
        ("mirrors", !raw.mirrors.is_empty()),
    ];
    let (errors, warnings): (&[&str], &[&str]) = if raw.delegate.is_some() {
        (&["route", "redirect", "directResponse"], &[])
    } else if raw.redirect.is_some() {
        (&["route", "directResponse", "rewrite", "fault"], &["timeout", "retries", "mirror", "mirrors"])
    } else if raw.direct_response.is_some() {
        (&["route", "rewrite", "fault"], &["timeout", "retries", "mirror", "mirrors"])
    } else {
        (&[], &[])
    };
    let head = match (&raw.delegate, &raw.redirect) {
        (Some(_), _) => "delegate",
        (None, Some(_)) => "redirect",
        (None, None) => "directResponse",
    };
    for (name, _) in fields.iter().filter(|(_, present)| *present) {
        if errors.contains(name) {
            messages.error(path, format!("has both {head} and {name}; keep one"));
        }
        if warnings.contains(name) {
            messages.warn(format!("{path}.{name}"), format!("has no effect beside {head}"));
        }
    }
}
