//! `cargo xtask verify`: what the programs cost the verifier, against a table of what they did.

use std::{collections::BTreeMap, fs, process::Command};

use anyhow::{Context as _, Result, bail};

use crate::{
    build, kernels,
    setup::Toolchain,
    shell::{run_quiet, workspace},
};

/// Kernel → program → instructions that the verifier walked through.
pub type Table = BTreeMap<String, BTreeMap<String, u64>>;

const FILE: &str = "xtask/verified.json";
/// More than this share above the table is a failure, per cent.
const MARGIN: u64 = 20;

/// On which kernels.
#[derive(clap::Args)]
pub struct Args {
    /// With --kernels, only these versions, such as 6.1
    versions: Vec<String>,
    /// On Debian's kernels, each in an emulated machine, instead of the running one
    #[arg(long)]
    kernels: bool,
    /// Puts what was counted into the table
    #[arg(long)]
    write: bool,
}

/// Prints counts; fails for those that grew too much.
pub fn run(toolchain: &Toolchain, args: &Args) -> Result<()> {
    let counted = if args.kernels { on_kernels(toolchain, &args.versions)? } else { here(toolchain)? };
    if args.write { write(counted) } else { check(&counted) }
}

fn table() -> Result<Table> {
    match fs::read_to_string(workspace().join(FILE)) {
        Ok(text) => serde_json::from_str(&text).with_context(|| format!("{FILE} is damaged")),
        Err(_) => Ok(Table::new()),
    }
}

/// Puts the counts into the table.
pub fn write(counted: Table) -> Result<()> {
    let mut table = table()?;
    table.extend(counted);
    let text = serde_json::to_string_pretty(&table)? + "\n";
    fs::write(workspace().join(FILE), text).with_context(|| format!("cannot write {FILE}"))
}

/// Prints the counts beside the table's; an error names those that grew too much.
pub fn check(counted: &Table) -> Result<()> {
    let table = table()?;
    let mut problems = Vec::new();
    for (kernel, programs) in counted {
        problems.extend(compare(kernel, programs, &table));
    }
    if !problems.is_empty() {
        bail!("{}\nmake them smaller, or accept it with `cargo xtask verify --write`", problems.join("\n"));
    }
    Ok(())
}

fn here(toolchain: &Toolchain) -> Result<Table> {
    let binary = build::all(toolchain, false)?;
    let text = run_quiet(Command::new(binary).args(["verify", "-o", "json"]))?;
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let version: Vec<&str> = release.split(['.', '-', '+']).take(2).collect();
    Ok(Table::from([(version.join("."), kernels::verified(&text)?)]))
}

fn on_kernels(toolchain: &Toolchain, versions: &[String]) -> Result<Table> {
    let rows = vec![kernels::PROGRAMS.to_owned()];
    let choice = kernels::Choice { versions: versions.to_vec(), rows, write: false };
    let outcomes = kernels::run(toolchain, &choice)?;
    if let Some(failed) = outcomes.iter().find(|outcome| !outcome.ok) {
        bail!("programs do not load on {}", failed.release);
    }
    let rows = outcomes.into_iter().filter(|outcome| !outcome.verified.is_empty());
    Ok(rows.map(|outcome| (outcome.kernel, outcome.verified)).collect())
}

/// Prints a line for each program; returns what to say of those that grew. A kernel that the table lacks is held to the
/// largest counts of all.
fn compare(kernel: &str, programs: &BTreeMap<String, u64>, table: &Table) -> Vec<String> {
    let mut problems = Vec::new();
    for (name, count) in programs {
        let known = match table.get(kernel) {
            Some(row) => row.get(name).copied(),
            None => table.values().filter_map(|row| row.get(name)).max().copied(),
        };
        println!(
            "{kernel:6} {name:14} {count:8}  (table: {})",
            known.map_or("none".to_owned(), |known| known.to_string())
        );
        match known {
            Some(known) if *count * 100 > known * (100 + MARGIN) => problems.push(format!(
                "{name} takes {count} verified instructions on {kernel}, more than {MARGIN} % above {known}"
            )),
            Some(_) => {}
            None => problems.push(format!("{FILE} has no count of {name} for kernel {kernel}")),
        }
    }
    let missing =
        table.get(kernel).into_iter().flat_map(BTreeMap::keys).filter(|name| !programs.contains_key(*name));
    problems.extend(
        missing.map(|name| format!("{name} was not counted on {kernel}, and {FILE} has a count of it")),
    );
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_may_grow_by_a_fifth() {
        let row = |count: u64| BTreeMap::from([("early".to_owned(), count)]);
        let table = Table::from([("6.1".to_owned(), row(100)), ("6.12".to_owned(), row(200))]);
        for (case, kernel, count, problems) in [
            ("at the margin", "6.1", 120, 0),
            ("above it", "6.1", 121, 1),
            ("less", "6.1", 1, 0),
            ("a kernel that is not in the table", "7.9", 240, 0),
            ("such a one, above all", "7.9", 241, 1),
        ] {
            assert_eq!(compare(kernel, &row(count), &table).len(), problems, "{case}");
        }
        assert_eq!(compare("6.1", &row(1), &Table::new()).len(), 1, "an empty table is no pass");
        assert_eq!(
            compare("6.1", &BTreeMap::new(), &table).len(),
            1,
            "nor is a program that was not counted"
        );
    }
}
