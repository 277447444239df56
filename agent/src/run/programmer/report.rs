//! What did not get into the maps, in words; and what is there for people only.

use std::collections::{BTreeMap, BTreeSet};

use super::Programmer;
use crate::{maps::WriteError, reconcile::Outcome};

impl Programmer {
    /// Notes what became of writes that are no Service's. True when they succeeded.
    pub(super) fn is_written(&mut self, what: &str, result: Result<(), WriteError>) -> bool {
        let error = result.err();
        let topic = format!("write/{what}");
        self.shared.problem(&topic, error.as_ref().map(|error| format!("{what}: {}", describe(error))));
        error.iter().for_each(|error| self.note_failure(error));
        error.is_none()
    }

    pub(super) fn note_failure(&mut self, error: &WriteError) {
        self.refused |= matches!(error, WriteError::Refused { .. });
        let map = error.map();
        self.shared.update(|state| *state.write_failures.entry(map.to_owned()).or_default() += 1);
    }

    /// One problem for each cause, however many Services it hits.
    pub(super) fn report(&mut self, outcome: &Outcome) {
        self.name_pods();
        outcome.failed.values().for_each(|error| self.note_failure(error));
        let topic = |error: &WriteError| match error {
            WriteError::Full { .. } => format!("full/{}", describe(error)),
            WriteError::Refused { .. } => format!("write/{}", describe(error)),
        };
        let failures = outcome.failed.iter().map(|(name, error)| (name.clone(), topic(error)));
        self.failed.extend(failures);
        let mut causes: BTreeMap<&String, Vec<String>> = BTreeMap::new();
        for (name, topic) in &self.failed {
            causes.entry(topic).or_default().push(name.to_string());
        }
        self.shared.keep_problems("full/", causes.keys().map(|topic| (*topic).clone()));
        self.shared.keep_problems("write/cannot ", causes.keys().map(|topic| (*topic).clone()));
        for (topic, names) in causes {
            let some = names.iter().take(3).cloned().collect::<Vec<_>>().join(", ");
            let cause = topic.split_once('/').map_or("", |(_, cause)| cause);
            let text =
                format!("{cause}: {} Services are not up to date in the maps, such as {some}", names.len());
            self.shared.problem(topic, Some(text));
        }
    }
}

/// An error and its causes, each once.
pub fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut causes = BTreeSet::from([text.clone()]);
    let mut source = error.source();
    while let Some(cause) = source {
        if causes.insert(cause.to_string()) {
            text = format!("{text}: {cause}");
        }
        source = cause.source();
    }
    text
}
