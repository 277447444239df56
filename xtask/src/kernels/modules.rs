//! Which modules a kernel needs for the tests, in the order in which they load.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

/// What worlds of namespaces and our programs use. A kernel may have some of them built in.
const WANTED: [&str; 18] = [
    "veth",
    "vxlan",
    "bridge",
    "macvlan",
    "bonding",
    "8021q",
    "sch_ingress",
    "cls_bpf",
    "cls_u32",
    "act_mirred",
    "inet_diag",
    "tcp_diag",
    "udp_diag",
    "nf_conntrack",
    "nf_defrag_ipv4",
    "nf_defrag_ipv6",
    "ipip",
    "crc32c_generic",
];

/// File name and contents of each, those that others need before those others.
pub fn collect(folder: &Path) -> Result<Vec<(String, Vec<u8>)>> {
    let mut files = BTreeMap::new();
    find(&folder.join("kernel"), &mut files)?;
    let mut loaded = Vec::new();
    for name in WANTED {
        add(name, &files, &mut loaded)?;
    }
    Ok(loaded)
}

fn add(name: &str, files: &BTreeMap<String, PathBuf>, loaded: &mut Vec<(String, Vec<u8>)>) -> Result<()> {
    // What has no file is in the kernel.
    let Some(file) = files.get(name).filter(|_| !loaded.iter().any(|(other, _)| other == name)) else {
        return Ok(());
    };
    let bytes = read(file)?;
    for other in depends(&bytes) {
        add(&other, files, loaded)?;
    }
    loaded.push((name.to_owned(), bytes));
    Ok(())
}

/// Every module below `folder`, by its name.
fn find(folder: &Path, files: &mut BTreeMap<String, PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?.flatten()
    {
        let path = entry.path();
        if path.is_dir() {
            find(&path, files)?;
        } else if let Some((name, _)) = entry.file_name().to_string_lossy().split_once(".ko") {
            files.insert(name.replace('-', "_"), path);
        }
    }
    Ok(())
}

fn read(file: &Path) -> Result<Vec<u8>> {
    if file.extension().is_some_and(|ending| ending == "xz") {
        let output =
            Command::new("xz").arg("-dc").arg(file).output().context("cannot start xz (package xz-utils)")?;
        if !output.status.success() {
            bail!("xz cannot unpack {}", file.display());
        }
        return Ok(output.stdout);
    }
    fs::read(file).with_context(|| format!("cannot read {}", file.display()))
}

/// The modules that a module says it needs: section `.modinfo`, strings with a zero behind each.
fn depends(module: &[u8]) -> Vec<String> {
    let line = module.split(|byte| *byte == 0).find_map(|text| text.strip_prefix(b"depends="));
    let text = String::from_utf8_lossy(line.unwrap_or_default()).into_owned();
    text.split(',').filter(|name| !name.is_empty()).map(|name| name.replace('-', "_")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_names_those_that_it_needs() {
        let module = b"\x7fELF\0license=GPL\0depends=udp_tunnel,ip6-udp-tunnel\0retpoline=Y\0";
        assert_eq!(depends(module), ["udp_tunnel", "ip6_udp_tunnel"]);
        assert!(depends(b"\0depends=\0").is_empty());
    }
}
