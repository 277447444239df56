//! `sluice check`: what the agent would say of these files, without an agent.

use std::path::PathBuf;

use anyhow::{Context as _, Result};

use super::output::{self, Format};
use crate::manifests::{Severity, assemble, folder, read_text, sctp_ports};

/// Prints every finding. False if one of them is an error.
pub fn check(paths: &[PathBuf], format: Format) -> Result<bool> {
    let mut files = Vec::new();
    for path in paths {
        let error = || format!("cannot read {}", path.display());
        if path.is_dir() {
            files.extend(folder(path).with_context(error)?);
        } else {
            files.push(path.clone());
        }
    }
    let mut contents = Vec::new();
    for file in &files {
        let bytes = std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
        contents.push(read_text(file, &bytes));
    }
    let objects: usize = contents.iter().map(|file| file.objects.len()).sum();
    let (changes, mut findings) = assemble(contents.iter(), "");
    findings.extend(sctp_ports(contents.iter(), &changes));
    findings.extend(contents.into_iter().flat_map(|file| file.findings));
    findings.sort();
    let errors = findings.iter().filter(|finding| finding.severity == Severity::Error).count();
    output::print(format, &findings, || {
        let mut text = String::new();
        for finding in &findings {
            let severity = match finding.severity {
                Severity::Error => "error",
                Severity::Warning => "warning",
            };
            text += &format!("{severity}: {finding}\n");
        }
        let warnings = findings.len() - errors;
        text + &format!("{} files, {objects} objects, {errors} errors, {warnings} warnings\n", files.len())
    })?;
    Ok(errors == 0)
}
