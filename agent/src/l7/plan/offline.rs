//! What an agent would say of rules that it had with these Services, for `sluice check`; and Services as rules' hosts.

use std::{collections::BTreeSet, time::Instant};

use super::{Place, Planner, Report, collect_hosts};
use crate::{
    l7::rules::{
        protocol::declared,
        table::{Host, Hosts, Scope, Steering},
    },
    model::{Protocol, RuleKind, ServiceKind, Store},
};

/// What an agent would say.
#[derive(Debug)]
pub struct Offline {
    /// Of every rule object, in order.
    pub reports: Vec<Report>,
    /// Namespaces whose Services rules name and `store` has none of: whether those exist was not looked at.
    pub unlooked: BTreeSet<String>,
}

/// Looks at the rules of `store`, which need not have all Services of a cluster. A namespace that it has some of is taken
/// to be whole. `now` is any time.
pub fn offline(store: &Store, now: Instant) -> Offline {
    let namespaces: BTreeSet<String> =
        store.services().map(|service| service.name.namespace.clone()).collect();
    let mut planner = Planner { scope: Scope::Namespaces(namespaces.clone()), ..Planner::default() };
    let nothing = BTreeSet::new();
    let place = Place { node: &[], owns: &|_, _| true, lingering: &nothing, answers: &|_| false };
    let mut reports = planner.plan(store, &place, now).reports;
    // What is missing here will not come: nothing is worth waiting for.
    if let Some(later) = planner.wake() {
        reports = planner.plan(store, &place, later).reports;
    }
    let mut unlooked = BTreeSet::new();
    for ((kind, name), object) in store.rules().objects() {
        let mut name_host = |host: &str| {
            let host = planner.mesh.resolve(host, &name.namespace);
            unlooked.extend(planner.mesh.namespace_of(&host).map(str::to_owned));
        };
        collect_hosts(object, &mut name_host);
        let hosts = object.pointer("/spec/hosts").and_then(serde_json::Value::as_array);
        let hosts = hosts.filter(|_| *kind == RuleKind::VirtualService).into_iter().flatten();
        hosts.filter_map(serde_json::Value::as_str).for_each(name_host);
    }
    unlooked.retain(|namespace| !namespaces.contains(namespace));
    Offline { reports, unlooked }
}

impl Planner {
    /// Services, as rules for their hosts meet them.
    pub(super) fn hosts(&self, store: &Store) -> Hosts {
        let host = |service: &crate::model::Service| {
            let steering = match service.kind {
                _ if service.external_name.is_some() => Steering::ExternalName,
                ServiceKind::Headless => Steering::Headless,
                ServiceKind::ClusterIp | ServiceKind::NodePort | ServiceKind::LoadBalancer => {
                    Steering::ByAddress
                }
            };
            let ports = service.ports.iter().filter(|port| port.protocol == Protocol::Tcp);
            let ports =
                ports.map(|port| (port.port, declared(port.port, &port.name, port.app_protocol.as_deref())));
            (self.host(&service.name), Host { steering, ports: ports.collect() })
        };
        store.services().map(host).collect()
    }
}
