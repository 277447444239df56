//! The form of each rule object that counts: its last good one. One that fails later never takes effect in part, nor is
//! what held before lost, by an agent that starts anew neither.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Instant,
};

use serde_json::Value;

use super::{
    super::rules::{
        Message, Messages, Severity,
        hosts::Mesh,
        table::{
            DestinationRule, Hosts, Kind, KnownServices, RuleSet, Scope, VirtualService,
            read_destination_rule, read_virtual_service,
        },
    },
    Report,
    waiting::Waiting,
};
use crate::model::{ObjectName, RuleKind, Store};

type Key = (RuleKind, ObjectName);

enum Form {
    VirtualService(Arc<VirtualService>),
    DestinationRule(Arc<DestinationRule>),
}

impl Form {
    fn destination_rule(&self) -> Option<Arc<DestinationRule>> {
        match self {
            Self::VirtualService(_) => None,
            Self::DestinationRule(rule) => Some(Arc::clone(rule)),
        }
    }
}

/// What was read of each object, and what counts of it.
#[derive(Default)]
pub(super) struct Forms {
    seen: BTreeMap<Key, Arc<Value>>,
    good: BTreeMap<Key, (Form, Arc<Value>)>,
    messages: BTreeMap<Key, Vec<Message>>,
    waiting: Waiting,
    /// Good forms of an earlier agent whose objects were not met yet: whoever cannot read all does not know that they are
    /// gone.
    unmet: BTreeSet<Key>,
}

impl Forms {
    /// Takes over what counted for an earlier agent, objects whole.
    pub fn restore(&mut self, kind: RuleKind, objects: Vec<Value>, mesh: &Mesh) {
        for object in objects {
            let (name, form, _) = read(kind, &object, mesh);
            if let Some(form) = form {
                self.unmet.insert((kind, name.clone()));
                self.good.insert((kind, name), (form, Arc::new(object)));
            }
        }
    }

    /// Reads the objects that are new or different at `now`, and forgets those that are gone.
    pub fn read(&mut self, store: &Store, mesh: &Mesh, now: Instant) {
        let objects = store.rules().objects();
        let is_partial = store.is_partial();
        self.unmet.retain(|key| is_partial && !objects.contains_key(key));
        self.seen.retain(|key, _| objects.contains_key(key));
        self.good.retain(|key, _| objects.contains_key(key) || self.unmet.contains(key));
        self.messages.retain(|key, _| objects.contains_key(key));
        self.waiting.retain(|name| objects.contains_key(&(RuleKind::VirtualService, name.clone())));
        for (key, object) in objects {
            if self.seen.get(key).is_some_and(|seen| Arc::ptr_eq(seen, object)) {
                continue;
            }
            let (_, form, messages) = read(key.0, object, mesh);
            let counts = self.good.get(key).is_some_and(|(_, raw)| raw == object);
            match form {
                Some(Form::VirtualService(form)) if !counts => {
                    self.waiting.add(key.1.clone(), form, Arc::clone(object));
                }
                Some(form) => {
                    if key.0 == RuleKind::VirtualService {
                        self.waiting.remove(&key.1);
                    }
                    self.good.insert(key.clone(), (form, Arc::clone(object)));
                }
                None => {}
            }
            self.messages.insert(key.clone(), messages);
            self.seen.insert(key.clone(), Arc::clone(object));
        }
        self.settle(now);
    }

    /// Lets count what waits no longer.
    fn settle(&mut self, now: Instant) {
        let rules: Vec<_> = self.good.values().filter_map(|(form, _)| form.destination_rule()).collect();
        for (name, form) in self.waiting.settle(&rules, now) {
            let counts = (Form::VirtualService(form.object), form.raw);
            self.good.insert((RuleKind::VirtualService, name), counts);
        }
    }

    /// When something that waits counts, though nothing changes.
    pub fn wake(&self) -> Option<Instant> {
        self.waiting.until()
    }

    /// Whether there is no object at all.
    pub fn is_empty(&self) -> bool {
        self.seen.is_empty() && self.good.is_empty()
    }

    /// What counts, together.
    pub fn rule_set(&self, mesh: &Mesh) -> RuleSet {
        let (mut virtual_services, mut destination_rules) = (Vec::new(), Vec::new());
        for (form, _) in self.good.values() {
            match form {
                Form::VirtualService(value) => virtual_services.push(Arc::clone(value)),
                Form::DestinationRule(value) => destination_rules.push(Arc::clone(value)),
            }
        }
        RuleSet::new(mesh.clone(), virtual_services, destination_rules)
    }

    /// What counts, as it was written.
    pub fn raw(&self, kind: RuleKind) -> impl Iterator<Item = &Value> {
        self.good.iter().filter(move |((of, _), _)| *of == kind).map(|(_, (_, raw))| &**raw)
    }

    /// What became of each object; `set` is what counts, `hosts` the Services of `scope` as rules meet them.
    pub fn reports(&self, set: &RuleSet, known: &KnownServices, hosts: &Hosts, scope: &Scope) -> Vec<Report> {
        let mut findings = set.report(known, scope);
        for (about, messages) in set.unserved(hosts, scope) {
            findings.entry(about).or_default().extend(messages);
        }
        let report = |((kind, name), own): (&Key, &Vec<Message>)| {
            let of = match kind {
                RuleKind::VirtualService => Kind::VirtualService,
                RuleKind::DestinationRule => Kind::DestinationRule,
            };
            let mut messages = own.clone();
            let mut others = Messages::default();
            findings
                .remove(&(of, name.clone()))
                .into_iter()
                .flatten()
                .for_each(|message| others.add(message));
            if *kind == RuleKind::VirtualService {
                self.waiting.why(name).cloned().into_iter().for_each(|message| others.add(message));
            }
            messages.extend(others.into_vec());
            let rejected = own.iter().any(|message| message.severity == Severity::Error);
            let superseded = *kind == RuleKind::VirtualService && set.superseded_by(name).is_some();
            let state = match (rejected, superseded) {
                (true, _) => "rejected",
                (false, true) => "superseded",
                (false, false) => "accepted",
            };
            Report { kind: *kind, name: name.clone(), state, messages }
        };
        self.messages.iter().map(report).collect()
    }
}

fn read(kind: RuleKind, object: &Value, mesh: &Mesh) -> (ObjectName, Option<Form>, Vec<Message>) {
    match kind {
        RuleKind::VirtualService => {
            let read = read_virtual_service(object, mesh);
            (read.name, read.value.map(Form::VirtualService), read.messages)
        }
        RuleKind::DestinationRule => {
            let read = read_destination_rule(object, mesh);
            (read.name, read.value.map(Form::DestinationRule), read.messages)
        }
    }
}

#[cfg(test)]
mod tests;
