//! Whose sockets are told of: network namespaces, by cookie, with their addresses. By visiting them, for a socket that dials has
//! no address yet.

use std::{
    collections::{HashMap, HashSet},
    fs,
    net::IpAddr,
    os::unix::fs::MetadataExt as _,
    time::{Duration, Instant},
};

use crate::{devices, inspect::SocketClient, loader, sockets};

/// How soon the namespaces are visited again, for one that is not known.
const AGAIN: Duration = Duration::from_secs(1);

/// What was found out so far.
#[derive(Default)]
pub struct Clients {
    host: Option<u64>,
    pods: HashMap<u64, Vec<IpAddr>>,
    visited: Option<Instant>,
}

impl Clients {
    /// Nobody yet; the node itself by the cookie of its network namespace.
    pub fn new(host: Option<u64>) -> Self {
        Self { host, ..Self::default() }
    }

    /// Who has this network namespace; `None` where no process of this machine lives in it any more.
    pub fn get(&mut self, netns: u64) -> Option<SocketClient> {
        if self.host == Some(netns) {
            return Some(SocketClient::Host);
        }
        if !self.pods.contains_key(&netns) && self.visited.is_none_or(|visited| visited.elapsed() > AGAIN) {
            self.visited = Some(Instant::now());
            // On a thread of its own, for it is elsewhere afterwards.
            self.pods.extend(std::thread::spawn(visit).join().unwrap_or_default());
        }
        self.pods.get(&netns).cloned().map(SocketClient::Pod)
    }
}

/// The addresses of every network namespace in which a process lives. One that cannot be entered is left out.
fn visit() -> HashMap<u64, Vec<IpAddr>> {
    let (mut seen, mut found) = (HashSet::new(), HashMap::new());
    for process in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let file = process.path().join("ns/net");
        let Ok(meta) = fs::metadata(&file) else { continue };
        if !seen.insert(meta.ino()) || sockets::enter(&file).is_err() {
            continue;
        }
        if let (Ok(cookie), Ok(links)) = (loader::netns_cookie(), devices::links()) {
            let links = links.into_iter().filter(|link| !link.is_loopback);
            found.insert(cookie, links.flat_map(|link| link.addresses).filter(is_of_client).collect());
        }
    }
    found
}

/// Whether clients are known by it.
fn is_of_client(address: &IpAddr) -> bool {
    !address.is_loopback() && !matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local())
}
