//! Why a request goes where it goes, in words. Uses the code that selects; slower, and never on its path.

use super::super::{ObjectName, client::Client, matching::RequestView};
use super::{HttpRule, Routes, Selection, Target, select::Selected};

/// A rule or an object that did not take the request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Skipped {
    /// `http[0].match[1]`, or `VirtualService shop/reviews`.
    pub rule: String,
    /// Why.
    pub reason: String,
}

/// How a request was decided.
#[derive(Clone, PartialEq, Debug)]
pub struct Explanation {
    /// The VirtualService that owns the host for this client.
    pub virtual_service: Option<ObjectName>,
    /// What happens.
    pub verdict: Verdict,
    /// Where the request may go, with weights; empty for answers of a rule itself, and for 404.
    pub destinations: Vec<(u32, Target)>,
    /// What came before and did not apply, in order.
    pub skipped: Vec<Skipped>,
}

/// What happens to the request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// No rule holds for this client: the Service itself.
    Service,
    /// A rule takes it.
    Rule {
        /// Its name.
        name: String,
        /// Its place, as in `http[0]`.
        place: String,
        /// The match that was met.
        match_index: Option<usize>,
    },
    /// 404.
    NotFound,
}

/// Explains what [`super::ClientRoutes::select`] says about `request` of `client`.
pub fn explain(routes: &Routes, client: &Client<'_>, request: &RequestView<'_>) -> Explanation {
    let mut skipped = Vec::new();
    let first = routes.first_for(client);
    let first_name = first.map(|candidate| &candidate.resolved.object.meta.name);
    for candidate in &routes.candidates {
        let name = &candidate.resolved.object.meta.name;
        let reason = match (candidate.tier(client), first) {
            (None, _) => "is not exported to the client's namespace".to_owned(),
            (Some(_), Some(winner)) if first_name != Some(name) => {
                let winner_name = &winner.resolved.object.meta.name;
                let why = if winner.specificity > candidate.specificity {
                    "names the host more exactly"
                } else if winner.tier(client) < candidate.tier(client) {
                    "is closer to the client's namespace"
                } else {
                    "is older"
                };
                format!("superseded by {winner_name}, which {why}")
            }
            (Some(_), _) => continue,
        };
        skipped.push(Skipped { rule: format!("VirtualService {name}"), reason });
    }
    let client_routes = routes.for_client(client);
    let selection = client_routes.select(request);
    debug_assert_eq!(
        format!("{selection:?}"),
        format!("{:?}", client_routes.select_in_order(request)),
        "the index and the order of the rules differ"
    );
    let (verdict, destinations, stop) = match selection {
        Selection::Service(target) => (Verdict::Service, vec![(1, target.clone())], None),
        // A request that nobody sent may take its time.
        Selection::NotFound | Selection::Spent => (Verdict::NotFound, Vec::new(), None),
        Selection::Rule(selected) => (verdict_of(&selected), destinations_of(&selected), Some(selected)),
    };
    for rule in first.into_iter().flat_map(|candidate| &candidate.resolved.http) {
        let taken = stop.filter(|selected| std::ptr::eq(selected.rule(), rule.as_ref()));
        skip_matches(rule, routes.port, client, request, taken, &mut skipped);
        if taken.is_some() {
            break;
        }
    }
    Explanation { virtual_service: first_name.cloned(), verdict, destinations, skipped }
}

fn verdict_of(selected: &Selected<'_>) -> Verdict {
    Verdict::Rule {
        name: selected.rule().name.to_string(),
        place: selected.rule().place.to_string(),
        match_index: selected.matched.map(|matched| matched.index),
    }
}

fn destinations_of(selected: &Selected<'_>) -> Vec<(u32, Target)> {
    let weights = selected.rule().route().map(|route| route.weights.as_slice()).unwrap_or_default();
    weights.iter().copied().zip(selected.client_rule.destinations.iter().cloned()).collect()
}

/// Says why each match of `rule` did not apply, up to the one that did.
fn skip_matches(
    rule: &HttpRule,
    port: u16,
    client: &Client<'_>,
    request: &RequestView<'_>,
    taken: Option<Selected<'_>>,
    skipped: &mut Vec<Skipped>,
) {
    let end = taken.and_then(|selected| selected.matched).map_or(rule.matches.len(), |matched| matched.index);
    for entry in rule.matches.iter().take_while(|entry| entry.index < end) {
        let filtered = entry.filter.miss(port, client).map(|miss| miss.to_string());
        if let Some(reason) = filtered.or_else(|| entry.miss(request)) {
            skipped.push(Skipped { rule: format!("{}.match[{}]", rule.place, entry.index), reason });
        }
    }
}
