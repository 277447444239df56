//! The table of a port in words, one line for each rule and match. For the command line; nothing is decided here.

use std::collections::BTreeSet;

use super::super::{ObjectName, client::Client, l4::L4Match, protocol::List};
use super::{
    Action, Match, Routes,
    routes::{Candidate, PortRule},
    target::Template,
};

/// A rule and one of its matches.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Line {
    /// The VirtualService that owns the host.
    pub virtual_service: ObjectName,
    /// Clients of these namespaces; `None` is all whom no other VirtualService has.
    pub clients: Option<BTreeSet<String>>,
    /// The list that it stands in.
    pub list: List,
    /// Name of the rule, or its place.
    pub rule: String,
    /// As in `http[0].match[1]`; without a match where the rule has none.
    pub place: String,
    /// What must hold, in words; nothing is everything.
    pub conditions: Vec<String>,
    /// What the rule answers by itself.
    pub answer: Option<String>,
    /// Where it leads to.
    pub destinations: Vec<Share>,
    /// What it does besides: faults, mirrors, rewrites, limits of time.
    pub also: Vec<String>,
}

/// A destination of a rule.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Share {
    /// `host:port`, and `subset NAME`.
    pub name: String,
    /// Its weight.
    pub weight: u32,
    /// Why it answers 503.
    pub fault: Option<&'static str>,
}

impl Routes {
    /// Every line that some client may meet, in order.
    pub fn lines(&self) -> Vec<Line> {
        self.owners().into_iter().flat_map(|(owner, clients)| self.lines_of(owner, &clients)).collect()
    }

    /// The VirtualServices that own the host for some client, and for whom.
    fn owners(&self) -> Vec<(&Candidate, Option<BTreeSet<String>>)> {
        // Clients differ only by the namespaces that some object names; `None` stands for all other clients.
        let objects = self.candidates.iter().map(|candidate| &candidate.resolved.object);
        let named = objects.flat_map(|object| object.export.named().iter().map(|name| Some(name.as_str())));
        let clients: BTreeSet<Option<&str>> = named.chain([None]).collect();
        let mut owners: Vec<(&Candidate, Option<BTreeSet<String>>)> = Vec::new();
        for candidate in &self.candidates {
            let owns = |namespace: &&Option<&str>| {
                let client = Client { namespace: **namespace, ..Client::UNKNOWN };
                self.first_for(&client).is_some_and(|first| std::ptr::eq(first, candidate))
            };
            let mine: Vec<Option<&str>> = clients.iter().filter(owns).copied().collect();
            if !mine.is_empty() {
                let named = mine.iter().flatten().map(|name| (*name).to_owned()).collect();
                owners.push((candidate, (!mine.contains(&None)).then_some(named)));
            }
        }
        owners
    }

    fn lines_of(&self, owner: &Candidate, clients: &Option<BTreeSet<String>>) -> Vec<Line> {
        let mut lines = Vec::new();
        let mut add = |list, rule: &str, place: String, conditions, does: &Does| {
            lines.push(Line {
                virtual_service: owner.resolved.object.meta.name.clone(),
                clients: clients.clone(),
                list,
                rule: rule.to_owned(),
                place,
                conditions,
                answer: does.answer.clone(),
                destinations: does.destinations.clone(),
                also: does.also.clone(),
            });
        };
        for rule in &owner.http {
            let does = Does::of_http(rule);
            let (name, place) = (&rule.rule.name, &rule.rule.place);
            if rule.rule.matches.is_empty() {
                add(List::Http, name, place.to_string(), Vec::new(), &does);
            }
            for entry in rule.rule.matches.iter().filter(|entry| entry.filter.allows_port(self.port)) {
                let conditions = [entry.filter.words(), entry.words()].concat();
                add(List::Http, name, format!("{place}.match[{}]", entry.index), conditions, &does);
            }
        }
        let connections = owner.tls.iter().map(|rule| (List::Tls, rule));
        for (list, rule) in connections.chain(owner.tcp.iter().map(|rule| (List::Tcp, rule))) {
            let destinations = shares(&rule.destinations, rule.rule.weights.as_slice());
            let does = Does { destinations, ..Does::default() };
            let place = &rule.rule.place;
            if rule.rule.matches.is_empty() {
                add(list, place, place.to_string(), Vec::new(), &does);
            }
            let matches = rule.rule.matches.iter().enumerate();
            for (i, entry) in matches.filter(|(_, entry)| entry.filter.allows_port(self.port)) {
                add(list, place, format!("{place}.match[{i}]"), words(entry), &does);
            }
        }
        lines
    }
}

#[derive(Default)]
struct Does {
    answer: Option<String>,
    destinations: Vec<Share>,
    also: Vec<String>,
}

impl Does {
    fn of_http(rule: &PortRule<super::HttpRule>) -> Self {
        let mut does = Self::default();
        match &rule.rule.action {
            Action::Redirect(redirect) => does.answer = Some(redirect.to_string()),
            Action::Direct(direct) => does.answer = Some(format!("answers {}", direct.status.as_u16())),
            Action::Route(route) => {
                does.destinations = shares(&rule.destinations, route.weights.as_slice());
                does.also.extend(route.fault.as_ref().map(ToString::to_string));
                let mirrors = route.mirrors.iter().zip(&rule.mirrors);
                does.also
                    .extend(mirrors.map(|(mirror, to)| format!("mirrors {} to {}", mirror.share, name(to))));
                does.also.extend(route.rewrite.as_ref().map(|_| "rewrites the path".to_owned()));
                does.also.extend(
                    route
                        .authority
                        .as_ref()
                        .map(|host| format!("as {}", String::from_utf8_lossy(host.as_bytes()))),
                );
                does.also.extend(route.timeout.map(|limit| format!("within {limit:?}")));
            }
        }
        if rule.rule.cors.is_some() {
            does.also.push("CORS".to_owned());
        }
        does
    }
}

fn shares(destinations: &[Template], weights: &[u32]) -> Vec<Share> {
    let share = |(template, weight): (&Template, &u32)| {
        let lacks = template.lacks_subset().then_some(super::TargetState::UnknownSubset);
        let fault = template.target().state.fault().or_else(|| lacks?.fault());
        Share { name: name(template), weight: *weight, fault }
    };
    destinations.iter().zip(weights).map(share).collect()
}

fn name(template: &Template) -> String {
    let target = template.target();
    let subset = target.subset.as_deref().map_or(String::new(), |subset| format!(" subset {subset}"));
    format!("{}:{}{subset}", target.host, target.port)
}

fn words(entry: &L4Match) -> Vec<String> {
    let mut words = entry.filter.words();
    if let Some(names) = &entry.server_names {
        let names: Vec<&str> = names.iter().map(|name| name.as_str()).collect();
        words.push(format!("server name {}", names.join(" or ")));
    }
    words
}

impl Match {
    /// What must hold, in words.
    fn words(&self) -> Vec<String> {
        self.conditions().iter().map(ToString::to_string).collect()
    }
}
