//! New forms of VirtualServices that name subsets which no DestinationRule has yet. The two are often applied together, in
//! either order: such a form waits a moment before it counts as it is. Pure; the clock is passed in.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::{
    l7::rules::{
        Message, Severity,
        table::{DestinationRule, VirtualService},
    },
    model::ObjectName,
};

/// How long a form waits for its subsets.
const WAIT: Duration = Duration::from_secs(1);

/// A form that does not count yet.
pub(super) struct Form {
    pub object: Arc<VirtualService>,
    pub raw: Arc<Value>,
    /// When a subset of this object was first seen missing, be it of an earlier form.
    since: Option<Instant>,
    /// Until when it waits by itself.
    until: Option<Instant>,
    why: Option<Message>,
}

/// All that wait, by name.
#[derive(Default)]
pub(super) struct Waiting(BTreeMap<ObjectName, Form>);

impl Waiting {
    /// Takes a new form in. It counts once [`Self::settle`] gives it back.
    pub fn add(&mut self, name: ObjectName, object: Arc<VirtualService>, raw: Arc<Value>) {
        // An object that changes all the time waits no longer for it.
        let since = self.0.get(&name).and_then(|form| form.since);
        self.0.insert(name, Form { object, raw, since, until: None, why: None });
    }

    /// Forgets an object's form.
    pub fn remove(&mut self, name: &ObjectName) {
        self.0.remove(name);
    }

    /// Keeps only what `stays` says.
    pub fn retain(&mut self, stays: impl Fn(&ObjectName) -> bool) {
        self.0.retain(|name, _| stays(name));
    }

    /// Gives back what counts from `now` on: whose subsets `rules` have all, and who has waited long enough.
    pub fn settle(&mut self, rules: &[Arc<DestinationRule>], now: Instant) -> Vec<(ObjectName, Form)> {
        let mut waits = BTreeSet::new();
        for (name, form) in &mut self.0 {
            let missing = form.object.destinations().find_map(|(path, to)| {
                let subset = to.subset.as_deref()?;
                let text = format!(
                    "no DestinationRule for {} has subset {subset:?} yet: what held before holds on until there is one, for a second",
                    to.host
                );
                (!rules.iter().any(|rule| rule.has_subset_of(to))).then_some((path, text))
            });
            form.why = missing.map(|(path, text)| Message { severity: Severity::Warning, path, text });
            form.since = form.why.as_ref().map(|_| form.since.unwrap_or(now));
            form.until = form.since.map(|since| since + WAIT).filter(|until| now < *until);
            if form.until.is_some() {
                waits.insert(name.clone());
            }
        }
        // Whoever delegates to one that waits waits with it: rules without their delegates' lead elsewhere.
        let mut with = Vec::new();
        for (name, form) in self.0.iter_mut().filter(|(name, _)| !waits.contains(name)) {
            if let Some(delegate) = form.object.delegates().find(|delegate| waits.contains(delegate)) {
                let text = format!("waits with VirtualService {delegate}: what held before holds on");
                form.why = Some(Message { severity: Severity::Warning, path: "spec.http".to_owned(), text });
                with.push(name.clone());
            }
        }
        waits.extend(with);
        let (waiting, settled) =
            std::mem::take(&mut self.0).into_iter().partition(|(name, _)| waits.contains(name));
        self.0 = waiting;
        let settled: BTreeMap<ObjectName, Form> = settled;
        settled.into_iter().collect()
    }

    /// When to settle again, though nothing changes.
    pub fn until(&self) -> Option<Instant> {
        self.0.values().filter_map(|form| form.until).min()
    }

    /// For what an object's new form waits, if it does.
    pub fn why(&self, name: &ObjectName) -> Option<&Message> {
        self.0.get(name).and_then(|form| form.why.as_ref())
    }
}

#[cfg(test)]
mod tests;
