//! Objects from YAML files and folders, watched for changes. Reads; the API server's work is done in `objects`.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use serde_json::Value;

use crate::{
    model::{Change, Node, ObjectName, RuleKind},
    objects::{PodFacts, ServiceWithSelector},
};

mod assemble;
mod document;
mod sctp;

pub use assemble::assemble;
pub use document::read_text;
pub use sctp::sctp_ports;

/// How bad a finding is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Severity {
    /// The object, or a part of it, is not used.
    Error,
    /// Worth a look; everything is used as written.
    Warning,
}

/// Something that a file says and that should be mended.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Finding {
    /// The file.
    pub file: PathBuf,
    /// Line in the file, from 1: of the error, or where the object begins.
    pub line: usize,
    /// `Kind namespace/name`, as far as it is known.
    pub object: String,
    /// Path of the field; empty if it concerns the whole object.
    pub path: String,
    /// How bad it is.
    pub severity: Severity,
    /// What is wrong and what follows.
    pub message: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: ", self.file.display(), self.line)?;
        for part in [&self.object, &self.path] {
            if !part.is_empty() {
                write!(f, "{part}: ")?;
            }
        }
        f.write_str(&self.message)
    }
}

/// An object that manifests can hold, converted.
#[derive(Clone, Debug)]
pub enum Object {
    /// `v1.Service`; `None` for those that need no proxying.
    Service(ObjectName, Option<Box<ServiceWithSelector>>),
    /// `discovery.k8s.io/v1.EndpointSlice`; `None` for those of no Service.
    Slice(ObjectName, Option<crate::model::EndpointSlice>),
    /// `v1.Pod`; `None` for those without an address.
    Pod(ObjectName, Option<PodFacts>),
    /// `networking.istio.io` VirtualService or DestinationRule, whole; without errors of its own.
    Rule(RuleKind, ObjectName, Arc<Value>),
    /// `v1.Node`.
    Node(Node),
}

/// An object and where it stands.
#[derive(Clone, Debug)]
pub struct Placed {
    /// The file.
    pub file: PathBuf,
    /// First line of its document.
    pub line: usize,
    /// The object.
    pub object: Object,
}

/// What one file holds.
#[derive(Clone, Debug, Default)]
pub struct FileContents {
    /// Its objects, in order.
    pub objects: Vec<Placed>,
    /// What is wrong with it.
    pub findings: Vec<Finding>,
}

/// The files to read, and their last good contents.
#[derive(Debug)]
pub struct Manifests {
    paths: Vec<PathBuf>,
    node_name: String,
    seen: BTreeMap<PathBuf, Vec<u8>>,
    good: BTreeMap<PathBuf, FileContents>,
    findings: BTreeMap<PathBuf, Vec<Finding>>,
    /// Files and folders that could not be read at the last look.
    unreadable: Vec<Finding>,
    /// Files with errors that were never seen without.
    incomplete: BTreeSet<PathBuf>,
    started: bool,
}

/// The state of all files after a change.
#[derive(Debug)]
pub struct Reading {
    /// Complete listings for the model.
    pub changes: Vec<Change>,
    /// Everything that is wrong now.
    pub findings: Vec<Finding>,
}

impl Manifests {
    /// Will read files, and the `.yaml`, `.yml` and `.json` files directly in folders.
    ///
    /// # Errors
    /// A path that does not exist: at the start that is a typing error.
    pub fn new(paths: Vec<PathBuf>, node_name: String) -> anyhow::Result<Self> {
        for path in &paths {
            if !path.exists() {
                anyhow::bail!("--manifests {}: there is no such file or folder", path.display());
            }
        }
        Ok(Self {
            paths,
            node_name,
            seen: BTreeMap::new(),
            good: BTreeMap::new(),
            findings: BTreeMap::new(),
            unreadable: Vec::new(),
            incomplete: BTreeSet::new(),
            started: false,
        })
    }

    /// Reads what changed since the last call; `None` if nothing did.
    ///
    /// A file with an error keeps its last good contents; when it has none yet, its good objects are used. A file or
    /// folder that cannot be read keeps what it held. Only a file that is gone from a folder that is there is gone.
    pub fn poll(&mut self) -> Option<Reading> {
        let (files, unreadable) = self.list();
        let mut changed = !self.started || unreadable != self.unreadable;
        self.started = true;
        self.unreadable = unreadable;
        changed |= self.forget_missing(&files);
        for (file, bytes) in files {
            if self.seen.get(&file) == Some(&bytes) {
                continue;
            }
            changed = true;
            self.take(&file, &bytes);
            self.seen.insert(file, bytes);
        }
        if !changed {
            return None;
        }
        let (mut changes, mut findings) = assemble(self.good.values(), &self.node_name);
        let partial = !self.unreadable.is_empty() || !self.incomplete.is_empty();
        changes.insert(0, Change::Partial(partial));
        findings.extend(self.findings.values().flatten().cloned());
        findings.extend(self.unreadable.iter().cloned());
        findings.sort();
        Some(Reading { changes, findings })
    }

    fn forget_missing(&mut self, files: &BTreeMap<PathBuf, Vec<u8>>) -> bool {
        let kept = |file: &PathBuf| self.unreadable.iter().any(|finding| file.starts_with(&finding.file));
        let gone = self.seen.keys().filter(|file| !files.contains_key(*file) && !kept(file));
        let gone: Vec<PathBuf> = gone.cloned().collect();
        for file in &gone {
            self.seen.remove(file);
            self.good.remove(file);
            self.findings.remove(file);
            self.incomplete.remove(file);
        }
        !gone.is_empty()
    }

    fn take(&mut self, file: &Path, bytes: &[u8]) {
        let contents = read_text(file, bytes);
        let is_error = |finding: &&mut Finding| finding.severity == Severity::Error;
        let broken = contents.findings.iter().any(|finding| finding.severity == Severity::Error);
        let mut findings = contents.findings.clone();
        if broken && self.good.contains_key(file) {
            for finding in findings.iter_mut().filter(is_error) {
                finding.message += ". The whole file stays in force as it was before this edit";
            }
        } else {
            // What is not understood and was never seen whole may be something that an earlier agent served.
            if broken {
                self.incomplete.insert(file.to_owned())
            } else {
                self.incomplete.remove(file)
            };
            self.good.insert(file.to_owned(), contents);
        }
        self.findings.insert(file.to_owned(), findings);
    }

    /// Every file's bytes, and a finding for each that cannot be read.
    fn list(&self) -> (BTreeMap<PathBuf, Vec<u8>>, Vec<Finding>) {
        let (mut files, mut findings) = (BTreeMap::new(), Vec::new());
        for path in &self.paths {
            let entries = if path.is_dir() { folder(path) } else { Ok(vec![path.clone()]) };
            let complain = |path: &Path, error: io::Error| Finding {
                file: path.to_owned(),
                line: 1,
                object: String::new(),
                path: String::new(),
                severity: Severity::Error,
                message: format!("cannot be read ({error}); what it held before stays in force"),
            };
            match entries {
                Err(error) => findings.push(complain(path, error)),
                Ok(entries) => {
                    for file in entries {
                        match fs::read(&file) {
                            Ok(bytes) => drop(files.insert(file, bytes)),
                            Err(error) => findings.push(complain(&file, error)),
                        }
                    }
                }
            }
        }
        (files, findings)
    }
}

/// The manifests directly in a folder, in order; hidden files are left out.
pub fn folder(path: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(path)? {
        let file = entry?.path();
        let hidden = file.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
        let known = file
            .extension()
            .is_some_and(|ending| ["yaml", "yml", "json"].iter().any(|known| ending == *known));
        if known && !hidden && file.is_file() {
            files.push(file);
        }
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests;
