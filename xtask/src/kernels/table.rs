//! README's table of kernels: what each run has tried replaces what was there, and the rest stays.

use std::{collections::BTreeMap, fs};

use anyhow::{Context as _, Result};

use super::{guest::STEPS, report::Outcome};
use crate::shell::workspace;

const BEGIN: &str = "<!-- kernels: written by `cargo xtask test --kernels --write` -->";
const END: &str = "<!-- /kernels -->";
/// Not tried, or older than what we run on.
const UNKNOWN: &str = "–";

/// Release → row → what it says.
type Cells = BTreeMap<String, BTreeMap<String, String>>;

/// Puts the outcomes into the table.
pub fn write(outcomes: &[Outcome]) -> Result<()> {
    let file = workspace().join("README.md");
    let text = fs::read_to_string(&file)?;
    let (head, rest) = text.split_once(BEGIN).with_context(|| format!("README.md has no line {BEGIN}"))?;
    let (old, tail) = rest.split_once(END).with_context(|| format!("README.md has no line {END}"))?;
    let mut cells = read(old);
    for outcome in outcomes {
        if let Some(untried) = put(&mut cells, outcome) {
            eprintln!("  README.md: {untried}");
        }
    }
    fs::write(&file, format!("{head}{BEGIN}\n{}{END}{tail}", show(&cells)))?;
    Ok(())
}

fn read(text: &str) -> Cells {
    let words = |line: &str| -> Vec<String> {
        line.trim_matches('|').split('|').map(|word| word.trim().to_owned()).collect()
    };
    let mut lines = text.lines().filter(|line| line.starts_with('|'));
    let releases = lines.next().map(words).unwrap_or_default();
    let mut cells: Cells =
        releases.iter().skip(1).map(|release| (release.clone(), BTreeMap::new())).collect();
    for row in lines.skip(1).map(words) {
        for (release, word) in releases.iter().zip(&row).skip(1) {
            if let Some(column) = cells.get_mut(release) {
                column.insert(row[0].clone(), word.clone());
            }
        }
    }
    cells
}

/// Such as `6.1` of `6.1.0-57` and of `6.12.117+deb13` the `6.12`.
fn version(release: &str) -> Vec<u32> {
    release.split(['.', '-', '+']).take(2).filter_map(|word| word.parse().ok()).collect()
}

/// Puts an outcome in place. Returns which rows say nothing of that release now, and what they said of the one before.
fn put(cells: &mut Cells, outcome: &Outcome) -> Option<String> {
    let release = outcome.release.trim_end_matches("-cloud-amd64");
    // What an earlier release did says nothing of this one.
    let is_earlier = |known: &String| known != release && version(known) == version(release);
    let (earlier, others): (Cells, Cells) =
        std::mem::take(cells).into_iter().partition(|(known, _)| is_earlier(known));
    *cells = others;
    for (names, word) in [(&outcome.passed, "yes"), (&outcome.failed, "no")] {
        for name in names.iter().filter(|name| STEPS.iter().any(|step| step.name == **name)) {
            cells.entry(release.to_owned()).or_default().insert(name.clone(), word.to_owned());
        }
    }
    let column = cells.get(release)?;
    let is_known =
        |column: &BTreeMap<String, String>, row: &str| column.get(row).is_some_and(|word| word != UNKNOWN);
    let untried: Vec<String> = STEPS
        .iter()
        .filter(|step| !is_known(column, step.name))
        .map(|step| {
            let before = earlier.iter().find(|(_, column)| is_known(column, step.name));
            let before = before.map(|(known, column)| format!(" (\"{}\" on {known})", column[step.name]));
            format!("{}{}", step.name, before.unwrap_or_default())
        })
        .collect();
    let again = format!("`cargo xtask test --kernels {} --write` tries every row", outcome.kernel);
    (!untried.is_empty()).then(|| format!("not tried on {release}: {}; {again}", untried.join(", ")))
}

fn show(cells: &Cells) -> String {
    let mut columns: Vec<_> = cells.iter().collect();
    columns.sort_by_key(|(release, _)| version(release));
    let mut text = String::from("\n| on Debian's kernel |");
    columns.iter().for_each(|(release, _)| text += &format!(" {release} |"));
    text += &format!("\n|---|{}\n", "---|".repeat(columns.len()));
    for step in STEPS {
        text += &format!("| {} |", step.name);
        for (_, column) in &columns {
            text += &format!(" {} |", column.get(step.name).map_or(UNKNOWN, String::as_str));
        }
        text += "\n";
    }
    text + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(release: &str, passed: &[usize], failed: &[usize]) -> Outcome {
        let names = |rows: &[usize]| rows.iter().map(|row| STEPS[*row].name.to_owned()).collect();
        let mut outcome = Outcome::of("x", release);
        (outcome.passed, outcome.failed) = (names(passed), names(failed));
        outcome
    }

    #[test]
    fn a_run_replaces_what_it_tried_and_leaves_the_rest_of_that_release() {
        let mut cells = Cells::new();
        for (release, passed, failed) in [
            ("6.12.1+deb13-cloud-amd64", &[0, 1][..], &[2][..]),
            ("6.1.0-56-cloud-amd64", &[0, 1], &[]),
            ("6.12.1+deb13-cloud-amd64", &[2], &[1]),
            ("6.1.0-57-cloud-amd64", &[1], &[]),
            ("5.10.0-1-cloud-amd64", &[], &[]),
        ] {
            let told = put(&mut cells, &outcome(release, passed, failed));
            assert_eq!(told.is_some(), !passed.is_empty(), "some rows were not tried");
            assert_eq!(read(&show(&cells)).len(), cells.len(), "what is written is read again");
            cells = read(&show(&cells));
        }
        let text = show(&cells);
        let row = |number: usize| {
            let begin = format!("| {} |", STEPS[number].name);
            text.lines().find_map(|line| line.strip_prefix(&begin)).unwrap().to_owned()
        };
        assert!(text.contains("| on Debian's kernel | 6.1.0-57 | 6.12.1+deb13 |"), "{text}");
        assert_eq!([row(0), row(1), row(2)], [" – | yes |", " yes | no |", " – | yes |"]);
    }

    #[test]
    fn rows_that_a_new_release_was_not_tried_with_are_named_with_what_they_said() {
        let all: Vec<usize> = (0..STEPS.len()).collect();
        let mut cells = Cells::new();
        assert_eq!(put(&mut cells, &outcome("6.1.0-56-cloud-amd64", &all, &[])), None, "all rows were tried");
        let (most, last) = all.split_at(STEPS.len() - 1);
        let told = put(&mut cells, &outcome("6.1.0-57-cloud-amd64", most, &[])).unwrap();
        let row = STEPS[STEPS.len() - 1].name;
        assert!(told.contains(&format!("not tried on 6.1.0-57: {row} (\"yes\" on 6.1.0-56);")), "{told}");
        cells = read(&show(&cells));
        let again = put(&mut cells, &outcome("6.1.0-57-cloud-amd64", &[0], &[]));
        assert!(again.is_some_and(|told| told.contains(row)), "a run without it says so again");
        assert_eq!(put(&mut cells, &outcome("6.1.0-57-cloud-amd64", last, &[])), None, "now all are");
    }
}
