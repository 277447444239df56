//! Whether we may use a crate, by what it says of its licence. Pure.

use anyhow::{Context as _, Result};
use serde::Deserialize;
use spdx::{Expression, Licensee, ParseMode};

use super::policy::Licenses;

/// What cargo says of a package.
#[derive(Deserialize, Debug)]
pub struct Package {
    pub name: String,
    pub version: String,
    pub license: Option<String>,
}

impl Licenses {
    /// A line for each package whose licence nobody allowed.
    ///
    /// # Errors
    /// A licence of `deny.toml` is none.
    pub fn findings(&self, packages: &[Package]) -> Result<Vec<String>> {
        let parse = |text: &String| {
            Licensee::parse(text).with_context(|| format!("deny.toml: {text} is no SPDX licence"))
        };
        let allowed = self.allow.iter().map(parse).collect::<Result<Vec<_>>>()?;
        Ok(packages.iter().filter_map(|package| finding(package, &allowed)).collect())
    }
}

fn finding(package: &Package, allowed: &[Licensee]) -> Option<String> {
    let Package { name, version, license } = package;
    let Some(text) = license else {
        return Some(format!("{name} {version} names no licence"));
    };
    match Expression::parse_mode(text, ParseMode::LAX) {
        Err(error) => Some(format!("{name} {version}: {text:?} is no SPDX expression: {}", error.reason)),
        Ok(expression) => {
            let may = expression.evaluate(|asked| allowed.iter().any(|licensee| licensee.satisfies(asked)));
            (!may).then(|| format!("{name} {version} is under {text}, which deny.toml does not allow"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_way_to_use_a_crate_is_enough_and_all_of_it_must_be_allowed() {
        let licenses = Licenses { allow: ["MIT", "Apache-2.0", "ISC"].map(str::to_owned).to_vec() };
        for (license, said) in [
            (Some("MIT"), ""),
            (Some("MIT/Apache-2.0"), ""),
            (Some("GPL-2.0-only OR MIT"), ""),
            (Some("(MIT OR GPL-2.0-only) AND ISC"), ""),
            (Some("MIT AND GPL-2.0-only"), "MIT AND GPL-2.0-only, which deny.toml does not allow"),
            (Some("Apache-2.0 WITH LLVM-exception"), "does not allow"),
            (Some("AGPL-3.0"), "AGPL-3.0"),
            (Some("free as in beer"), "is no SPDX expression"),
            (None, "odd 1.2.3 names no licence"),
        ] {
            let package =
                Package { name: "odd".into(), version: "1.2.3".into(), license: license.map(str::to_owned) };
            let found = licenses.findings(&[package]).expect("licences").concat();
            assert!(found.contains(said) && found.is_empty() == said.is_empty(), "{license:?}: {found}");
        }
    }

    #[test]
    fn a_licence_that_does_not_exist_cannot_be_allowed() {
        assert!(Licenses { allow: vec!["Apache".to_owned()] }.findings(&[]).is_err());
    }
}
