//! The table of one Service port, and what is left of it for one client. Running it is in `select.rs`.

use std::sync::Arc;

use super::super::{
    ObjectName,
    actions::DestinationName,
    client::{Client, Filtered},
    hosts::{Export, Tier},
    l4::L4Rule,
};
use super::{HttpRule, KnownServices, RuleSet, Target, index::Index, set::Resolved, target::Template};

/// Everything that rules say about one Service port. Immutable.
#[derive(Clone, Debug)]
pub struct Routes {
    /// Host of the Service.
    pub host: Arc<str>,
    /// The port that clients address.
    pub port: u16,
    /// VirtualServices for this host, in order of age.
    pub(super) candidates: Vec<Candidate>,
    implicit: Template,
}

/// A VirtualService for the host.
#[derive(Clone, Debug)]
pub(super) struct Candidate {
    pub(super) specificity: usize,
    pub(super) resolved: Arc<Resolved>,
    pub(super) http: Vec<PortRule<HttpRule>>,
    pub(super) tls: Vec<PortRule<L4Rule>>,
    pub(super) tcp: Vec<PortRule<L4Rule>>,
}

/// A rule whose destinations were resolved for the port.
#[derive(Clone, Debug)]
pub(super) struct PortRule<R> {
    pub(super) rule: Arc<R>,
    pub(super) destinations: Vec<Template>,
    pub(super) mirrors: Vec<Template>,
}

/// What is left of [`Routes`] for one client. Made once per connection.
#[derive(Clone, Debug)]
pub struct ClientRoutes {
    /// The port that clients address.
    pub port: u16,
    /// The VirtualService that holds for this client, even if none of its rules does.
    pub virtual_service: Option<ObjectName>,
    /// The Service itself, for when no rule holds.
    pub service: Target,
    pub(super) http: Vec<ClientRule<HttpRule>>,
    /// Over all HTTP rules of the VirtualService.
    pub(super) index: Arc<Index>,
    /// Where each of those rules is in `http`; `None` for one that does not hold.
    pub(super) places: Vec<Option<u32>>,
    pub(super) tls: Vec<ClientRule<L4Rule>>,
    pub(super) tcp: Vec<ClientRule<L4Rule>>,
}

/// A rule that holds for a client.
#[derive(Clone, Debug)]
pub struct ClientRule<R> {
    /// The rule.
    pub rule: Arc<R>,
    /// Its destinations, in the same order.
    pub destinations: Vec<Target>,
    /// Its mirrors, in the same order; none for `tls` and `tcp`.
    pub mirrors: Vec<Target>,
    /// Indices of the matches that are left; a rule without matches has none, and takes everything.
    pub(super) matches: Vec<usize>,
}

impl RuleSet {
    /// Compiles the table of `port` of the Service `host`.
    pub fn routes(&self, host: &str, port: u16, known: &KnownServices) -> Routes {
        let template = |name: &DestinationName| Template::new(self, name, port, known);
        let l4 = |rules: &[Arc<L4Rule>]| -> Vec<_> {
            let resolve = |rule: &Arc<L4Rule>| {
                let destinations = rule.destinations.iter().map(template).collect();
                PortRule { rule: rule.clone(), destinations, mirrors: Vec::new() }
            };
            rules.iter().map(resolve).collect()
        };
        let http = |rule: &Arc<HttpRule>| {
            let (mut destinations, mut mirrors) = (Vec::new(), Vec::new());
            if let Some(route) = rule.route() {
                destinations.extend(route.destinations.iter().map(|entry| template(&entry.name)));
                mirrors.extend(route.mirrors.iter().map(|entry| template(&entry.destination)));
            }
            PortRule { rule: rule.clone(), destinations, mirrors }
        };
        let candidates = self.virtual_services.iter().filter(|resolved| resolved.object.on_mesh);
        let candidates = candidates.filter_map(|resolved| {
            let hosts = resolved.object.hosts.iter();
            Some(Candidate {
                specificity: hosts.filter_map(|pattern| pattern.specificity(host)).max()?,
                resolved: resolved.clone(),
                http: resolved.http.iter().map(http).collect(),
                tls: l4(&resolved.object.tls),
                tcp: l4(&resolved.object.tcp),
            })
        });
        let implicit = DestinationName { host: host.into(), subset: None, port: Some(port) };
        Routes { host: host.into(), port, candidates: candidates.collect(), implicit: template(&implicit) }
    }
}

impl Routes {
    /// Whether an HTTP rule may hold for some client: then connections must be looked into.
    pub fn has_http(&self) -> bool {
        self.any_rule(|candidate| &candidate.http)
    }

    /// Whether a rule of `tls` may hold for some client.
    pub fn has_tls(&self) -> bool {
        self.any_rule(|candidate| &candidate.tls)
    }

    /// Whether a rule of `tcp` may hold for some client.
    pub fn has_tcp(&self) -> bool {
        self.any_rule(|candidate| &candidate.tcp)
    }

    fn any_rule<R: Filtered + 'static>(&self, rules: fn(&Candidate) -> &[PortRule<R>]) -> bool {
        self.candidates.iter().flat_map(rules).any(|rule| rule.rule.may_hold(self.port))
    }

    /// Whether [`Self::for_client`] says the same for all clients: then it is enough to ask once.
    pub fn is_same_for_all(&self) -> bool {
        let public = |candidate: &Candidate| candidate.resolved.object.export == Export::Public;
        let same = |candidate: &Candidate| {
            candidate.http.iter().all(PortRule::is_same_for_all)
                && candidate.tls.iter().chain(&candidate.tcp).all(PortRule::is_same_for_all)
        };
        self.implicit.is_same_for_all()
            && self.candidates.iter().all(public)
            && self.first_for(&Client::UNKNOWN).is_none_or(same)
    }

    /// What holds for `client`. The result owns all that it needs; clients that look alike can share it.
    pub fn for_client(&self, client: &Client<'_>) -> ClientRoutes {
        let first = self.first_for(client);
        let (mut http, mut places) = (Vec::new(), Vec::new());
        for rule in first.into_iter().flat_map(|candidate| &candidate.http) {
            let left = rule.for_client(self.port, client);
            places.push(left.is_some().then_some(http.len() as u32));
            http.extend(left);
        }
        ClientRoutes {
            port: self.port,
            virtual_service: first.map(|candidate| candidate.resolved.object.meta.name.clone()),
            service: self.implicit.for_client(client),
            http,
            index: first.map(|candidate| candidate.resolved.index().clone()).unwrap_or_default(),
            places,
            tls: first.map_or_else(Vec::new, |candidate| self.left(&candidate.tls, client)),
            tcp: first.map_or_else(Vec::new, |candidate| self.left(&candidate.tcp, client)),
        }
    }

    /// The rules that hold for `client`, with the matches that do.
    fn left<R: Filtered>(&self, rules: &[PortRule<R>], client: &Client<'_>) -> Vec<ClientRule<R>> {
        rules.iter().filter_map(|rule| rule.for_client(self.port, client)).collect()
    }

    /// The VirtualService that owns the host for `client`: best host first, then closeness, then age.
    pub(super) fn first_for(&self, client: &Client<'_>) -> Option<&Candidate> {
        let visible =
            self.candidates.iter().filter_map(|candidate| Some((candidate.tier(client)?, candidate)));
        let first = visible.min_by_key(|(tier, candidate)| (usize::MAX - candidate.specificity, *tier));
        first.map(|(_, candidate)| candidate)
    }
}

impl Candidate {
    pub(super) fn tier(&self, client: &Client<'_>) -> Option<Tier> {
        let object = &self.resolved.object;
        object.export.tier(&object.meta.name.namespace, client.namespace)
    }
}

impl<R: Filtered> PortRule<R> {
    fn is_same_for_all(&self) -> bool {
        let templates = self.destinations.iter().chain(&self.mirrors);
        self.rule.is_same_for_all() && templates.into_iter().all(Template::is_same_for_all)
    }

    /// `None` when the rule has matches and none of them is left.
    fn for_client(&self, port: u16, client: &Client<'_>) -> Option<ClientRule<R>> {
        let filters = self.rule.filters();
        let catch_all = filters.len() == 0;
        let left = filters.enumerate().filter(|(_, filter)| filter.miss(port, client).is_none());
        let matches: Vec<_> = left.map(|(i, _)| i).collect();
        if matches.is_empty() && !catch_all {
            return None;
        }
        Some(ClientRule {
            rule: self.rule.clone(),
            destinations: self.destinations.iter().map(|template| template.for_client(client)).collect(),
            mirrors: self.mirrors.iter().map(|template| template.for_client(client)).collect(),
            matches,
        })
    }
}
