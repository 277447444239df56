//! What `Cargo.lock` says: which crates, which of them twice, which from elsewhere. Pure.

use std::collections::BTreeMap;

use semver::Version;
use serde::Deserialize;

/// The only place that crates come from.
const REGISTRY: &str = "registry+https://github.com/rust-lang/crates.io-index";

#[derive(Deserialize, Debug)]
pub struct Lock {
    pub package: Vec<Locked>,
}

#[derive(Deserialize, Debug)]
pub struct Locked {
    pub name: String,
    pub version: Version,
    /// None is of this workspace.
    pub source: Option<String>,
    pub checksum: Option<String>,
}

impl Lock {
    /// Crates that come from somewhere else, or whose contents nothing vouches for.
    pub fn strangers(&self) -> impl Iterator<Item = String> {
        self.package.iter().filter_map(|locked| {
            let (name, version) = (&locked.name, &locked.version);
            match locked.source.as_deref() {
                None => None,
                Some(REGISTRY) if locked.checksum.is_some() => None,
                Some(REGISTRY) => Some(format!("{name} {version} has no checksum in Cargo.lock")),
                Some(other) => Some(format!("{name} {version} is from {other}; only crates.io is allowed")),
            }
        })
    }

    /// Crates of which there are several versions.
    pub fn duplicates(&self) -> BTreeMap<&str, Vec<String>> {
        let mut versions = BTreeMap::<&str, Vec<String>>::new();
        for locked in &self.package {
            versions.entry(&locked.name).or_default().push(locked.version.to_string());
        }
        versions.retain(|_, versions| versions.len() > 1);
        versions
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crate_is_of_the_registry_and_vouched_for() {
        let package = "[[package]]\nname = \"a\"\nversion = \"1.0.0\"\n";
        let registry = format!("source = \"{REGISTRY}\"\n");
        for (case, more, said) in [
            ("of this workspace", String::new(), ""),
            ("of the registry", format!("{registry}checksum = \"ab\"\n"), ""),
            ("without a checksum", registry.clone(), "a 1.0.0 has no checksum"),
            (
                "of a repository",
                "source = \"git+https://example.org/a#ab\"\n".to_owned(),
                "is from git+https",
            ),
        ] {
            let lock: Lock = toml::from_str(&format!("{package}{more}")).expect(case);
            let found = lock.strangers().collect::<String>();
            assert!(found.contains(said) && found.is_empty() == said.is_empty(), "{case}: {found}");
        }
    }

    #[test]
    fn two_versions_of_a_crate_are_told() {
        let of = |name: &str, version: &str| format!("[[package]]\nname = {name:?}\nversion = {version:?}\n");
        let text = [of("a", "1.0.0"), of("b", "1.0.0"), of("a", "2.0.0")].concat();
        let lock: Lock = toml::from_str(&text).expect("a lock");
        let wanted = BTreeMap::from([("a", vec!["1.0.0".to_owned(), "2.0.0".to_owned()])]);
        assert_eq!(lock.duplicates(), wanted);
    }
}
