//! What one object names by itself, whatever else there is: destinations with their subsets, delegates.

use super::super::{ObjectName, actions::DestinationName};
use super::{DestinationRule, VirtualService, accept::HttpEntry, delegate};

impl VirtualService {
    /// Its destinations and mirrors, each with its path; not those of objects that it delegates to.
    pub fn destinations(&self) -> impl Iterator<Item = (String, &DestinationName)> {
        let rules = self.http.iter().filter_map(|entry| match entry {
            HttpEntry::Rule(rule) => Some((&rule.place, rule.route()?)),
            HttpEntry::Delegate => None,
        });
        let http = rules.flat_map(|(place, route)| {
            let destinations = route.destinations.iter().enumerate();
            let named = destinations
                .map(move |(i, entry)| (format!("spec.{place}.route[{i}].destination"), &entry.name));
            let mirrors = route.mirrors.iter();
            named.chain(
                mirrors.map(move |mirror| (format!("spec.{place}.{}", mirror.place), &mirror.destination)),
            )
        });
        let connections = self.tls.iter().chain(&self.tcp).flat_map(|rule| {
            let place = |i| format!("spec.{}.route[{i}].destination", rule.place);
            rule.destinations.iter().enumerate().map(move |(i, name)| (place(i), name))
        });
        http.chain(connections)
    }

    /// The objects that it delegates to.
    pub fn delegates(&self) -> impl Iterator<Item = ObjectName> {
        let named = self.spec.http.iter().filter_map(|raw| raw.delegate.as_ref());
        named.map(|named| delegate::name_of(named, self))
    }
}

impl DestinationRule {
    /// Whether this has the subset that `name` asks for, be it for whichever clients.
    pub fn has_subset_of(&self, name: &DestinationName) -> bool {
        let Some(wanted) = name.subset.as_deref() else { return true };
        self.host.specificity(&name.host).is_some() && self.subsets.iter().any(|subset| subset.name == wanted)
    }
}
