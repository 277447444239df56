//! What is said about objects once the Services are known: unknown destinations and lost hosts.

use super::super::{
    ObjectName,
    actions::DestinationName,
    objects::{Message, Severity},
};
use super::{Findings, Kind, KnownServices, RuleSet, Scope, TargetState, target::Template};

impl RuleSet {
    /// All findings about all objects, beyond what reading them said. None of them rejects an object. What is outside of
    /// `scope` and not in `known` is not called missing.
    pub fn report(&self, known: &KnownServices, scope: &Scope) -> Findings {
        let mut findings = self.findings().clone();
        let mut warn = |name: &ObjectName, path: String, text: String| {
            let messages = findings.entry((Kind::VirtualService, name.clone())).or_default();
            let message = Message { severity: Severity::Warning, path, text };
            // Several roots may delegate to one object.
            if !messages.contains(&message) {
                messages.push(message);
            }
        };
        for resolved in &self.virtual_services {
            let name = &resolved.object.meta.name;
            for rule in &resolved.http {
                let Some(route) = rule.route() else { continue };
                // A delegate's rule is reported at the delegate.
                let owner = rule.delegate.as_deref().unwrap_or(name);
                let place = rule.place.rsplit(" > ").next().unwrap_or_default();
                for (i, entry) in route.destinations.iter().enumerate() {
                    if let Some(text) = self.fault(&entry.name, known, scope) {
                        warn(owner, format!("spec.{place}.route[{i}].destination"), text);
                    }
                }
                for mirror in &route.mirrors {
                    if let Some(text) = self.fault(&mirror.destination, known, scope) {
                        warn(owner, format!("spec.{place}.{}", mirror.place), text);
                    }
                }
            }
            for rule in resolved.object.tls.iter().chain(&resolved.object.tcp) {
                for (i, destination) in rule.destinations.iter().enumerate() {
                    if let Some(text) = self.fault(destination, known, scope) {
                        warn(name, format!("spec.{}.route[{i}].destination", rule.place), text);
                    }
                }
            }
        }
        for lost in self.superseded() {
            let audience = match &lost.for_namespaces {
                None => String::new(),
                Some(namespaces) => {
                    let names: Vec<_> = namespaces.iter().map(String::as_str).collect();
                    format!(" for clients of {}", names.join(", "))
                }
            };
            let text = format!("{} is superseded by VirtualService {}{audience}", lost.host, lost.winner);
            warn(&lost.loser, "spec.hosts".to_owned(), text);
        }
        findings
    }

    /// Why requests to `name` are answered 503, whoever sends them.
    fn fault(&self, name: &DestinationName, known: &KnownServices, scope: &Scope) -> Option<String> {
        // The port addressed is a guess; it matters only where the Service has several.
        let guess = known.get(name.host.as_ref()).and_then(|service| service.ports.first()).copied();
        let template = Template::new(self, name, guess.unwrap_or(0), known);
        let target = template.target();
        match target.state {
            TargetState::UnknownService if scope.covers(&name.host, &self.mesh) => {
                Some(format!("there is no Service {}: requests get 503", name.host))
            }
            TargetState::UnknownPort => {
                Some(format!("Service {} has no port {}: requests get 503", name.host, target.port))
            }
            TargetState::UnknownService | TargetState::Ready | TargetState::UnknownSubset => {
                let subset = target.subset.as_deref().filter(|_| template.lacks_subset())?;
                Some(format!("no DestinationRule for {} has subset {subset:?}: requests get 503", name.host))
            }
        }
    }
}
