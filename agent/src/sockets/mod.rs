//! Tells sockets that their backend is gone: they would wait for it for ever, since nothing translates again.
//!
//! Only sockets that our programs translated: TCP by what the socket itself remembers, UDP by its way back.

use std::{
    collections::{BTreeSet, HashMap},
    fs::{self, File},
    os::{
        fd::{AsFd as _, BorrowedFd},
        unix::fs::MetadataExt as _,
    },
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use sluice_common::{
    Addr,
    layout::{RevnatKey, TCP, UDP},
};

mod diag;
mod pods;

pub use diag::Found;
pub use pods::{enter, namespaces_of_pods};

/// A backend that no service names any more.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Gone {
    /// Its address.
    pub addr: Addr,
    /// Its port, network byte order.
    pub port_be: u16,
    /// Its service is still there. If it went too, its TCP connections live on, as they do under kube-proxy.
    pub tcp_too: bool,
}

/// What a sweep needs of the maps.
pub trait Memory {
    /// The map in which sockets remember their translation.
    fn sockets(&self) -> BorrowedFd<'_>;
    /// Whether this exchange was translated.
    fn has_revnat(&self, key: &RevnatKey) -> bool;
}

/// Destroys the sockets that hold a backend of `gone`, in every network namespace in which a process of `cgroup`
/// lives. Returns how many there were. The calling thread is in another network namespace afterwards.
///
/// A namespace or a socket that disappears meanwhile is no failure; one whose sockets cannot be listed is logged, and
/// keeps nobody else's from being told.
pub fn sweep(cgroup: &Path, gone: &[Gone], memory: &impl Memory) -> usize {
    let told = |files: &Vec<PathBuf>| match enter_first(files) {
        Ok(true) => sweep_here(gone, memory),
        Ok(false) => Ok(0),
        Err(error) => Err(error),
    };
    let mut destroyed = 0;
    for files in namespaces(cgroup).values() {
        match told(files) {
            Ok(count) => destroyed += count,
            Err(error) => tracing::warn!(
                "sockets of deleted backends were not told in the network namespace {}: {error:#}",
                files.first().map_or_else(String::new, |file| file.display().to_string())
            ),
        }
    }
    destroyed
}

/// Enters the namespace behind the first of `files` that still leads to one; false if none does: then its sockets are
/// gone too. A process can end between two looks at it, while the namespace lives on with another.
fn enter_first(files: &[PathBuf]) -> Result<bool> {
    let Some(netns) = files.iter().find_map(|file| File::open(file).ok()) else { return Ok(false) };
    move_into_link_name_space(netns.as_fd(), Some(LinkNameSpaceType::Network))
        .context("cannot enter the network namespace")?;
    Ok(true)
}

/// Network namespaces by inode number, each with the files that lead to it.
fn namespaces(cgroup: &Path) -> HashMap<u64, Vec<PathBuf>> {
    let mut found: HashMap<u64, Vec<PathBuf>> = HashMap::new();
    let mut folders = vec![cgroup.to_owned()];
    while let Some(folder) = folders.pop() {
        let processes = fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
        for pid in processes.lines() {
            let file = PathBuf::from(format!("/proc/{pid}/ns/net"));
            if let Ok(meta) = fs::metadata(&file) {
                found.entry(meta.ino()).or_default().push(file);
            }
        }
        let entries = fs::read_dir(&folder).into_iter().flatten().flatten();
        folders.extend(
            entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|e| e.path()),
        );
    }
    found
}

fn sweep_here(gone: &[Gone], memory: &impl Memory) -> Result<usize> {
    let socket = diag::Socket::open().context("cannot open a sock_diag socket")?;
    let with_tcp: BTreeSet<(Addr, u16)> =
        gone.iter().filter(|gone| gone.tcp_too).map(|gone| (gone.addr, gone.port_be)).collect();
    let mut doomed = Vec::new();
    if !with_tcp.is_empty() {
        for found in socket.list(TCP, Some(memory.sockets())).context("cannot list TCP sockets")? {
            let held = found.remembers.filter(|value| value.frontend.protocol == TCP);
            if held.is_some_and(|value| with_tcp.contains(&(value.backend_addr, value.backend_port_be))) {
                doomed.push(found);
            }
        }
    }
    for found in socket.list(UDP, None).context("cannot list UDP sockets")? {
        let asked = |gone: &Gone| {
            let key = RevnatKey { cookie: found.cookie, addr: gone.addr, port_be: gone.port_be, pad: [0; 6] };
            memory.has_revnat(&key)
        };
        if gone.iter().any(asked) {
            doomed.push(found);
        }
    }
    let mut destroyed = 0;
    for found in doomed {
        match socket.destroy(&found) {
            Ok(()) => destroyed += 1,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => tracing::warn!(%error, "a socket whose backend is gone cannot be destroyed"),
        }
    }
    Ok(destroyed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_is_entered_by_whichever_of_its_processes_is_still_there() {
        let gone = PathBuf::from("/proc/4194305/ns/net");
        let here = PathBuf::from(format!("/proc/{}/ns/user", std::process::id()));
        for (case, files, want) in [
            ("all are gone", vec![gone.clone(), gone.clone()], Some(false)),
            ("nobody", vec![], Some(false)),
            // Of another kind, so that the attempt to enter it shows as an error.
            ("the second is there", vec![gone, here], None),
        ] {
            assert_eq!(enter_first(&files).ok(), want, "{case}");
        }
    }
}
