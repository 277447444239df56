//! The current objects, and which Services a change touches.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    sync::Arc,
    time::SystemTime,
};

use ipnet::IpNet;
use serde_json::Value;

use super::{
    EndpointSlice, L7News, Node, ObjectName, OptOut, OwnPod, Pod, PodPort, Pods, Protocol, RuleKind, Rules,
    Service, ServiceKind, Split, Splits,
};

mod change;
mod index;
mod own_pods;
mod pod_names;

pub use change::Change;

/// Objects by name, with an index from Service to slices and from address to slices.
#[derive(Debug, Default)]
pub struct Store {
    services: BTreeMap<ObjectName, Service>,
    slices: BTreeMap<ObjectName, EndpointSlice>,
    by_service: BTreeMap<ObjectName, Vec<ObjectName>>,
    /// Names of nodes and zones, each once: there are few of them and many endpoints.
    places: BTreeSet<Arc<str>>,
    /// Lists, not sets: nearly every address stands in one slice, and there are a hundred thousand of them.
    by_address: HashMap<IpAddr, Vec<Arc<ObjectName>>>,
    pods: Option<Pods>,
    rules: Rules,
    /// Services and ports whose frontends the redirector serves.
    redirected: BTreeSet<(ObjectName, u16)>,
    /// Services and ports whose connections the kernel splits by a rule.
    splits: Splits,
    l7_news: L7News,
    /// Pods of this node; the uid of those that want to be left alone.
    own_pods: Option<BTreeMap<ObjectName, Option<String>>>,
    node: Node,
    service_cidrs: BTreeMap<ObjectName, Vec<IpNet>>,
    dirty: BTreeSet<ObjectName>,
    /// Addresses of endpoints that became another pod's.
    renamed: BTreeSet<IpAddr>,
    /// Services whose endpoints changed, and since when, as their controller tells.
    triggers: Vec<(ObjectName, SystemTime)>,
    services_listed: bool,
    slices_listed: bool,
    node_looked_up: bool,
    partial: bool,
}

impl Store {
    /// An empty store of the node `name`.
    pub fn new(node: Node) -> Self {
        Self { node, ..Self::default() }
    }

    /// Whether Services **and** EndpointSlices were listed completely and this node is known, which hints are about:
    /// before that nothing may be deleted or changed.
    pub const fn is_listed(&self) -> bool {
        self.services_listed && self.slices_listed && self.node_looked_up
    }

    /// Whether something of the listings could not be read: what an earlier agent knew may not be deleted then.
    pub const fn is_partial(&self) -> bool {
        self.partial
    }

    /// Takes `change` in and remembers which Services it touches.
    pub fn apply(&mut self, change: Change) {
        match change {
            Change::AllServices(services) => self.replace_services(services),
            Change::AllSlices(slices) => self.replace_slices(slices),
            Change::AllPods(pods) => self.replace_pods(pods),
            Change::Pod(name, pod) => self.set_pod(name, pod.map(|pod| *pod)),
            Change::AllRules(kind, objects) => self.rules.replace(kind, objects),
            Change::Rule(kind, name, object) => self.rules.set(kind, name, object),
            Change::NoPods => {
                self.pods = None;
                self.mark_headless();
            }
            Change::AllOwnPods(pods) => {
                self.own_pods = Some(pods.into_iter().map(|pod| (pod.name, pod.left_alone)).collect());
            }
            Change::OwnPod(name, pod) => self.set_own_pod(name, pod),
            Change::Service(name, service) => self.set_service(name, service.map(|service| *service)),
            Change::Slice(name, slice) => self.set_slice(name, slice.map(|slice| *slice)),
            Change::NoNode => self.node_looked_up = true,
            Change::AllServiceCidrs(all) => self.service_cidrs = all.into_iter().collect(),
            Change::ServiceCidr(name, networks) => {
                self.service_cidrs.remove(&name);
                self.service_cidrs.extend(networks.map(|networks| (name, networks)));
            }
            Change::Partial(partial) => {
                // What could not be read may have been rules.
                self.l7_news.objects |= self.partial != partial;
                self.partial = partial;
            }
            Change::Node(node) => {
                self.node_looked_up = true;
                let leaving = self.node.leaving;
                if (Node { leaving, ..node.clone() }) != self.node {
                    self.dirty.extend(self.services.keys().cloned());
                }
                self.node = node;
            }
        }
    }

    /// The Services to compile again, once; those that are gone among them. A split port waits for the listing of pods.
    pub fn take_dirty(&mut self) -> BTreeSet<ObjectName> {
        let mut taken = std::mem::take(&mut self.dirty);
        taken.extend(self.splits.led_to(&taken));
        if !self.knows_rules() {
            self.dirty.extend(self.splits.services().filter_map(|name| taken.take(name)));
        }
        taken
    }

    /// Marks a Service, for another try.
    pub fn mark(&mut self, name: ObjectName) {
        self.dirty.insert(name);
    }

    /// The Service of that name.
    pub fn service(&self, name: &ObjectName) -> Option<&Service> {
        self.services.get(name)
    }

    /// How many Services and EndpointSlices there are.
    pub fn counts(&self) -> (usize, usize) {
        (self.services.len(), self.slices.len())
    }

    /// This node.
    pub const fn node(&self) -> &Node {
        &self.node
    }

    /// The networks that cluster IPs are taken from, as far as the API server tells.
    pub fn service_cidrs(&self) -> BTreeSet<IpNet> {
        self.service_cidrs.values().flatten().copied().collect()
    }

    /// All Services, by name.
    pub fn services(&self) -> impl Iterator<Item = &Service> {
        self.services.values()
    }

    /// All pods, if the source tells.
    pub fn pods(&self) -> impl Iterator<Item = &Pod> {
        self.pods.iter().flat_map(Pods::all)
    }

    /// Whether everything that rules are about was listed: without the pods' labels, subsets would be empty.
    pub fn knows_rules(&self) -> bool {
        self.rules.is_listed() && (self.pods.is_some() || self.rules.objects().is_empty())
    }

    /// The rule objects.
    pub const fn rules(&self) -> &Rules {
        &self.rules
    }

    /// What rules or the redirector look at that changed since the last call.
    pub fn take_l7_news(&mut self) -> L7News {
        let mut news = std::mem::take(&mut self.l7_news);
        news.objects |= self.rules.take_changed();
        news
    }

    /// Whether the redirector serves this port of a Service.
    pub fn is_redirected(&self, service: &ObjectName, port: u16) -> bool {
        !self.redirected.is_empty() && self.redirected.contains(&(service.clone(), port))
    }

    /// The redirector serves these ports from now on; the Services that gain or lose one are compiled again.
    pub fn set_redirected(&mut self, ports: BTreeSet<(ObjectName, u16)>) {
        let changed = self.redirected.symmetric_difference(&ports).map(|(service, _)| service.clone());
        self.dirty.extend(changed);
        self.redirected = ports;
    }

    /// The ports whose connections the kernel splits by a rule.
    pub const fn splits(&self) -> &Splits {
        &self.splits
    }

    /// The kernel splits these ports from now on; the Services that this changes are compiled again.
    pub fn set_splits(&mut self, splits: BTreeMap<(ObjectName, u16), Split>) {
        self.dirty.extend(self.splits.replace(splits));
    }

    /// Whether the translation of headless ports hangs on what pods declare: some headless Service's port differs from
    /// its pods'.
    pub fn needs_pod_ports(&self, name: &ObjectName) -> bool {
        let wanting = self
            .services
            .get(name)
            .filter(|service| service.kind == ServiceKind::Headless && service.translate_headless_port);
        wanting.is_some_and(|service| {
            let slices = self.slices_of(name);
            service.ports.iter().any(|port| {
                let targets = slices.iter().flat_map(|slice| &slice.ports);
                targets
                    .filter(|target| target.name == port.name && target.protocol == port.protocol)
                    .any(|target| target.port.is_some_and(|target| target != port.port))
            })
        })
    }

    /// The slices of a Service, in the order of their names.
    pub fn slices_of(&self, service: &ObjectName) -> Vec<&EndpointSlice> {
        let names = self.by_service.get(service).into_iter().flatten();
        names.filter_map(|name| self.slices.get(name)).collect()
    }

    /// Whether `address` is a pod's of `namespace` that nothing shows to listen on that very port: where a headless Service
    /// of that namespace may have its port translated.
    ///
    /// Whoever writes EndpointSlices may put any address into them, a node's or another namespace's pod's; so a pod itself has
    /// to tell of it. `false` where the source does not tell of pods, for nobody can know then.
    pub fn has_free_port(&self, namespace: &str, address: IpAddr, protocol: Protocol, port: u16) -> bool {
        let Some(pods) = &self.pods else { return false };
        let slices = self.by_address.get(&address).into_iter().flatten();
        let in_slices = slices.filter_map(|name| self.slices.get(&**name)).any(|slice| {
            slice.ports.iter().any(|candidate| candidate.protocol == protocol && candidate.port == Some(port))
        });
        let declared = pods.declare(&PodPort { address, protocol, port });
        pods.is_of(address, namespace) && !declared && !in_slices
    }

    fn replace_services(&mut self, services: Vec<Service>) {
        self.services_listed = true;
        let mut gone: BTreeSet<ObjectName> = self.services.keys().cloned().collect();
        for service in services {
            gone.remove(&service.name);
            self.set_service(service.name.clone(), Some(service));
        }
        for name in gone {
            self.set_service(name, None);
        }
    }

    /// Services whose endpoints changed since the last call, and when what changed them happened.
    pub fn take_triggers(&mut self) -> Vec<(ObjectName, SystemTime)> {
        std::mem::take(&mut self.triggers)
    }

    fn replace_slices(&mut self, slices: Vec<EndpointSlice>) {
        self.slices_listed = true;
        let mut gone: BTreeSet<ObjectName> = self.slices.keys().cloned().collect();
        for slice in slices {
            gone.remove(&slice.name);
            self.set_slice(slice.name.clone(), Some(slice));
        }
        for name in gone {
            self.set_slice(name, None);
        }
    }

    fn replace_pods(&mut self, listed: Vec<Pod>) {
        if self.pods.is_none() {
            self.pods = Some(Pods::default());
            // What nobody could know until now, everybody may ask about.
            self.mark_headless();
        }
        let known = self.pods.iter().flat_map(Pods::all).map(|pod| pod.name.clone());
        let mut gone: BTreeSet<ObjectName> = known.collect();
        for pod in listed {
            gone.remove(&pod.name);
            self.set_pod(pod.name.clone(), Some(pod));
        }
        for name in gone {
            self.set_pod(name, None);
        }
    }

    fn set_pod(&mut self, name: ObjectName, pod: Option<Pod>) {
        // News of one pod without a listing of all says nothing about the others.
        let Some(known) = &mut self.pods else { return };
        if known.get(&name) == pod.as_ref() {
            return;
        }
        self.l7_news.pods = true;
        self.dirty.extend(self.splits.services().cloned());
        for address in known.set(name, pod) {
            self.mark_users_of(address);
        }
    }

    fn set_own_pod(&mut self, name: ObjectName, pod: Option<OwnPod>) {
        if let Some(known) = &mut self.own_pods {
            match pod {
                Some(pod) => drop(known.insert(name, pod.left_alone)),
                None => drop(known.remove(&name)),
            }
        }
    }

    fn mark_headless(&mut self) {
        let headless = self.services.values().filter(|service| service.kind == ServiceKind::Headless);
        self.dirty.extend(headless.map(|service| service.name.clone()));
    }

    fn set_service(&mut self, name: ObjectName, service: Option<Service>) {
        let changed = match service {
            Some(service) if self.services.get(&name) == Some(&service) => false,
            Some(service) => {
                self.services.insert(name.clone(), service);
                true
            }
            None => self.services.remove(&name).is_some(),
        };
        if changed {
            self.l7_news.objects = true;
            self.dirty.insert(name);
        }
    }

    fn set_slice(&mut self, name: ObjectName, slice: Option<EndpointSlice>) {
        if slice.as_ref() == self.slices.get(&name) {
            return;
        }
        let known = self.slices.get(&name).and_then(|old| old.changed);
        if let Some(new) = &slice
            && let Some(changed) = new.changed.filter(|changed| Some(*changed) != known)
        {
            self.triggers.push((new.service.clone(), changed));
        }
        self.note_renamed(&name, slice.as_ref());
        if let Some(old) = self.slices.remove(&name) {
            self.unindex(&name, &old);
        }
        if let Some(mut new) = slice {
            for place in
                new.endpoints.iter_mut().flat_map(|endpoint| [&mut endpoint.node, &mut endpoint.zone])
            {
                *place = place.take().map(|name| self.share(name));
            }
            self.index(&name, &new);
            self.slices.insert(name, new);
        }
    }
}
