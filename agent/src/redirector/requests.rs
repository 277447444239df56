//! Requests by rule and destination, for metrics. One for each worker; sums are made when someone asks.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use http::StatusCode;

use crate::{
    l7::rules::table::{Selected, Target},
    metrics::{Histogram, RouteCounts, RouteName, shortened},
    model::ObjectName,
};

use super::destinations::{Name, short};

/// Rows of a worker; what comes later is counted together. Rules come and go, and nobody forgets them here.
const MOST_ROWS: usize = RouteName::MOST;
const CLASSES: [&str; 6] = RouteCounts::CLASSES;

/// Where a request went, without copies of names.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Way {
    rule: Option<(Arc<ObjectName>, Arc<str>)>,
    destination: Option<Name>,
}

impl Way {
    /// The rule that took it.
    pub fn rule(&mut self, selected: &Selected<'_>) {
        let rule = selected.rule();
        self.rule = Some((rule.virtual_service.clone(), short(&rule.name)));
    }

    /// Where it is sent.
    pub fn destination(&mut self, target: &Target) {
        self.destination = Some(Name::of(target));
    }

    fn name(&self) -> RouteName {
        let (virtual_service, rule) =
            self.rule.as_ref().map(|(owner, rule)| (whole_name(owner), rule.to_string())).unwrap_or_default();
        let destination = self.destination.as_ref().map(Name::to_string).unwrap_or_default();
        RouteName { virtual_service, rule, destination }
    }
}

/// `namespace/name`, as metrics and logs tell it.
pub fn whole_name(object: &ObjectName) -> String {
    format!("{}/{}", shortened(&object.namespace), shortened(&object.name))
}

#[derive(Default, Debug)]
struct Row {
    answers: [u64; CLASSES.len()],
    took: Histogram,
}

/// The rows of one worker.
#[derive(Default, Debug)]
pub struct Requests(Mutex<(HashMap<Way, Row>, Row)>);

impl Requests {
    /// Counts a request that has ended.
    pub fn count(&self, way: Way, status: Option<StatusCode>, took: Duration) {
        let mut rows = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (rows, others) = &mut *rows;
        let room = rows.len() < MOST_ROWS;
        let row = if room || rows.contains_key(&way) { rows.entry(way).or_default() } else { others };
        let class =
            status.map_or(CLASSES.len() - 1, |status| usize::from(status.as_u16() / 100).clamp(1, 5) - 1);
        row.answers[class] += 1;
        row.took.observe(&RouteCounts::BOUNDS, took);
    }

    /// Adds all rows to `sums`.
    pub fn add_to(&self, sums: &mut BTreeMap<RouteName, RouteCounts>) {
        let rows = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (rows, others) = &*rows;
        let others = (RouteName::others(), others);
        for (name, row) in rows.iter().map(|(way, row)| (way.name(), row)).chain([others]) {
            let counted = CLASSES.iter().zip(row.answers).filter(|(_, count)| *count > 0);
            let answers: BTreeMap<_, _> =
                counted.map(|(class, count)| ((*class).to_owned(), count)).collect();
            if !answers.is_empty() {
                sums.entry(name).or_default().add(&RouteCounts { answers, took: row.took.clone() });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::l7::rules::table::TargetState;
    use crate::redirector::bounded::Bounded;

    fn way(rule: usize) -> Way {
        let owner = Arc::new(ObjectName::new("shop", "cart"));
        let target = Target {
            host: "cart.shop.svc.cluster.local".into(),
            port: 80,
            subset: Some("v2".into()),
            state: TargetState::Ready,
            policy: None,
        };
        let rule = Some((owner, format!("http[{rule}]").into()));
        Way { rule, destination: Some(Name::of(&target)) }
    }

    #[test]
    fn requests_are_counted_where_they_went() {
        let requests = Requests::default();
        for status in [Some(200), Some(204), Some(503), None] {
            let status = status.map(|status| StatusCode::from_u16(status).unwrap());
            requests.count(way(1), status, Duration::from_millis(3));
        }
        let mut sums = BTreeMap::new();
        requests.add_to(&mut sums);
        let (name, counts) = sums.pop_first().unwrap();
        assert_eq!(
            name.labels().map(|(_, text)| text),
            ["shop/cart", "http[1]", "cart.shop.svc.cluster.local:80 v2"]
        );
        let answers: Vec<_> = counts.answers.iter().map(|(class, count)| (class.as_str(), *count)).collect();
        assert_eq!(answers, [("2xx", 2), ("5xx", 1), ("none", 1)]);
        assert_eq!(counts.took.counts(&RouteCounts::BOUNDS).collect::<Vec<_>>()[2], 4);
        assert!(sums.is_empty());
    }

    #[test]
    fn more_rules_than_there_is_room_for_are_counted_together() {
        let requests = Requests::default();
        (0..MOST_ROWS + 7).for_each(|rule| requests.count(way(rule), Some(StatusCode::OK), Duration::ZERO));
        requests.count(way(0), Some(StatusCode::OK), Duration::ZERO);
        let mut sums = BTreeMap::new();
        requests.add_to(&mut sums);
        assert_eq!(sums.len(), MOST_ROWS + 1);
        assert_eq!(sums[&RouteName::others()].answers["2xx"], 7);
        assert_eq!(sums[&way(0).name()].answers["2xx"], 2);
    }

    #[test]
    fn all_workers_together_have_no_more_rows_than_one_and_keep_those_they_had() {
        let workers = [Requests::default(), Requests::default()];
        let sums = || {
            let mut sums = BTreeMap::new();
            workers.iter().for_each(|requests| requests.add_to(&mut sums));
            sums
        };
        let count = |worker: usize, rules: std::ops::Range<usize>| {
            rules.for_each(|rule| workers[worker].count(way(rule), Some(StatusCode::OK), Duration::ZERO));
        };
        let mut rows = Bounded::new(RouteName::others());
        let mut bound = |sums| rows.bound(sums, RouteCounts::add);
        count(0, 100..MOST_ROWS);
        let first = bound(sums());
        assert_eq!(first.len(), MOST_ROWS - 100);
        count(1, 0..MOST_ROWS);
        count(1, 1_000..1_007);
        count(0, 2_000..2_003);
        let second = bound(sums());
        assert!(first.keys().all(|name| second.contains_key(name)), "one that was told of goes on");
        assert!(second.len() <= MOST_ROWS + 1, "{}", second.len());
        let all: u64 = second.values().map(|counts| counts.answers["2xx"]).sum();
        assert_eq!(all, (MOST_ROWS - 100 + MOST_ROWS + 7 + 3) as u64, "and nothing is left out");
        assert_eq!(bound(sums()), second);
    }

    #[test]
    fn a_name_without_end_is_kept_in_part() {
        let long: Arc<str> = "x".repeat(1 << 20).into();
        assert_eq!(short(&long).len(), RouteName::LONGEST);
        let right: Arc<str> = "http[0]".into();
        assert!(Arc::ptr_eq(&short(&right), &right), "not copied");
    }
}
