//! The agent's parts, driven by hand: no polling, so that thousands of states fit in a test.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use ipnet::IpNet;
use serde_json::Value;
use sluice::{
    compile,
    maps::{Sizes, Tables, bpf::BpfMaps},
    model::{Change, Node, ObjectName, Store},
    objects,
    reconcile::{GRACE_NS, Reconciler},
};
use sluice_common::{
    Addr,
    layout::{ADDRESS_NODE, ADDRESS_OWN},
};

use crate::reference::{NODE, Service, ZONE};

/// The maps of the node [`NODE`], and who writes them.
pub struct Programmed {
    store: Store,
    reconciler: Reconciler,
    addresses: BTreeMap<Addr, u32>,
    /// What programs read.
    pub maps: BpfMaps,
    now_ns: u64,
}

impl Programmed {
    /// Nothing yet, on a node that serves NodePorts at `addresses` and has those in `own` besides.
    ///
    /// # Panics
    /// The maps cannot be written.
    pub fn new(maps: BpfMaps, addresses: &[IpAddr], own: &[IpAddr]) -> Self {
        let node = Node {
            name: NODE.to_owned(),
            zone: Some(ZONE.to_owned()),
            addresses: addresses.to_vec(),
            ..Node::default()
        };
        let kinds = [(own, ADDRESS_OWN), (addresses, ADDRESS_NODE)].into_iter();
        let addresses = kinds
            .flat_map(|(all, kind)| all.iter().map(move |address| (Addr::from(*address), kind)))
            .collect();
        let mut reconciler = Reconciler::new(Tables::default(), Sizes::default());
        reconciler.set_node_name(NODE);
        let mut programmed = Self { store: Store::new(node), reconciler, addresses, maps, now_ns: 0 };
        programmed.set_addresses();
        programmed
    }

    fn set_addresses(&mut self) {
        self.reconciler.set_node_addresses(&mut self.maps, &self.addresses).expect("writes work");
    }

    /// A change of a Service of the reference model and its slices.
    pub fn apply(&mut self, service: Option<&Service>, name: &str, slices: Vec<Value>) {
        self.apply_objects(service.map(Service::object), name, slices);
    }

    /// A change of a Service in the namespace `random`, as objects.
    ///
    /// # Panics
    /// They are not to the agent's liking.
    pub fn apply_objects(&mut self, service: Option<Value>, name: &str, slices: Vec<Value>) {
        let value = service.map(|object| {
            let object = serde_json::from_value(object).expect("a Service");
            Box::new(objects::service(&object).value.expect("usable").service)
        });
        self.store.apply(Change::Service(ObjectName::new("random", name), value));
        for slice in slices {
            let converted = objects::slice(&serde_json::from_value(slice).expect("a slice"));
            assert!(converted.problems.is_empty(), "{:?}", converted.problems);
            let slice = converted.value.expect("usable");
            self.store.apply(Change::Slice(slice.name.clone(), Some(Box::new(slice))));
        }
    }

    /// Makes these the ports of Services in the namespace `random` that rules hold for, with the next [`Self::program`].
    pub fn redirect(&mut self, ports: impl Iterator<Item = (String, u16)>) {
        self.store
            .set_redirected(ports.map(|(name, port)| (ObjectName::new("random", name), port)).collect());
    }

    /// Makes these the networks of cluster IPs.
    ///
    /// # Panics
    /// The maps cannot be written.
    pub fn guard(&mut self, networks: &BTreeSet<IpNet>) {
        self.reconciler.set_service_cidrs(&mut self.maps, networks).expect("writes work");
    }

    /// Brings the maps up to date.
    ///
    /// # Panics
    /// They cannot be written.
    pub fn program(&mut self) {
        let dirty = self.store.take_dirty();
        let compiled = dirty.into_iter().map(|name| (name.clone(), compile::service(&self.store, &name)));
        self.now_ns += GRACE_NS / 3;
        let outcome = self.reconciler.reconcile(&mut self.maps, compiled.collect(), self.now_ns);
        assert!(outcome.failed.is_empty(), "{:?}", outcome.failed);
        self.reconciler.collect(&mut self.maps, self.now_ns).expect("writes work");
    }

    /// As a new agent would: everything is read from the maps again.
    ///
    /// # Panics
    /// They cannot be read.
    pub fn restart(&mut self) {
        let dump = self.maps.dump().expect("maps can be read");
        self.reconciler = Reconciler::new(dump, Sizes::default());
        self.reconciler.set_node_name(NODE);
        self.set_addresses();
        self.reconciler.purge(&mut self.maps).expect("writes work");
    }
}
