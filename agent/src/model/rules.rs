//! Rule objects as their sources have them: what is in them is for `l7` to read.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use serde_json::Value;

use super::ObjectName;

/// The only field of a part of an object that its source could not read: why not.
pub const UNREADABLE: &str = "unreadable";

/// Kinds of rule objects, all of networking.istio.io.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum RuleKind {
    /// `VirtualService`.
    VirtualService,
    /// `DestinationRule`.
    DestinationRule,
}

impl RuleKind {
    /// As Kubernetes spells it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::VirtualService => "VirtualService",
            Self::DestinationRule => "DestinationRule",
        }
    }
}

/// What changed of what rules and the redirector look at.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct L7News {
    /// Rule objects or Services.
    pub objects: bool,
    /// Pods.
    pub pods: bool,
    /// Services whose endpoints changed.
    pub endpoints_of: BTreeSet<ObjectName>,
}

/// All rule objects, whole.
#[derive(Debug, Default)]
pub struct Rules {
    objects: BTreeMap<(RuleKind, ObjectName), Arc<Value>>,
    changed: bool,
    listed: BTreeSet<RuleKind>,
}

impl Rules {
    /// All there are.
    pub const fn objects(&self) -> &BTreeMap<(RuleKind, ObjectName), Arc<Value>> {
        &self.objects
    }

    /// Whether both kinds were listed completely.
    pub fn is_listed(&self) -> bool {
        [RuleKind::VirtualService, RuleKind::DestinationRule].iter().all(|kind| self.listed.contains(kind))
    }

    /// Replaces those of one kind.
    pub fn replace(&mut self, kind: RuleKind, objects: Vec<(ObjectName, Arc<Value>)>) {
        self.changed |= self.listed.insert(kind);
        let new: BTreeMap<ObjectName, Arc<Value>> = objects.into_iter().collect();
        let known = self.objects.keys().filter(|(of, name)| *of == kind && !new.contains_key(name));
        for key in known.cloned().collect::<Vec<_>>() {
            self.set(key.0, key.1, None);
        }
        for (name, object) in new {
            self.set(kind, name, Some(object));
        }
    }

    /// Sets one; `None` when it is gone.
    pub fn set(&mut self, kind: RuleKind, name: ObjectName, object: Option<Arc<Value>>) {
        let key = (kind, name);
        if self.objects.get(&key) == object.as_ref() {
            return;
        }
        self.changed = true;
        match object {
            Some(object) => drop(self.objects.insert(key, object)),
            None => drop(self.objects.remove(&key)),
        }
    }

    /// Whether anything changed since the last call.
    pub fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }
}
