//! All objects together: who delegates to whom, who is first for a host. One port's table is in `routes.rs`.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, OnceLock},
};

use super::super::{
    ObjectName,
    hosts::{HostPattern, Mesh, Tier},
    objects::{Message, Messages},
};
use super::{DestinationRule, HttpRule, VirtualService, delegate, index::Index, policy};

/// Kinds of objects that rules are made of.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Kind {
    /// `VirtualService`.
    VirtualService,
    /// `DestinationRule`.
    DestinationRule,
}

/// A Service, or something else with an address of its own, that rules may name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KnownService {
    /// Its namespace.
    pub namespace: String,
    /// Its ports; none for a name outside the cluster that is reached at any port.
    pub ports: Vec<u16>,
}

/// By host in full, lower case.
pub type KnownServices = BTreeMap<String, KnownService>;

/// What is said about objects, beyond what reading them said.
pub type Findings = BTreeMap<(Kind, ObjectName), Vec<Message>>;

/// A VirtualService that comes after another for one of its hosts.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Superseded {
    /// The one that comes after.
    pub loser: ObjectName,
    /// The one that comes first.
    pub winner: ObjectName,
    /// The host.
    pub host: HostPattern,
    /// Clients of these namespaces; `None` is every client that sees the loser.
    pub for_namespaces: Option<BTreeSet<String>>,
}

/// All accepted objects. Immutable; made anew after each change.
#[derive(Clone, Debug)]
pub struct RuleSet {
    pub(super) mesh: Mesh,
    /// In order of age. Those that others delegate to are left out.
    pub(super) virtual_services: Vec<Arc<Resolved>>,
    /// In order of age, merged.
    pub(super) destination_rules: Vec<Arc<DestinationRule>>,
    findings: Findings,
}

/// A VirtualService with its delegates' rules in place.
#[derive(Clone, Debug)]
pub(super) struct Resolved {
    pub(super) object: Arc<VirtualService>,
    pub(super) http: Vec<Arc<HttpRule>>,
    index: OnceLock<Arc<Index>>,
}

impl Resolved {
    /// The index of `http`; made when it is first wanted, which is never where no requests are served.
    pub(super) fn index(&self) -> &Arc<Index> {
        self.index.get_or_init(|| Arc::new(Index::new(&self.http)))
    }
}

impl RuleSet {
    /// From accepted objects, in any order.
    pub fn new(
        mesh: Mesh,
        mut virtual_services: Vec<Arc<VirtualService>>,
        mut destination_rules: Vec<Arc<DestinationRule>>,
    ) -> Self {
        let age = |created_s: i64, name: &ObjectName| (created_s, name.name.clone(), name.namespace.clone());
        virtual_services.sort_by_cached_key(|object| age(object.meta.created_s, &object.meta.name));
        destination_rules.sort_by_cached_key(|object| age(object.meta.created_s, &object.meta.name));
        let mut findings = Findings::new();
        let mut report = |kind, name: &ObjectName, messages: Messages| {
            findings.entry((kind, name.clone())).or_default().extend(messages.into_vec());
        };
        let destination_rules = policy::merge(&destination_rules, |name, messages| {
            report(Kind::DestinationRule, name, messages);
        });
        let by_name: BTreeMap<_, _> =
            virtual_services.iter().map(|object| (object.meta.name.clone(), object.clone())).collect();
        let mut resolved = Vec::with_capacity(virtual_services.len());
        for object in virtual_services.into_iter().filter(|object| !object.hosts.is_empty()) {
            let mut messages = Messages::default();
            let http = delegate::rules(&object, &by_name, &mesh, &mut messages);
            report(Kind::VirtualService, &object.meta.name, messages);
            resolved.push(Arc::new(Resolved { object, http, index: OnceLock::new() }));
        }
        for orphan in delegate::orphans(&by_name) {
            let mut messages = Messages::default();
            messages.warn(
                "spec.hosts",
                "is empty, and no other VirtualService delegates to this one: it does nothing",
            );
            report(Kind::VirtualService, orphan, messages);
        }
        findings.retain(|_, messages| !messages.is_empty());
        Self { mesh, virtual_services: resolved, destination_rules, findings }
    }

    /// What putting the objects together showed: missing delegates, subsets that are there twice.
    pub fn findings(&self) -> &Findings {
        &self.findings
    }

    /// The VirtualService that takes all that `name` wants: it has lost every host, for every client.
    pub fn superseded_by(&self, name: &ObjectName) -> Option<ObjectName> {
        let object =
            &self.virtual_services.iter().find(|resolved| resolved.object.meta.name == *name)?.object;
        let lost = self.superseded();
        let lost: Vec<_> =
            lost.iter().filter(|lost| lost.loser == *name && lost.for_namespaces.is_none()).collect();
        let all = object.hosts.iter().all(|host| lost.iter().any(|lost| lost.host == *host));
        lost.first().filter(|_| all).map(|lost| lost.winner.clone())
    }

    /// VirtualServices that lose a host to another, for all clients that see them or for some.
    pub fn superseded(&self) -> Vec<Superseded> {
        let mut by_host: BTreeMap<&HostPattern, Vec<&VirtualService>> = BTreeMap::new();
        for resolved in self.virtual_services.iter().filter(|resolved| resolved.object.on_mesh) {
            for host in &resolved.object.hosts {
                by_host.entry(host).or_default().push(&resolved.object);
            }
        }
        let mut found = Vec::new();
        for (host, rivals) in by_host.into_iter().filter(|(_, rivals)| rivals.len() > 1) {
            losers(host, &rivals, &mut found);
        }
        found
    }
}

/// `rivals` are in order of age.
fn losers(host: &HostPattern, rivals: &[&VirtualService], found: &mut Vec<Superseded>) {
    // Clients differ only by the namespaces that some rival names; `None` stands for all other clients.
    let named = rivals.iter().flat_map(|rival| rival.export.named()).map(|name| Some(name.as_str()));
    let clients: BTreeSet<Option<&str>> = named.chain([None]).collect();
    for loser in rivals {
        let sees = |rival: &VirtualService, client| tier(rival, client).is_some();
        let all: Vec<_> = clients.iter().copied().filter(|client| sees(loser, *client)).collect();
        let mut lost: BTreeMap<&ObjectName, Vec<Option<&str>>> = BTreeMap::new();
        for client in &all {
            let visible = rivals.iter().filter_map(|rival| Some((tier(rival, *client)?, *rival)));
            // The first of the smallest: rivals are in order of age.
            let first = visible.min_by_key(|(tier, _)| *tier);
            if let Some((_, winner)) = first.filter(|(_, winner)| winner.meta.name != loser.meta.name) {
                lost.entry(&winner.meta.name).or_default().push(*client);
            }
        }
        let lost_all = lost.values().map(Vec::len).sum::<usize>() == all.len();
        for (winner, clients) in lost {
            let namespaces = clients.iter().filter_map(|client| client.map(str::to_owned)).collect();
            let everyone = lost_all || clients.contains(&None);
            found.push(Superseded {
                loser: loser.meta.name.clone(),
                winner: winner.clone(),
                host: host.clone(),
                for_namespaces: (!everyone).then_some(namespaces),
            });
        }
    }
}

fn tier(object: &VirtualService, client: Option<&str>) -> Option<Tier> {
    object.export.tier(&object.meta.name.namespace, client)
}
