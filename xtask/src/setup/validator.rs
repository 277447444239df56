//! What checks manifests against the schemas of Kubernetes: a package for Python, with what it needs, below the toolchain.
//! Whoever does not test needs none of it.

use std::{fs, path::PathBuf, process::Command};

use anyhow::{Context as _, Result};

use crate::shell::{on_path, run_quiet, step};

/// The package and all under it, to the version.
const PACKAGES: [&str; 9] = [
    "kubernetes-validate==1.37.0",
    "PyYAML==6.0.3",
    "attrs==26.1.0",
    "importlib_resources==7.1.0",
    "jsonschema==4.26.0",
    "jsonschema-specifications==2025.9.1",
    "packaging==26.3",
    "referencing==0.37.0",
    "rpds-py==2026.9.1",
];
/// For Python before 3.13.
const TYPING: &str = "typing_extensions==4.16.0";

/// The folder that Python finds it in; installed unless an earlier run did.
///
/// # Errors
/// Says what the machine lacks.
pub fn ensure() -> Result<PathBuf> {
    let folder = super::folder().join("validator");
    let (ready, wanted) = (folder.join("ready"), PACKAGES.join("\n"));
    if fs::read_to_string(&ready).is_ok_and(|found| found == wanted) {
        return Ok(folder);
    }
    let lacking =
        "manifests are checked by a program in Python; install the packages python3 and python3-pip";
    let python = on_path("python3").context(lacking)?;
    let pip = || Command::new(&python).args(["-m", "pip", "--version"]).output();
    pip().ok().filter(|output| output.status.success()).context(lacking)?;
    step("schemas of Kubernetes (packages of Python)", || {
        let _not_there = fs::remove_dir_all(&folder);
        let words = ["-m", "pip", "install", "--quiet", "--no-deps", "--only-binary=:all:", "--target"];
        run_quiet(Command::new(&python).args(words).arg(&folder).args(PACKAGES).arg(TYPING))?;
        fs::write(&ready, &wanted).with_context(|| format!("cannot write {}", ready.display()))
    })?;
    Ok(folder)
}
