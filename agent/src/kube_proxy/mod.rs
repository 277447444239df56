//! Removes what kube-proxy leaves on a node: its iptables chains, its nftables tables, its IPVS services. By the programs
//! that are there for it, and nothing that is somebody else's.

use std::{
    ffi::OsString,
    fs,
    io::{ErrorKind, Write as _},
    os::unix::fs::MetadataExt as _,
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};

mod iptables;
mod ipvs;
mod nftables;

/// Where those programs are on every distribution, after what the caller's PATH says.
const FOLDERS: &str = "/usr/sbin:/usr/bin:/sbin:/bin";

/// Removes it all from this network namespace; says what was removed, and what could not be looked at, a line each. With
/// `host_root`, by the programs of that root file system: a container has none of its own.
///
/// # Errors
/// kube-proxy still runs, or a program that is there fails.
pub fn cleanup(host_root: Option<&Path>) -> Result<Vec<String>> {
    if let Some(pid) = running() {
        bail!(
            "kube-proxy still runs here with pid {pid} and would write its rules again; delete its DaemonSet first: \
             kubectl -n kube-system delete daemonset kube-proxy"
        );
    }
    if let Some(root) = host_root {
        rustix::process::chroot(root).with_context(|| format!("cannot enter {}", root.display()))?;
        std::env::set_current_dir("/").context("cannot enter the host's root folder")?;
    }
    let mut told = iptables::clean()?;
    told.extend(nftables::clean()?);
    // After the rules that name its sets.
    told.extend(ipvs::clean()?);
    Ok(told)
}

/// The pid of a kube-proxy in this network namespace.
fn running() -> Option<u32> {
    let own = fs::metadata("/proc/self/ns/net").ok()?.ino();
    let pids = fs::read_dir("/proc").ok()?.flatten();
    pids.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok()).find(|pid| {
        let folder = Path::new("/proc").join(pid.to_string());
        let is_it = fs::read_to_string(folder.join("comm")).is_ok_and(|name| name.trim_end() == "kube-proxy");
        is_it && fs::metadata(folder.join("ns/net")).is_ok_and(|meta| meta.ino() == own)
    })
}

/// What `program` prints, given `input`; `None` if it is not there.
fn run(program: &str, words: &[&str], input: &str) -> Result<Option<String>> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let path: OsString = [path, FOLDERS.into()].join(std::ffi::OsStr::new(":"));
    let mut command = Command::new(program);
    command.args(words).env("PATH", path);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("cannot start {program}")),
    };
    let stdin = child.stdin.take();
    // It reads everything before it prints: no two pipes fill up.
    stdin
        .context("no pipe")?
        .write_all(input.as_bytes())
        .with_context(|| format!("cannot write to {program}"))?;
    let output = child.wait_with_output()?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr);
        bail!("{program} {} failed: {}", words.join(" "), text.trim());
    }
    Ok(Some(String::from_utf8_lossy(&output.stdout).into_owned()))
}
