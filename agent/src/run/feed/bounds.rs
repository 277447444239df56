//! How much of what a redirector says is kept: its report may be anybody's who took it over.

use std::collections::BTreeMap;

use crate::metrics::{DestinationCounts, RouteCounts, RouteName};

/// Names of counters, and bytes of each, that are taken from a redirector: many more than any has.
const MOST_NAMES: usize = 128;
const LONGEST_NAME: usize = 64;
/// Bytes of the longest label: a host with its port, and a subset, or two names of an object.
const LONGEST_LABEL: usize = 2 * RouteName::LONGEST + 16;
/// Warnings of a redirector, and bytes of each.
const MOST_NOTES: usize = 64;
const LONGEST_NOTE: usize = 4096;

/// Warnings: as many as there may be.
pub fn notes(notes: Vec<String>) -> impl Iterator<Item = String> {
    notes.into_iter().filter(|note| note.len() <= LONGEST_NOTE).take(MOST_NOTES)
}

/// Counts by name: no more names than any version of it has, and none that is longer.
pub fn counters(counts: BTreeMap<String, u64>) -> BTreeMap<String, u64> {
    counts.into_iter().filter(|(name, _)| name.len() <= LONGEST_NAME).take(MOST_NAMES).collect()
}

/// Notes what a redirector says of its rows: no more of them than one has, of such names and classes as it has.
pub fn add_rows(known: &mut BTreeMap<RouteName, RouteCounts>, rows: Vec<(RouteName, RouteCounts)>) {
    let fits = |(name, _): &(RouteName, RouteCounts)| {
        name.labels().iter().all(|(_, label)| label.len() <= LONGEST_LABEL)
    };
    for (name, mut counts) in rows.into_iter().filter(fits) {
        counts.took.cut(&RouteCounts::BOUNDS);
        counts.answers.retain(|class, _| RouteCounts::CLASSES.contains(&class.as_str()));
        if known.len() <= RouteName::MOST || known.contains_key(&name) {
            known.insert(name, counts);
        }
    }
}

/// Notes what a redirector says of destinations, and forgets those that it says are gone; of bounded number too.
pub fn note_destinations(
    known: &mut BTreeMap<String, DestinationCounts>,
    rows: Vec<(String, Option<DestinationCounts>)>,
) {
    for (name, counts) in rows.into_iter().filter(|(name, _)| name.len() <= LONGEST_LABEL) {
        match counts {
            None => drop(known.remove(&name)),
            Some(counts) if known.len() <= DestinationCounts::MOST || known.contains_key(&name) => {
                known.insert(name, counts);
            }
            Some(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn rows_are_bounded_whatever_a_redirector_says() {
        let mut known = BTreeMap::new();
        let row = |rule: usize| {
            (RouteName { rule: rule.to_string(), ..RouteName::default() }, RouteCounts::default())
        };
        add_rows(&mut known, (0..3 * RouteName::MOST).map(row).collect());
        assert_eq!(known.len(), RouteName::MOST + 1, "and what stands for all others");
        let (name, mut counts) = row(0);
        counts.answers.insert("2xx".to_owned(), 7);
        add_rows(&mut known, vec![(name.clone(), counts.clone()), row(9_999)]);
        assert_eq!(
            (&known[&name], known.len()),
            (&counts, RouteName::MOST + 1),
            "those that are known go on"
        );
    }

    #[test]
    fn names_are_those_that_a_redirector_may_have() {
        let taken = |names: usize, length: usize| {
            counters((0..names).map(|n| (format!("{n:0length$}"), 1)).collect()).len()
        };
        for (case, names, length, want) in [
            ("as it has", 40, 30, 40),
            ("too many", 1_000, 30, MOST_NAMES),
            ("as long as may be", 1, LONGEST_NAME, 1),
            ("longer", 1_000, LONGEST_NAME + 1, 0),
        ] {
            assert_eq!(taken(names, length), want, "{case}");
        }
        let mut known = BTreeMap::new();
        let named = |label: usize, classes: &[&str]| {
            let answers = classes.iter().map(|class| ((*class).to_owned(), 1)).collect();
            let name = RouteName { destination: "x".repeat(label), ..RouteName::default() };
            let mut counts = RouteCounts { answers, ..RouteCounts::default() };
            counts.took.observe(&[1.0; 9_999], Duration::ZERO);
            (name, counts)
        };
        let hostile = named(1, &["2xx", "none", "\"} 1", "200"]);
        add_rows(&mut known, vec![hostile, named(LONGEST_LABEL + 1, &["2xx"])]);
        let lengths = [LONGEST_NOTE + 1, 1].repeat(999).into_iter();
        let notes: Vec<_> = notes(lengths.map(|length| "x".repeat(length)).collect()).collect();
        assert_eq!((notes.len(), notes[0].len()), (MOST_NOTES, 1));
        let classes: Vec<&String> = known.values().flat_map(|counts| counts.answers.keys()).collect();
        assert_eq!(classes, ["2xx", "none"]);
        let mut fits = RouteCounts::default();
        fits.took.observe(&RouteCounts::BOUNDS, Duration::ZERO);
        assert!(known.values().all(|counts| counts.took == fits.took), "no more counts than bounds");
        let mut known = BTreeMap::new();
        let open = Some(DestinationCounts::default());
        note_destinations(&mut known, vec![("x".repeat(LONGEST_LABEL + 1), open), ("y".to_owned(), open)]);
        assert_eq!(known.keys().collect::<Vec<_>>(), ["y"]);
    }

    #[test]
    fn destinations_go_when_it_is_said_and_are_bounded() {
        let mut known = BTreeMap::new();
        let open = Some(DestinationCounts { requests: 1, ..DestinationCounts::default() });
        let rows = |numbers: std::ops::Range<usize>, counts: Option<DestinationCounts>| {
            numbers.map(|number| (number.to_string(), counts)).collect()
        };
        note_destinations(&mut known, rows(0..3 * DestinationCounts::MOST, open));
        assert_eq!(known.len(), DestinationCounts::MOST + 1, "and what stands for all others");
        note_destinations(&mut known, rows(1..9_999, None));
        assert_eq!(known.keys().collect::<Vec<_>>(), ["0"]);
    }
}
