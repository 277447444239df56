//! Tells sockets that their backend is gone: they would wait for it for ever, since nothing translates again. And those that
//! dialled what rules hold for by now, and would go on without them.
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
    layout::{FrontendKey, RevnatKey, SocketValue, TCP, UDP},
};

mod diag;
mod pods;

pub use diag::Found;
pub use pods::{Home, enter, namespaces_of_pods};

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

/// Whose sockets are told.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Doomed {
    /// Backends.
    pub gone: Vec<Gone>,
    /// What was dialled, every address of a port: TCP only. Sockets that were led from one of these to another, which is the
    /// cluster IP at which the redirector listens, are not meant.
    pub ruled: BTreeSet<FrontendKey>,
}

impl Doomed {
    /// Takes those of `other` in.
    pub fn add(&mut self, other: Self) {
        self.gone.extend(other.gone);
        self.ruled.extend(other.ruled);
    }
}

/// What a sweep needs of the maps.
pub trait Memory {
    /// The map in which sockets remember their translation.
    fn sockets(&self) -> BorrowedFd<'_>;
    /// Whether this exchange was translated.
    fn has_revnat(&self, key: &RevnatKey) -> bool;
}

/// Destroys the sockets that hold a backend of `doomed` or dialled what it names, in every network namespace in which a process of `cgroup`
/// lives. Returns how many there were. The calling thread is in another network namespace afterwards: see [`Home`].
///
/// A namespace or a socket that disappears meanwhile is no failure; one whose sockets cannot be listed is logged, and
/// keeps nobody else's from being told.
pub fn sweep(cgroup: &Path, doomed: &Doomed, memory: &impl Memory) -> usize {
    let told = |files: &Vec<PathBuf>| match enter_first(files) {
        Ok(true) => sweep_here(doomed, memory),
        Ok(false) => Ok(0),
        Err(error) => Err(error),
    };
    let mut destroyed = 0;
    for files in namespaces(cgroup).values() {
        match told(files) {
            Ok(count) => destroyed += count,
            Err(error) => tracing::warn!(
                "sockets were not told in the network namespace {}: {error:#}",
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

/// Whether a TCP socket that remembers `value` is told: by backend, or by what it dialled.
fn is_meant(value: &SocketValue, gone: &BTreeSet<(Addr, u16)>, ruled: &BTreeSet<FrontendKey>) -> bool {
    let dialled = &value.frontend;
    let led_to = FrontendKey { addr: value.backend_addr, port_be: value.backend_port_be, ..*dialled };
    let escapes = ruled.contains(dialled) && !ruled.contains(&led_to);
    dialled.protocol == TCP && (escapes || gone.contains(&(value.backend_addr, value.backend_port_be)))
}

fn sweep_here(doomed: &Doomed, memory: &impl Memory) -> Result<usize> {
    let Doomed { gone, ruled } = doomed;
    let socket = diag::Socket::open().context("cannot open a sock_diag socket")?;
    let with_tcp: BTreeSet<(Addr, u16)> =
        gone.iter().filter(|gone| gone.tcp_too).map(|gone| (gone.addr, gone.port_be)).collect();
    let mut doomed = Vec::new();
    if !with_tcp.is_empty() || !ruled.is_empty() {
        for found in socket.list(TCP, Some(memory.sockets())).context("cannot list TCP sockets")? {
            if found.remembers.is_some_and(|value| is_meant(&value, &with_tcp, ruled)) {
                doomed.push(found);
            }
        }
    }
    let udp = if gone.is_empty() {
        Vec::new()
    } else {
        socket.list(UDP, None).context("cannot list UDP sockets")?
    };
    for found in udp {
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
            Err(error) => {
                tracing::warn!(%error, "a socket whose backend is gone, or that escapes rules, cannot be destroyed")
            }
        }
    }
    Ok(destroyed)
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    #[test]
    fn sockets_are_meant_by_what_they_dialled_or_by_their_backend() {
        let key = |address: &str, port: u16, protocol: u8| FrontendKey {
            addr: address.parse::<IpAddr>().unwrap().into(),
            port_be: port.to_be(),
            protocol,
            scope: 0,
        };
        let ruled: BTreeSet<_> = [key("10.96.0.1", 80, TCP), key("203.0.113.1", 80, TCP)].into();
        let gone: BTreeSet<_> = [(key("10.0.0.9", 0, TCP).addr, 8080_u16.to_be())].into();
        let (cluster_ip, vip) = (("10.96.0.1", 80), ("203.0.113.1", 80));
        for (case, dialled, protocol, backend, want) in [
            ("past the rules", cluster_ip, TCP, ("10.0.0.1", 8080), true),
            ("past them by another address", vip, TCP, ("10.0.0.1", 8080), true),
            ("to the redirector, by the cluster IP", vip, TCP, ("10.96.0.1", 80), false),
            ("another port", ("10.96.0.1", 81), TCP, ("10.0.0.1", 8080), false),
            ("another Service, same backend", ("10.96.0.2", 80), TCP, ("10.0.0.1", 8080), false),
            ("UDP", cluster_ip, UDP, ("10.0.0.1", 8080), false),
            ("gone", ("10.96.0.2", 80), TCP, ("10.0.0.9", 8080), true),
            ("another port of it", ("10.96.0.2", 80), TCP, ("10.0.0.9", 8081), false),
            ("not translated", ("0.0.0.0", 0), 0, ("10.0.0.9", 8080), false),
        ] {
            let backend = key(backend.0, backend.1, TCP);
            let value = SocketValue {
                frontend: key(dialled.0, dialled.1, protocol),
                backend_addr: backend.addr,
                backend_port_be: backend.port_be,
                pad: 0,
            };
            assert_eq!(is_meant(&value, &gone, &ruled), want, "{case}");
        }
    }

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
