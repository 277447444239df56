//! What hangs on rules and Services alone, and not on endpoints: those change a hundred times as often.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Instant,
};

use super::{Planner, Report, collect_hosts, served_by};
use crate::{
    l7::{rules::table::KnownServices, split::Served},
    model::{self, L7News, ObjectName, Protocol, RuleKind, ServiceKind, Split, Store},
};

type Ports = BTreeSet<(ObjectName, u16)>;

/// Which ports have rules, and whose endpoints the redirector must know for it.
#[derive(Debug, Default)]
pub(super) struct Decided {
    pub redirected: Ports,
    pub splits: BTreeMap<(ObjectName, u16), Split>,
    pub reports: Vec<Report>,
    /// In the order of their names; with the Service that an `externalName` is the name of.
    pub services: BTreeMap<ObjectName, Option<ObjectName>>,
    /// Whether there is anything to decide about.
    pub has_rules: bool,
    lingering: Ports,
    aliases: BTreeSet<ObjectName>,
}

impl Decided {
    /// Whether this was decided with these ports lingering.
    pub fn is_for(&self, lingering: &Ports) -> bool {
        self.lingering == *lingering
    }

    /// Whether the redirector should hear of `news`.
    pub fn is_concerned(&self, news: &L7News) -> bool {
        let looks_at = |name: &ObjectName| self.services.contains_key(name) || self.aliases.contains(name);
        self.has_rules && (news.pods || news.endpoints_of.iter().any(looks_at))
    }
}

impl Planner {
    pub(super) fn decide(&mut self, store: &Store, lingering: &Ports, now: Instant) -> Decided {
        self.forms.read(store, &self.mesh, now);
        let asks = store.services().any(|service| service.per_request);
        if self.forms.is_empty() && !asks && lingering.is_empty() {
            return Decided::default();
        }
        let known: KnownServices = store.services().map(|service| self.known(service)).collect();
        let set = self.forms.rule_set(&self.mesh);
        let hosts =
            store.services().map(|service| (self.host(&service.name), service.name.clone())).collect();
        let (mut redirected, mut splits) = (BTreeSet::new(), BTreeMap::new());
        for service in store.services().filter(|service| service.kind != ServiceKind::Headless) {
            let host = self.host(&service.name);
            for port in service.ports.iter().filter(|port| port.protocol == Protocol::Tcp) {
                let routes = set.routes(&host, port.port, &known);
                let key = (service.name.clone(), port.port);
                match served_by(&routes, service, port, &hosts) {
                    Served::Plainly => {}
                    Served::Split(split) => drop(splits.insert(key, split)),
                    Served::Redirector => drop(redirected.insert(key)),
                }
            }
        }
        let served: Ports = redirected.union(lingering).cloned().collect();
        let services = self.wanted(store, &served, &hosts);
        Decided {
            aliases: services.values().flatten().cloned().collect(),
            services,
            reports: self.forms.reports(&set, &known, &self.hosts(store), &self.scope),
            redirected,
            splits,
            has_rules: true,
            lingering: lingering.clone(),
        }
    }

    /// The Services that rules serve or name.
    fn wanted(
        &self,
        store: &Store,
        served: &Ports,
        hosts: &BTreeMap<String, ObjectName>,
    ) -> BTreeMap<ObjectName, Option<ObjectName>> {
        let mut named = BTreeSet::new();
        for object in self.forms.raw(RuleKind::VirtualService) {
            let namespace = object
                .pointer("/metadata/namespace")
                .and_then(serde_json::Value::as_str)
                .unwrap_or("default");
            collect_hosts(object, &mut |host| {
                named.insert(self.mesh.resolve(host, namespace));
            });
        }
        let is_wanted = |service: &&model::Service| {
            let steered =
                service.ports.iter().any(|port| served.contains(&(service.name.clone(), port.port)));
            steered || named.contains(&self.host(&service.name))
        };
        let alias = |of: &model::Service| {
            let name = hosts.get(of.external_name.as_deref()?)?;
            store.service(name).filter(|other| other.external_name.is_none()).map(|_| name.clone())
        };
        let wanted = store.services().filter(is_wanted);
        wanted.map(|service| (service.name.clone(), alias(service))).collect()
    }
}
