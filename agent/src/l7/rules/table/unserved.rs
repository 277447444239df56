//! Rules that nothing of the cluster can give effect to: hosts that are no Service or have no address, ports that speak
//! something else. Destinations are in `report.rs`.

use std::collections::{BTreeMap, BTreeSet};

use super::super::{
    ObjectName,
    client::{Filter, Filtered},
    hosts::{HostPattern, Mesh},
    objects::{Message, Severity},
    protocol::{List, Speech},
};
use super::{Findings, Kind, RuleSet, set::Resolved};

/// Whether connections to a Service can be steered at all.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Steering {
    /// By its own addresses.
    ByAddress,
    /// Not: clients dial its pods.
    Headless,
    /// Not: clients dial what its `externalName` stands for.
    ExternalName,
}

/// A Service as rules for its host meet it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Host {
    /// Whether its connections can be steered.
    pub steering: Steering,
    /// TCP ports, with what each is declared to speak.
    pub ports: Vec<(u16, Option<Speech>)>,
}

/// By host in full, lower case.
pub type Hosts = BTreeMap<String, Host>;

/// Of which Services it is known whether they exist.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub enum Scope {
    /// All.
    #[default]
    Cluster,
    /// Those of these namespaces.
    Namespaces(BTreeSet<String>),
}

impl Scope {
    /// Whether a host like this would be known if it were a Service's.
    pub fn covers(&self, host: &str, mesh: &Mesh) -> bool {
        let Self::Namespaces(known) = self else { return true };
        match mesh.namespace_of(host) {
            Some(namespace) => known.contains(namespace),
            None => {
                let services = HostPattern::new(format!("*.svc.{}", mesh.domain));
                !services.overlaps(&HostPattern::new(host))
            }
        }
    }
}

fn declared(speech: Option<Speech>) -> &'static str {
    match speech {
        None => "nothing",
        Some(Speech::Http) => "HTTP",
        Some(Speech::Http2) => "HTTP/2",
        Some(Speech::Tls) => "TLS",
        Some(Speech::Tcp) => "TCP",
    }
}

type Messages<'m> = &'m mut dyn FnMut(&ObjectName, String, String);

impl RuleSet {
    /// What of the rules has no effect on this cluster. None of it rejects an object.
    pub fn unserved(&self, hosts: &Hosts, scope: &Scope) -> Findings {
        let mut findings = Findings::new();
        let mut warn = |name: &ObjectName, path: String, text: String| {
            let messages = findings.entry((Kind::VirtualService, name.clone())).or_default();
            let message = Message { severity: Severity::Warning, path, text };
            if !messages.contains(&message) {
                messages.push(message);
            }
        };
        for resolved in self.virtual_services.iter().filter(|resolved| resolved.object.on_mesh) {
            let ports = self.steered(resolved, hosts, scope, &mut warn);
            if ports.is_empty() {
                continue;
            }
            let name = &resolved.object.meta.name;
            for rule in &resolved.http {
                // A delegate's rule is told of at the delegate, whose matches are others.
                let owner = rule.delegate.as_deref().unwrap_or(name);
                let place = rule.place.rsplit(" > ").next().unwrap_or_default();
                let own = rule.delegate.is_none();
                ports.check(List::Http, rule.as_ref(), place, own, &mut |path, text| warn(owner, path, text));
            }
            for (list, rules) in [(List::Tls, &resolved.object.tls), (List::Tcp, &resolved.object.tcp)] {
                for rule in rules {
                    ports.check(list, rule.as_ref(), &rule.place, true, &mut |path, text| {
                        warn(name, path, text);
                    });
                }
            }
        }
        findings
    }

    /// The ports that rules of `resolved` may hold for; warns of hosts that have none.
    fn steered<'h>(
        &self,
        resolved: &Resolved,
        hosts: &'h Hosts,
        scope: &Scope,
        warn: Messages<'_>,
    ) -> Ports<'h> {
        let (mut ports, mut missing) = (Ports(Vec::new()), Vec::new());
        for (i, pattern) in resolved.object.hosts.iter().enumerate() {
            let name = pattern.as_str();
            let meets = |(host, _): &(&String, &Host)| pattern.specificity(host).is_some();
            let met: Vec<_> = if name.starts_with('*') {
                hosts.iter().filter(meets).collect()
            } else {
                hosts.get_key_value(name).into_iter().collect()
            };
            let text = match met.first() {
                None if !scope.covers(name, &self.mesh) => continue,
                None if name.starts_with('*') => {
                    format!("no Service has a host like {name}: the rules do nothing for it")
                }
                None if self.mesh.namespace_of(name).is_some() => {
                    format!("there is no Service {name}: the rules do nothing for it")
                }
                None => format!(
                    "{name} is no Service of the cluster: rules hold for what clients dial by a Service's address"
                ),
                Some((host, one)) => match one.steering {
                    _ if met.iter().any(|(_, host)| host.steering == Steering::ByAddress) => String::new(),
                    Steering::Headless => format!(
                        "Service {host} is headless: clients dial its pods, past the rules; give it a cluster IP"
                    ),
                    Steering::ByAddress | Steering::ExternalName => format!(
                        "Service {host} has no address of its own, for externalName: clients dial past the rules"
                    ),
                },
            };
            if !text.is_empty() {
                missing.push((i, text));
            }
            let steered = met.into_iter().filter(|(_, host)| host.steering == Steering::ByAddress);
            ports.0.extend(steered.flat_map(|(name, host)| {
                host.ports.iter().map(|(number, speech)| (name.as_str(), *number, *speech))
            }));
        }
        for (i, text) in missing {
            // Server names must be among the hosts, and are seldom Services.
            let is_server_name = server_names(resolved).any(|name| resolved.object.hosts[i].covers(name));
            if ports.is_empty() || !is_server_name {
                warn(&resolved.object.meta.name, format!("spec.hosts[{i}]"), text);
            }
        }
        ports
    }
}

fn server_names(resolved: &Resolved) -> impl Iterator<Item = &HostPattern> {
    let matches = resolved.object.tls.iter().flat_map(|rule| &rule.matches);
    matches.filter_map(|entry| entry.server_names.as_ref()).flatten()
}

/// Host, number, and what is declared.
struct Ports<'h>(Vec<(&'h str, u16, Option<Speech>)>);

impl Ports<'_> {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Looks at the rule at `place`; `by_match` is whether its matches are where the user wrote them.
    fn check(
        &self,
        list: List,
        rule: &impl Filtered,
        place: &str,
        by_match: bool,
        warn: &mut dyn FnMut(String, String),
    ) {
        let anywhere = || self.fault(list, None).map(|text| (format!("spec.{place}"), text));
        let filters = rule.filters();
        if filters.len() == 0 {
            anywhere().into_iter().for_each(|(path, text)| warn(path, text));
        }
        for (i, filter) in filters.enumerate().filter(|(_, filter)| filter.is_on_mesh()) {
            let told = match Filter::port(filter) {
                None => anywhere(),
                Some(port) => self.fault(list, Some(port)).map(|text| {
                    let path = if by_match {
                        format!("spec.{place}.match[{i}].port")
                    } else {
                        format!("spec.{place}")
                    };
                    (path, text)
                }),
            };
            told.into_iter().for_each(|(path, text)| warn(path, text));
        }
    }

    /// Why a match that names `port`, or none, has no effect; `None` if it has.
    fn fault(&self, list: List, port: Option<u16>) -> Option<String> {
        let mut meant =
            self.0.iter().filter(|(_, number, _)| port.is_none_or(|port| port == *number)).peekable();
        if meant.peek().is_none() {
            let port = port.unwrap_or_default();
            return Some(format!("no Service of these hosts has TCP port {port}: this does nothing"));
        }
        let mut others = Vec::new();
        for (host, number, speech) in meant {
            if list.fits(*speech) {
                return None;
            }
            let text = format!("port {number} of Service {host} is declared {}", declared(*speech));
            if !others.contains(&text) {
                others.push(text);
            }
        }
        let (others, list) = (others.join(", "), list.name());
        Some(format!("{others} (by appProtocol, its name or number): rules of {list} do not hold there"))
    }
}
