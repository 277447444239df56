//! What would become of a request, by the very configuration and code that serve requests. For the command line.

use std::net::{IpAddr, SocketAddr};

use http::HeaderMap;

use super::{
    balance::{select, wants_tls},
    config::{Config, canonical},
    locality::Locality,
    snapshot::Snapshot,
};
use crate::l7::rules::{
    Client, RequestView,
    table::{self, Target, Verdict},
};

mod choice;
#[cfg(test)]
mod tests;

use choice::choice;

/// A request that nobody sent.
#[derive(Clone, Debug)]
pub struct Question {
    /// A pod (`name` or `namespace/name`), an address, or `host`.
    pub from: String,
    /// The address and port dialled.
    pub dialled: SocketAddr,
    /// The Host header.
    pub authority: String,
    /// Method.
    pub method: String,
    /// Path, with the query if there is one.
    pub path: String,
    /// Headers.
    pub headers: HeaderMap,
}

impl Question {
    /// The request, as rules see it.
    pub fn request(&self) -> RequestView<'_> {
        let (path, query) = match self.path.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (self.path.as_str(), None),
        };
        RequestView {
            method: &self.method,
            scheme: "http",
            authority: &self.authority,
            path,
            query,
            headers: &self.headers,
            work: None,
        }
    }
}

/// Where it would go.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Answer {
    /// `namespace/name` of the VirtualService that holds for the client.
    pub virtual_service: Option<String>,
    /// The rule that takes it: its name and place; `None` is no rule.
    pub rule: Option<String>,
    /// The match that was met.
    pub matched: Option<String>,
    /// What is done, in a sentence.
    pub outcome: String,
    /// Destinations: `host:port`, with the subset, share, endpoints, and why it gives 503 if it does.
    pub destinations: Vec<Destination>,
    /// What came before and did not apply: rule and reason.
    pub skipped: Vec<(String, String)>,
    /// Whether some endpoint or the rule itself answers.
    pub answered: bool,
}

/// A destination of a rule.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Destination {
    /// `host:port`, and `subset NAME`.
    pub name: String,
    /// Share of the requests.
    pub weight: u32,
    /// Who may serve.
    pub endpoints: Vec<SocketAddr>,
    /// The name that is asked for who may, when there is a request.
    pub resolved: Option<String>,
    /// Which share of them goes to which zone, where a DestinationRule tells zones apart.
    pub zones: Vec<(u32, String)>,
    /// Why requests get 503.
    pub fault: Option<&'static str>,
    /// How one of the endpoints is chosen.
    pub choice: String,
    /// Whether endpoints that fail are left out for a while, which only the redirector knows.
    pub leaves_out: bool,
}

/// Explains; `None` when the redirector serves no such address.
pub fn explain(snapshot: Snapshot, question: &Question) -> Option<Answer> {
    let pods = snapshot.pods.clone();
    let (config, _) = Config::compile(snapshot);
    let frontend = config.frontend(canonical(question.dialled))?;
    let from = question.from.parse::<IpAddr>().ok();
    let pod = pods.iter().find(|pod| {
        let named = question.from == pod.name || question.from == format!("{}/{}", pod.namespace, pod.name);
        named || from.is_some_and(|from| pod.addresses.contains(&from))
    });
    let nothing = std::collections::BTreeMap::new();
    let client = Client {
        namespace: pod.map(|pod| pod.namespace.as_str()),
        labels: pod.map_or(&nothing, |pod| &pod.labels),
        dialled: Some(question.dialled.ip()),
    };
    let request = question.request();
    let found = table::explain(&frontend.routes, &client, &request);
    let client_address = from.or_else(|| {
        let addresses = pod.into_iter().flat_map(|pod| &pod.addresses);
        addresses.copied().find(|address| address.is_ipv4() == question.dialled.is_ipv4())
    });
    let asker = choice::Asker { address: client_address, headers: &question.headers, query: request.query };
    let of = |(weight, target): &(u32, Target)| destination(&config, *weight, target, &asker);
    let destinations: Vec<Destination> = found.destinations.iter().map(of).collect();
    let served = destinations
        .iter()
        .any(|to| to.weight > 0 && to.fault.is_none() && (!to.endpoints.is_empty() || to.resolved.is_some()));
    let (rule, matched, outcome, answered) = match found.verdict {
        Verdict::Service => (
            None,
            None,
            "no rule holds for this client: the Service's endpoints, request by request".to_owned(),
            served,
        ),
        Verdict::NotFound => (None, None, "rules hold, and none matches: 404".to_owned(), true),
        Verdict::Rule { name, place, match_index } => {
            let own = destinations.is_empty();
            let outcome =
                if own { "the rule answers by itself" } else { "the rule leads to its destinations" };
            let matched = match_index.map(|index| format!("{place}.match[{index}]"));
            (Some(name), matched.or(Some(place)), outcome.to_owned(), own || served)
        }
    };
    Some(Answer {
        virtual_service: found.virtual_service.map(|name| name.to_string()),
        rule,
        matched,
        outcome,
        destinations,
        skipped: found.skipped.into_iter().map(|skipped| (skipped.rule, skipped.reason)).collect(),
        answered,
    })
}

fn destination(config: &Config, weight: u32, target: &Target, asker: &choice::Asker<'_>) -> Destination {
    let subset = target.subset.as_deref().map_or(String::new(), |subset| format!(" subset {subset}"));
    let named = config.named(&target.host, target.port);
    let known = named.as_ref().or_else(|| config.destination(&target.host, target.port));
    let endpoints = known.map_or_else(Vec::new, |known| select(known, target.policy.as_deref()));
    let resolved = known.and_then(|known| known.external_name.as_deref()).filter(|_| endpoints.is_empty());
    let resolved = resolved.map(str::to_owned);
    let tls = "its DestinationRule wants TLS to endpoints, which is not supported yet";
    let fault = target.state.fault().or_else(|| wants_tls(target).then_some(tls));
    let policy = target.policy.as_deref();
    let affinity = known.is_some_and(|known| known.affinity);
    let choice = choice(policy, affinity, asker, &endpoints);
    let leaves_out = policy.is_some_and(|policy| policy.traffic.outlier_detection.is_some());
    let parts = known.zip(target.policy.as_deref()).and_then(|(known, policy)| {
        let locality = Locality::new(policy, config.zone.as_deref(), known, &endpoints)?;
        Some(locality.split(&endpoints))
    });
    let zones = parts.into_iter().flatten().filter(|part| !part.endpoints.is_empty());
    let zones = zones.map(|part| (part.weight, part.name)).collect();
    Destination {
        name: format!("{}:{}{subset}", target.host, target.port),
        weight,
        endpoints,
        resolved,
        zones,
        fault,
        choice,
        leaves_out,
    }
}
