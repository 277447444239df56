//! Which rule takes a request or a connection, and what the rule then asks for.

use http::{HeaderMap, HeaderValue};

use super::super::{
    actions::{Facts, MatchedUri, Operations, apply},
    l4::L4Rule,
    matching::RequestView,
    work::Work,
};
use super::{Action, ClientRoutes, ClientRule, HttpRule, Match, Target, rule::Route};

/// What the table says about a request.
#[derive(Clone, Copy, Debug)]
pub enum Selection<'a> {
    /// No rule holds for this client: the Service itself, as without rules.
    Service(&'a Target),
    /// This rule.
    Rule(Selected<'a>),
    /// Rules hold for this client and none matches: 404.
    NotFound,
    /// Nobody knows: its regexes have worked too long.
    Spent,
}

/// A rule that took a request.
#[derive(Clone, Copy, Debug)]
pub struct Selected<'a> {
    /// The rule, with destinations and mirrors resolved.
    pub client_rule: &'a ClientRule<HttpRule>,
    /// The match that was met; `None` for a rule without matches.
    pub matched: Option<&'a Match>,
    /// The port that was addressed.
    port: u16,
}

impl ClientRoutes {
    /// The first rule that `request` matches. Allocates only for headers that are there several times.
    pub fn select(&self, request: &RequestView<'_>) -> Selection<'_> {
        if self.http.is_empty() {
            return Selection::Service(&self.service);
        }
        let found = self.index.first(request, |rule, entry| {
            self.http_rule(rule).is_some_and(|client_rule| client_rule.takes(entry, request))
        });
        if request.work.is_some_and(Work::is_spent) {
            return Selection::Spent;
        }
        let Some((rule, entry)) = found else { return Selection::NotFound };
        self.http_rule(rule).map_or(Selection::NotFound, |rule| self.selected(rule, entry))
    }

    /// What [`Self::select`] says, found by trying one rule after the other. To check it with.
    pub(super) fn select_in_order(&self, request: &RequestView<'_>) -> Selection<'_> {
        if self.http.is_empty() {
            return Selection::Service(&self.service);
        }
        for client_rule in &self.http {
            let matches = (0..client_rule.rule.matches.len()).map(Some);
            let everything = client_rule.rule.matches.is_empty().then_some(None);
            if let Some(entry) = matches.chain(everything).find(|entry| client_rule.takes(*entry, request)) {
                return self.selected(client_rule, entry);
            }
        }
        Selection::NotFound
    }

    /// The rule that has this number among all of the VirtualService, if it holds for the client.
    fn http_rule(&self, number: usize) -> Option<&ClientRule<HttpRule>> {
        let place = (*self.places.get(number)?)?;
        self.http.get(place as usize)
    }

    fn selected<'a>(&self, client_rule: &'a ClientRule<HttpRule>, entry: Option<usize>) -> Selection<'a> {
        let matched = entry.and_then(|entry| client_rule.rule.matches.get(entry));
        Selection::Rule(Selected { client_rule, matched, port: self.port })
    }

    /// Whether an HTTP rule holds for this client.
    pub fn has_http(&self) -> bool {
        !self.http.is_empty()
    }

    /// Whether a TLS rule holds for this client: then the ClientHello must be awaited.
    pub fn has_tls(&self) -> bool {
        !self.tls.is_empty()
    }

    /// The rule of `tls` for a server name; `None` is the Service itself. The name is compared in lower case.
    pub fn select_tls(&self, server_name: Option<&str>) -> Option<&ClientRule<L4Rule>> {
        let lower = server_name.map(str::to_ascii_lowercase);
        let fits = |rule: &&ClientRule<L4Rule>| {
            rule.matches.iter().any(|i| rule.rule.matches[*i].fits(lower.as_deref()))
        };
        self.tls.iter().find(fits)
    }

    /// The rule of `tcp`; `None` is the Service itself.
    pub fn select_tcp(&self) -> Option<&ClientRule<L4Rule>> {
        self.tcp.first()
    }
}

impl ClientRule<L4Rule> {
    /// The destination of a new connection; `draw` is uniform over all of `u32`.
    pub fn pick(&self, draw: u32) -> Option<&Target> {
        self.destinations.get(self.rule.weights.pick(draw)?)
    }
}

impl ClientRule<HttpRule> {
    /// Whether `entry` holds for the client and `request` meets it; `None` stands for a rule without matches.
    fn takes(&self, entry: Option<usize>, request: &RequestView<'_>) -> bool {
        entry.is_none_or(|entry| {
            self.matches.binary_search(&entry).is_ok() && self.rule.matches[entry].fits(request)
        })
    }
}

impl HttpRule {
    /// Its route, if it has one.
    pub fn route(&self) -> Option<&Route> {
        match &self.action {
            Action::Route(route) => Some(route),
            Action::Redirect(_) | Action::Direct(_) => None,
        }
    }
}

impl<'a> Selected<'a> {
    /// The rule.
    pub fn rule(&self) -> &'a HttpRule {
        &self.client_rule.rule
    }

    /// For logs: the rule's name, and the match's if it has one, as in `canary.internal`.
    pub fn label(&self) -> String {
        match self.matched.and_then(|matched| matched.name.as_ref()) {
            Some(name) => format!("{}.{name}", self.rule().name),
            None => self.rule().name.to_string(),
        }
    }

    /// Number and target of the destination of this request; `draw` is uniform over all of `u32`.
    pub fn pick(&self, draw: u32) -> Option<(usize, &'a Target)> {
        let index = self.rule().route()?.weights.pick(draw)?;
        Some((index, self.client_rule.destinations.get(index)?))
    }

    /// The path and query to send on; `None` leaves them as they are. Void where the request's work is spent.
    pub fn rewritten(&self, request: &RequestView<'_>) -> Option<String> {
        let rewrite = self.rule().route()?.rewrite.as_ref()?;
        Some(rewrite.apply(request, self.matched_uri()))
    }

    /// The Host to send on; `None` leaves it as it is. The route's own beats that of the destination.
    pub fn authority(&self, destination: usize) -> Option<&'a HeaderValue> {
        let route = self.rule().route()?;
        let own = route.authority.as_ref().or_else(|| self.rule().headers.request.authority());
        own.or_else(|| route.destinations.get(destination)?.headers.request.authority())
    }

    /// The Location of a redirect; `None` for other actions, and for a request without a legal host.
    pub fn location(&self, request: &RequestView<'_>) -> Option<HeaderValue> {
        match &self.rule().action {
            Action::Redirect(redirect) => redirect.location(request, self.matched_uri(), self.port),
            Action::Direct(_) | Action::Route(_) => None,
        }
    }

    /// Changes the headers of a request that goes to destination number `destination`.
    pub fn change_request(&self, destination: usize, headers: &mut HeaderMap, facts: &Facts<'_>) {
        let empty = Operations::default();
        let own = self.destination_headers(destination).map_or(&empty, |headers| &headers.request);
        apply(&self.rule().headers.request, own, self.is_single(), headers, None, facts);
    }

    /// Changes the headers of a response; `destination` is `None` for answers of the rule itself.
    ///
    /// `request` are the headers of the request, which variables look into.
    pub fn change_response(
        &self,
        destination: Option<usize>,
        headers: &mut HeaderMap,
        request: &HeaderMap,
        facts: &Facts<'_>,
    ) {
        let empty = Operations::default();
        let own = destination.and_then(|index| self.destination_headers(index));
        let own = own.map_or(&empty, |headers| &headers.response);
        apply(&self.rule().headers.response, own, self.is_single(), headers, Some(request), facts);
    }

    fn destination_headers(&self, index: usize) -> Option<&'a super::super::actions::HeaderRules> {
        Some(&self.rule().route()?.destinations.get(index)?.headers)
    }

    fn is_single(&self) -> bool {
        self.rule().route().is_none_or(|route| route.destinations.len() == 1)
    }

    fn matched_uri(&self) -> MatchedUri {
        self.matched.map_or(MatchedUri::Nothing, |matched| matched.uri)
    }
}
