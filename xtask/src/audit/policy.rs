//! `deny.toml`, as far as we read it. A word that is not here is an error: cargo-deny would heed it and we would not.

use serde::Deserialize;

#[derive(Deserialize, Debug)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    pub graph: Graph,
    pub licenses: Licenses,
    pub advisories: Advisories,
    #[expect(dead_code, reason = "said for cargo-deny; what it says is what we do")]
    bans: Bans,
    #[expect(dead_code, reason = "as above")]
    sources: Sources,
}

#[derive(Deserialize, Debug)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Graph {
    pub all_features: bool,
    pub targets: Vec<String>,
}

#[derive(Deserialize, Debug)]
#[serde(deny_unknown_fields)]
pub struct Licenses {
    pub allow: Vec<String>,
}

#[derive(Deserialize, Default, Debug)]
#[serde(deny_unknown_fields)]
pub struct Advisories {
    pub ignore: Vec<Ignored>,
}

/// An advisory that does not concern us.
#[derive(Deserialize, Debug)]
#[serde(deny_unknown_fields)]
pub struct Ignored {
    pub id: String,
    /// Shown to nobody, but there has to be one.
    pub reason: String,
}

#[derive(Deserialize, Debug)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Bans {
    #[expect(dead_code, reason = "only this value is known")]
    multiple_versions: Warn,
}

#[derive(Deserialize, Debug)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Sources {
    #[expect(dead_code, reason = "only this value is known")]
    unknown_registry: Deny,
    #[expect(dead_code, reason = "only this value is known")]
    unknown_git: Deny,
}

#[derive(Deserialize, Debug)]
#[serde(rename_all = "lowercase")]
enum Warn {
    Warn,
}

#[derive(Deserialize, Debug)]
#[serde(rename_all = "lowercase")]
enum Deny {
    Deny,
}
