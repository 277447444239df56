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
    outcomes.iter().for_each(|outcome| put(&mut cells, outcome));
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

fn put(cells: &mut Cells, outcome: &Outcome) {
    let release = outcome.release.trim_end_matches("-cloud-amd64");
    // What an earlier release did says nothing of this one.
    cells.retain(|known, _| known == release || version(known) != version(release));
    for (names, word) in [(&outcome.passed, "yes"), (&outcome.failed, "no")] {
        for name in names.iter().filter(|name| STEPS.iter().any(|step| step.name == **name)) {
            cells.entry(release.to_owned()).or_default().insert(name.clone(), word.to_owned());
        }
    }
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
            put(&mut cells, &outcome(release, passed, failed));
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
}
