//! When an API server is given up for the next one: after failed answers in a row, of all that it was asked for or of one kind of
//! object. A server that gives Services and no EndpointSlices is of no more use than one that is away.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

/// Failed answers in a row, without a good one between them, after which the next API server is tried.
const PATIENCE: u32 = 3;

/// Failed answers of one API server since the last good one.
#[derive(Debug, Default)]
pub struct Failures(Mutex<Counts>);

#[derive(Debug, Default)]
struct Counts {
    of_all: u32,
    of_each: BTreeMap<String, u32>,
}

impl Failures {
    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Another server is asked.
    pub fn forget(&self) {
        *self.lock() = Counts::default();
    }

    /// It answered well for a resource, by its name in paths.
    pub fn succeeded(&self, resource: &str) {
        let mut counts = self.lock();
        counts.of_all = 0;
        counts.of_each.remove(resource);
    }

    /// It did not; true when that was too much.
    pub fn is_too_much(&self, resource: &str) -> bool {
        let mut counts = self.lock();
        counts.of_all += 1;
        let of_this = counts.of_each.entry(resource.to_owned()).or_default();
        *of_this += 1;
        *of_this >= PATIENCE || counts.of_all >= PATIENCE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_given_up_for_what_it_fails_at_whatever_else_it_does_well() {
        // A capital letter is a failure.
        for (case, answers, want) in [
            ("away: nothing is answered", "SEN", true),
            ("fails at one kind", "EsEsE", true),
            ("a hiccup of each", "SsEeNn", false),
            ("one kind recovers", "EEeEE", false),
            ("two kinds fail now and then", "EsSeEsSe", false),
            ("two of one in a row", "EsEn", false),
        ] {
            let failures = Failures::default();
            let mut given_up = false;
            for answer in answers.chars() {
                let resource = answer.to_lowercase().to_string();
                if answer.is_uppercase() {
                    given_up |= failures.is_too_much(&resource);
                } else {
                    failures.succeeded(&resource);
                }
            }
            assert_eq!(given_up, want, "{case}");
        }
    }
}
