//! `cargo xtask audit`: licences, sources and known weaknesses of the crates under Sluice, without a network. What is
//! allowed is in `deny.toml`, which cargo-deny reads too; what is known, in `xtask/advisories.json`.

use std::{
    fs,
    path::PathBuf,
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result, bail};

use self::{
    advisories::{Age, Record},
    lock::Lock,
    policy::Policy,
};
use crate::shell::{cargo, run_quiet, workspace};

mod advisories;
mod licences;
mod lock;
mod policy;
mod record;

const RECORD: &str = "xtask/advisories.json";

/// What to do.
#[derive(clap::Args)]
pub struct Args {
    /// Renews the recorded advisories from this checkout of RustSec/advisory-db
    #[arg(long, value_name = "DIR")]
    record: Option<PathBuf>,
}

/// Fails on whatever `deny.toml` does not allow, and names it.
pub fn run(args: &Args) -> Result<()> {
    let file = workspace().join(RECORD);
    if let Some(checkout) = &args.record {
        let record = record::read(checkout)?;
        fs::write(&file, record.to_text()?).with_context(|| format!("cannot write {}", file.display()))?;
    }
    let record: Record = serde_json::from_str(&read(RECORD)?).with_context(|| RECORD.to_owned())?;
    let policy: Policy = toml::from_str(&read("deny.toml")?).context("deny.toml")?;
    let lock: Lock = toml::from_str(&read("Cargo.lock")?).context("Cargo.lock")?;
    let mut findings = record.findings(&lock, &policy.advisories);
    findings.extend(lock.strangers());
    for target in &policy.graph.targets {
        findings.extend(policy.licenses.findings(&packages(target, policy.graph.all_features)?)?);
    }
    match record.age(today()?)? {
        Age::Young => {}
        Age::Old(text) => println!("warning: {text}"),
        Age::TooOld(text) => findings.push(text),
    }
    findings.sort();
    findings.dedup();
    println!("{} crates, {} advisories as of {}", lock.package.len(), record.advisories.len(), record.date);
    for (name, versions) in lock.duplicates() {
        println!("note: {name} is there in {} versions: {}", versions.len(), versions.join(", "));
    }
    for finding in &findings {
        println!("error: {finding}");
    }
    match findings.len() {
        0 => Ok(()),
        count => bail!("{count} findings; mend them, or list them in deny.toml with a reason"),
    }
}

/// Days since 1970.
fn today() -> Result<i64> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).context("the clock stands before 1970")?;
    Ok((now.as_secs() / 86_400) as i64)
}

fn read(name: &str) -> Result<String> {
    fs::read_to_string(workspace().join(name)).with_context(|| format!("cannot read {name}"))
}

/// The packages that are built for `target`.
fn packages(target: &str, all_features: bool) -> Result<Vec<licences::Package>> {
    #[derive(serde::Deserialize)]
    struct Metadata {
        packages: Vec<licences::Package>,
    }
    let words = ["metadata", "--format-version", "1", "--locked", "--filter-platform", target];
    let features = all_features.then_some("--all-features");
    let text = run_quiet(cargo().current_dir(workspace()).args(words).args(features))?;
    Ok(serde_json::from_str::<Metadata>(&text).context("what cargo metadata says")?.packages)
}
