//! Advisories from a checkout of RustSec/advisory-db: TOML at the head of Markdown, a file each.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};
use semver::VersionReq;
use serde::Deserialize;

use super::advisories::{Advisory, Record};
use crate::shell::run_quiet;

#[derive(Deserialize)]
struct Document {
    advisory: Head,
    versions: Versions,
}

#[derive(Deserialize)]
struct Head {
    id: String,
    package: String,
    informational: Option<String>,
    withdrawn: Option<toml::Value>,
}

#[derive(Deserialize)]
struct Versions {
    patched: Vec<VersionReq>,
    #[serde(default)]
    unaffected: Vec<VersionReq>,
}

/// Reads all of them that count.
pub fn read(checkout: &Path) -> Result<Record> {
    let git = |format: &str| -> Result<String> {
        let words = ["log", "-1", "--date=short", &format!("--format={format}")];
        Ok(run_quiet(Command::new("git").arg("-C").arg(checkout).args(words))?.trim().to_owned())
    };
    let mut advisories = Vec::new();
    for file in files(&checkout.join("crates"))? {
        let text = fs::read_to_string(&file).with_context(|| file.display().to_string())?;
        advisories.extend(parse(&text).with_context(|| file.display().to_string())?);
    }
    ensure!(!advisories.is_empty(), "{} has no advisories", checkout.display());
    advisories.sort_by(|one, other| one.id.cmp(&other.id));
    Ok(Record { commit: git("%H")?, date: git("%cd")?, advisories })
}

fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))? {
        for file in fs::read_dir(entry?.path())? {
            found.push(file?.path());
        }
    }
    found.retain(|file| file.extension().is_some_and(|ending| ending == "md"));
    Ok(found)
}

/// None if it was withdrawn.
fn parse(text: &str) -> Result<Option<Advisory>> {
    let head = text.strip_prefix("```toml\n").and_then(|text| text.split_once("\n```"));
    let (head, _) = head.context("does not begin with TOML between fences")?;
    let Document { advisory, versions } = toml::from_str(head)?;
    Ok(advisory.withdrawn.is_none().then(|| Advisory {
        id: advisory.id,
        name: advisory.package,
        kind: advisory.informational.unwrap_or_else(|| "vulnerability".to_owned()),
        patched: versions.patched,
        unaffected: versions.unaffected,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_advisory_is_read_unless_it_was_withdrawn() {
        let text = |more: &str| {
            format!(
                "```toml\n[advisory]\nid = \"RUSTSEC-2030-0001\"\npackage = \"a\"\ndate = \"2030-01-02\"\n{more}\n\
                 [versions]\npatched = [\">= 1.2.3, < 2.0.0\"]\n```\n\n# It is bad\n"
            )
        };
        let found = parse(&text("")).expect("an advisory").expect("not withdrawn");
        assert_eq!((found.name.as_str(), found.kind.as_str()), ("a", "vulnerability"));
        assert_eq!(found.patched[0].to_string(), ">=1.2.3, <2.0.0");
        let found = parse(&text("informational = \"unsound\"")).expect("an advisory").expect("not withdrawn");
        assert_eq!(found.kind, "unsound");
        assert_eq!(parse(&text("withdrawn = \"2030-02-03\"")).expect("an advisory"), None);
        assert!(parse("# no head").is_err());
    }
}
