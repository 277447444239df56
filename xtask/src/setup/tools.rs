//! Programs that tests and the demo run and that we did not write: those on the PATH, the rest unpacked.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::debian::{Apt, library_path};
use crate::shell::{on_path, step};

/// Program and the Debian package that has it.
const NEEDED: [(&str, &str); 20] = [
    ("ip", "iproute2"),
    ("tc", "iproute2"),
    ("ethtool", "ethtool"),
    ("ping", "iputils-ping"),
    ("curl", "curl"),
    ("nginx", "nginx-light"),
    ("openssl", "openssl"),
    ("socat", "socat"),
    ("wrk", "wrk"),
    ("h2load", "nghttp2-client"),
    ("nft", "nftables"),
    ("iptables-legacy-restore", "iptables"),
    ("promtool", "prometheus"),
    ("iptables-legacy-save", "iptables"),
    ("ip6tables-legacy-save", "iptables"),
    ("iptables-nft-save", "iptables"),
    ("ip6tables-nft-save", "iptables"),
    ("crun", "crun"),
    ("kubectl", "kubernetes-client"),
    ("faketime", "faketime"),
];
/// Where iptables looks for its extensions when it was unpacked.
const XTABLES: &str = "usr/lib/x86_64-linux-gnu/xtables";

/// Where each needed program is, and the library path that the unpacked ones want.
#[derive(Serialize, Deserialize, Debug, Default)]
pub struct Tools {
    files: BTreeMap<String, PathBuf>,
    libraries: Option<String>,
    xtables: Option<PathBuf>,
}

impl Tools {
    pub fn are_there(&self) -> bool {
        NEEDED.iter().all(|(name, _)| self.files.get(*name).is_some_and(|file| file.is_file()))
    }

    /// Where a program is, and its library path.
    pub fn find(&self, name: &str) -> Option<(&Path, Option<&str>)> {
        self.files.get(name).map(|file| (file.as_path(), self.libraries.as_deref()))
    }

    /// Passes the programs' places on: `SLUICE_TOOL_<NAME>` and `SLUICE_TOOL_LIBRARIES`.
    pub fn export<'c>(&self, command: &'c mut Command) -> &'c mut Command {
        for (name, file) in &self.files {
            command.env(format!("SLUICE_TOOL_{}", name.to_uppercase()), file);
        }
        if let Some(libraries) = &self.libraries {
            command.env("SLUICE_TOOL_LIBRARIES", libraries);
        }
        if let Some(xtables) = &self.xtables {
            command.env("SLUICE_TOOL_XTABLES", xtables);
        }
        command
    }
}

/// Finds the programs, unpacking the packages of those that the machine lacks.
pub fn ensure(folder: &Path) -> Result<Tools> {
    let root = folder.join("tools");
    let missing: Vec<(&str, &str)> =
        NEEDED.into_iter().filter(|(name, _)| find(name, &root).is_none()).collect();
    if !missing.is_empty() {
        let packages: Vec<String> = missing.iter().map(|(_, package)| (*package).to_owned()).collect();
        let apt = Apt::new(folder)?;
        apt.update()?;
        std::fs::create_dir_all(&root)?;
        step(&format!("programs for tests and demo: {}", packages.join(", ")), || {
            apt.unpack(&packages, &root)
        })?;
    }
    let xtables = Some(root.join(XTABLES)).filter(|folder| folder.is_dir());
    let libraries = root.is_dir().then(|| library_path(&root));
    let mut tools = Tools { files: BTreeMap::new(), libraries, xtables };
    for (name, package) in NEEDED {
        let file =
            find(name, &root).with_context(|| format!("{name} is missing; install the package {package}"))?;
        tools.files.insert(name.to_owned(), file);
    }
    Ok(tools)
}

fn find(name: &str, root: &Path) -> Option<PathBuf> {
    let folders = ["usr/bin", "usr/sbin", "bin", "sbin"];
    on_path(name)
        .or_else(|| folders.iter().map(|folder| root.join(folder).join(name)).find(|file| file.is_file()))
}
