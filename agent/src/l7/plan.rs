//! Which Service ports the redirector serves, what it must know for it, and what became of each rule object.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    time::Instant,
};

use serde_json::Value;

mod decided;
mod forms;
mod offline;
#[cfg(test)]
mod tests;
mod waiting;

use decided::Decided;
use forms::Forms;
pub use offline::{Offline, offline};

use super::{
    rules::{
        Message,
        hosts::Mesh,
        protocol::{Speech, declared},
        table::{KnownService, Routes, Scope},
    },
    snapshot::{Endpoint, Pod, Port, Service, Snapshot, SplitPort},
    split::{Served, served},
};
use crate::{
    compile::{self, Dialled, Reach},
    model::{self, L7News, ObjectName, Protocol, RuleKind, ServicePort, Split, Store},
};

/// Where clients dial.
pub struct Place<'p> {
    /// The addresses on which NodePorts are served, loopback ones too.
    pub node: &'p [IpAddr],
    /// Whether an address that two Services want is this one's.
    pub owns: &'p dyn Fn(&ObjectName, &Dialled) -> bool,
    /// Ports that rules held for until a moment ago, whose connections may still be open.
    pub lingering: &'p BTreeSet<(ObjectName, u16)>,
    /// Whether replies of a pod at this address come by where they can be kept for the redirector.
    pub answers: &'p dyn Fn(IpAddr) -> bool,
}

/// What became of a rule object.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Report {
    /// Its kind.
    pub kind: RuleKind,
    /// Its name.
    pub name: ObjectName,
    /// `accepted`, `rejected` or `superseded`.
    pub state: &'static str,
    /// What is wrong with it.
    pub messages: Vec<Message>,
}

/// What follows from the objects there are.
#[derive(Debug, Default)]
pub struct Plan {
    /// Services and ports whose connections are steered to the redirector.
    pub redirected: BTreeSet<(ObjectName, u16)>,
    /// Services and ports that the kernel serves by rules of `tcp`.
    pub splits: BTreeMap<(ObjectName, u16), Split>,
    /// What it must know; its version is the caller's.
    pub snapshot: Snapshot,
    /// Every rule object, in order.
    pub reports: Vec<Report>,
}

/// Remembers what counts of each object, and what was decided of it last.
#[derive(Default)]
pub struct Planner {
    mesh: Mesh,
    forms: Forms,
    /// Of which Services it is known whether they exist.
    scope: Scope,
    decided: Option<Decided>,
}

impl Planner {
    /// Begins with what counted for an earlier agent, as the last snapshot has it: an object that is broken when the agent
    /// starts has its last good form from there.
    pub fn restore(&mut self, last: Snapshot) {
        self.forms.restore(RuleKind::VirtualService, last.virtual_services, &self.mesh);
        self.forms.restore(RuleKind::DestinationRule, last.destination_rules, &self.mesh);
    }

    /// Plans for what `store` holds at `now`, as far as `place` says where clients dial. What [`Self::forget`] has not been
    /// said of since is not decided again.
    pub fn plan(&mut self, store: &Store, place: &Place<'_>, now: Instant) -> Plan {
        let is_due = self.is_due(now);
        let last = self.decided.take().filter(|decided| decided.is_for(place.lingering) && !is_due);
        let decided = last.unwrap_or_else(|| self.decide(store, place.lingering, now));
        let plan = if decided.has_rules { self.assemble(store, &decided, place) } else { Plan::default() };
        self.decided = Some(decided);
        plan
    }

    /// Rules or Services changed.
    pub fn forget(&mut self) {
        self.decided = None;
    }

    /// When a plan could differ from the last one though nothing changes.
    pub fn wake(&self) -> Option<Instant> {
        self.forms.wake()
    }

    fn is_due(&self, now: Instant) -> bool {
        self.wake().is_some_and(|at| at <= now)
    }

    /// Whether a plan made at `now` could differ from the last one.
    pub fn is_concerned(&self, news: &L7News, now: Instant) -> bool {
        news.objects
            || self.is_due(now)
            || self.decided.as_ref().is_none_or(|decided| decided.is_concerned(news))
    }

    fn assemble(&self, store: &Store, decided: &Decided, place: &Place<'_>) -> Plan {
        let (redirected, splits) = (decided.redirected.clone(), decided.splits.clone());
        let served = redirected.union(place.lingering).cloned().collect();
        let mut snapshot = self.snapshot(store, decided, &served, place);
        snapshot.splits = splits
            .iter()
            .map(|((service, port), split)| SplitPort {
                namespace: service.namespace.clone(),
                name: service.name.clone(),
                port: *port,
                split: split.clone(),
            })
            .collect();
        Plan { snapshot, reports: decided.reports.clone(), redirected, splits }
    }

    fn host(&self, service: &ObjectName) -> String {
        self.mesh.resolve(&service.name, &service.namespace)
    }

    fn known(&self, service: &model::Service) -> (String, KnownService) {
        let ports = service.ports.iter().filter(|port| port.protocol == Protocol::Tcp).map(|port| port.port);
        let known = KnownService { namespace: service.name.namespace.clone(), ports: ports.collect() };
        (self.host(&service.name), known)
    }

    fn snapshot(
        &self,
        store: &Store,
        decided: &Decided,
        redirected: &BTreeSet<(ObjectName, u16)>,
        place: &Place<'_>,
    ) -> Snapshot {
        let wanted = decided.services.iter().filter_map(|(name, alias)| {
            let alias = alias.as_ref().and_then(|name| store.service(name));
            Some(service(store, store.service(name)?, alias, redirected, place))
        });
        let mut services: Vec<Service> = wanted.collect();
        // An endpoint that is one of these addresses would lead back here, for ever.
        let own: BTreeSet<SocketAddr> = services
            .iter()
            .flat_map(|service| &service.ports)
            .flat_map(|port| port.frontends.iter().chain(&port.led).copied())
            .collect();
        let ports = services.iter_mut().flat_map(|service| &mut service.ports);
        ports.for_each(|port| port.endpoints.retain(|endpoint| !own.contains(&endpoint.address)));
        let ports = services.iter().flat_map(|service| &service.ports);
        let endpoints: BTreeSet<IpAddr> =
            ports.flat_map(|port| &port.endpoints).map(|endpoint| endpoint.address.ip()).collect();
        let here = store.node().name.as_str();
        let pods = store.pods().filter(|pod| {
            pod.node.as_deref() == Some(here)
                || pod.addresses.iter().any(|address| endpoints.contains(address))
        });
        let pods = pods.map(|pod| Pod {
            namespace: pod.name.namespace.clone(),
            name: pod.name.name.clone(),
            addresses: pod.addresses.clone(),
            labels: pod.labels.clone(),
            can_lend: pod.node.as_deref() == Some(here) && !pod.host_network,
            answers_at: pod
                .addresses
                .iter()
                .filter(|address| {
                    !pod.host_network && endpoints.contains(address) && (place.answers)(**address)
                })
                .copied()
                .collect(),
        });
        Snapshot {
            version: 0,
            domain: self.mesh.domain.clone(),
            zone: store.node().zone.clone(),
            pods: pods.collect(),
            virtual_services: self.forms.raw(RuleKind::VirtualService).cloned().collect(),
            destination_rules: self.forms.raw(RuleKind::DestinationRule).cloned().collect(),
            services,
            splits: Vec::new(),
        }
    }
}

/// Who serves a port, by the rules that fit what it speaks, or because the Service asks for it by itself.
fn served_by(
    routes: &Routes,
    service: &model::Service,
    port: &ServicePort,
    hosts: &BTreeMap<String, ObjectName>,
) -> Served {
    let speech = declared(port.port, &port.name, port.app_protocol.as_deref());
    let http = speech.is_none_or(|speech| matches!(speech, Speech::Http | Speech::Http2));
    let tls = speech.is_none_or(|speech| speech == Speech::Tls);
    let tcp = speech.is_none_or(|speech| speech == Speech::Tcp);
    let per_request = service.per_request && speech == Some(Speech::Http2);
    if (routes.has_http() && http) || (routes.has_tls() && tls) || per_request {
        return Served::Redirector;
    }
    if routes.has_tcp() && tcp { served(routes, hosts) } else { Served::Plainly }
}

/// `alias` is the Service that its `externalName` is the name of.
fn service(
    store: &Store,
    service: &model::Service,
    alias: Option<&model::Service>,
    redirected: &BTreeSet<(ObjectName, u16)>,
    place: &Place<'_>,
) -> Service {
    let compiled = compile::service(store, &service.name);
    let port = |port: &ServicePort| {
        let steered = redirected.contains(&(service.name.clone(), port.port));
        let (mut frontends, mut led) = (Vec::new(), Vec::new());
        let families =
            compiled.iter().filter(|one| one.id.port_name == port.name && one.protocol == port.protocol);
        for family in families {
            let owned = family.frontends.iter().filter(|(dialled, _)| (place.owns)(&service.name, dialled));
            for (dialled, frontend) in owned.filter(|_| steered) {
                match compile::reach(frontend.kind) {
                    Reach::AsDialled => {}
                    Reach::ByClusterIp => {
                        led.push(SocketAddr::new(dialled.address, dialled.port));
                        continue;
                    }
                    Reach::Never => continue,
                }
                // A NodePort stands under an unspecified address for all of the node's.
                let of_node =
                    place.node.iter().filter(|address| address.is_ipv4() == dialled.address.is_ipv4());
                let own = [dialled.address];
                let addresses: Vec<&IpAddr> =
                    if dialled.address.is_unspecified() { of_node.collect() } else { own.iter().collect() };
                frontends
                    .extend(addresses.into_iter().map(|address| SocketAddr::new(*address, dialled.port)));
            }
        }
        let endpoints = match alias {
            None => compile::usable(store, service, port),
            Some(other) => {
                let same =
                    other.ports.iter().find(|same| same.protocol == port.protocol && same.port == port.port);
                same.map_or_else(Vec::new, |same| compile::usable(store, other, same))
            }
        };
        Port {
            name: port.name.clone(),
            port: port.port,
            app_protocol: port.app_protocol.as_deref().map(str::to_owned),
            frontends,
            led,
            endpoints: endpoints
                .into_iter()
                .map(|(address, zone)| Endpoint {
                    address,
                    pod: None,
                    zone: zone.map(|zone| zone.to_string()),
                })
                .collect(),
            affinity_timeout_s: service.affinity_timeout_s.unwrap_or(0),
        }
    };
    Service {
        namespace: service.name.namespace.clone(),
        name: service.name.name.clone(),
        ports: service.ports.iter().filter(|port| port.protocol == Protocol::Tcp).map(port).collect(),
        per_request: service.per_request,
        external_name: service.external_name.as_deref().map(str::to_owned),
    }
}

/// Every `host` in `value`: those of destinations and mirrors among them.
fn collect_hosts(value: &Value, found: &mut impl FnMut(&str)) {
    match value {
        Value::Object(fields) => {
            for (name, field) in fields {
                match field {
                    Value::String(host) if name == "host" => found(host),
                    other => collect_hosts(other, found),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| collect_hosts(item, found)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}
