//! A TCP port whose connections go to several destinations by weight. Who decides that it is one is `l7`.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::ObjectName;

/// What the kernel does with connections to a Service port.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Split {
    /// `namespace/name` of the VirtualService.
    pub virtual_service: String,
    /// Place of the rule, as in `tcp[0]`.
    pub place: String,
    /// Destinations; a weight of 0 is none.
    pub shares: Vec<Share>,
}

/// A destination.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Share {
    /// `host:port`, with the subset.
    pub name: String,
    /// In parts of the sum over all destinations.
    pub weight: u32,
    /// Its Service; `None` when there is none, or no such port or subset: its connections are refused.
    pub to: Option<SharePort>,
}

/// Endpoints of a Service port.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SharePort {
    /// Namespace of the Service.
    pub namespace: String,
    /// Its name.
    pub service: String,
    /// Its port.
    pub port: u16,
    /// Labels that an endpoint's pod must have; empty is all endpoints.
    pub labels: BTreeMap<String, String>,
}

impl SharePort {
    /// The Service.
    pub fn name(&self) -> ObjectName {
        ObjectName::new(&*self.namespace, &*self.service)
    }
}

/// All split ports.
#[derive(Debug, Default)]
pub struct Splits(BTreeMap<(ObjectName, u16), Split>);

impl Splits {
    /// What is done with connections to this port, if a rule splits them.
    pub fn get(&self, service: &ObjectName, port: u16) -> Option<&Split> {
        if self.0.is_empty() { None } else { self.0.get(&(service.clone(), port)) }
    }

    /// Replaces all; returns the Services that this changes.
    pub fn replace(&mut self, splits: BTreeMap<(ObjectName, u16), Split>) -> BTreeSet<ObjectName> {
        let before = std::mem::replace(&mut self.0, splits);
        let keys = before.keys().chain(self.0.keys());
        let changed = keys.filter(|key| before.get(*key) != self.0.get(*key));
        changed.map(|(service, _)| service.clone()).collect()
    }

    /// The Services that have a split port.
    pub fn services(&self) -> impl Iterator<Item = &ObjectName> {
        self.0.keys().map(|(service, _)| service)
    }

    /// Those of them that have one of `touched` among their destinations.
    pub fn led_to(&self, touched: &BTreeSet<ObjectName>) -> Vec<ObjectName> {
        let leads = |split: &Split| {
            let mut to = split.shares.iter().filter_map(|share| share.to.as_ref());
            to.any(|to| touched.contains(&to.name()))
        };
        let found = self.0.iter().filter(|(_, split)| leads(split));
        found.map(|((service, _), _)| service.clone()).collect()
    }
}
