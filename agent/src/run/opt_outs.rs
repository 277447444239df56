//! A thread that finds the network namespaces of pods that want to be left alone, and tells the programs. Apart from the
//! programming thread, for it enters those namespaces.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::{Arc, mpsc},
    time::Duration,
};

use anyhow::{Context as _, Result};
use sluice_common::layout::{Name, PodValue};

use crate::{
    health::Shared,
    loader,
    maps::{Pins, bpf::OptOuts},
    model::OptOut,
    sockets::{self, Home},
};

/// A pod that has no process yet will have one soon: its first connections should be its own already.
const LOOK_AGAIN: Duration = Duration::from_millis(200);
/// A pod's network is made anew only when its sandbox died.
const LOOK_AFTER: Duration = Duration::from_secs(5);

struct Finder {
    pins: Pins,
    cgroup: PathBuf,
    shared: Arc<Shared>,
    host: u64,
    warned: BTreeSet<String>,
}

/// Starts the thread; it ends with the sender. What was found before an agent's restart holds until the first news.
pub fn spawn(pins: Pins, cgroup: PathBuf, shared: Arc<Shared>) -> Result<mpsc::Sender<Vec<OptOut>>> {
    let (sender, receiver) = mpsc::channel::<Vec<OptOut>>();
    let mut finder = Finder { pins, cgroup, shared, host: loader::netns_cookie()?, warned: BTreeSet::new() };
    let home = Home::here().context("cannot open the node's network namespace")?;
    std::thread::Builder::new().name("opt-outs".to_owned()).spawn(move || {
        let Ok(mut pods) = receiver.recv() else { return };
        loop {
            let found = finder.look(&pods);
            home.go_back();
            let complete = match found {
                Ok(complete) => complete,
                Err(error) => {
                    tracing::warn!("pods that want to be left alone: {error:#}");
                    false
                }
            };
            let news = match (pods.is_empty(), complete) {
                (true, true) => receiver.recv().map_err(mpsc::RecvTimeoutError::from),
                (_, complete) => receiver.recv_timeout(if complete { LOOK_AFTER } else { LOOK_AGAIN }),
            };
            match news {
                Ok(news) => pods = receiver.try_iter().last().unwrap_or(news),
                Err(mpsc::RecvTimeoutError::Timeout) => {}
                Err(mpsc::RecvTimeoutError::Disconnected) => return,
            }
        }
    })?;
    Ok(sender)
}

impl Finder {
    /// Writes the namespaces of those of `pods` that have one. True when all have.
    fn look(&mut self, pods: &[OptOut]) -> Result<bool> {
        let found = sockets::namespaces_of_pods(&self.cgroup, pods.iter().map(|pod| pod.uid.as_str()));
        let mut wanted = BTreeMap::new();
        let mut warnings = BTreeSet::new();
        for opt_out in pods {
            // A namespace can go between two looks at it: then its sockets are gone too.
            let cookie = found.get(opt_out.uid.as_str()).and_then(|file| {
                sockets::enter(file).ok()?;
                loader::netns_cookie().ok()
            });
            match cookie {
                Some(cookie) if cookie == self.host => drop(warnings.insert(format!(
                    "Pod {}: it lives in the node's own network, which sluice.dev/socket-lb cannot leave out; its \
                     connections are translated",
                    opt_out.pod
                ))),
                Some(cookie) => {
                    let pod = &opt_out.pod;
                    let value = PodValue { namespace: Name::new(&pod.namespace), name: Name::new(&pod.name) };
                    wanted.insert(cookie, value);
                }
                None => {}
            }
        }
        OptOuts::open(&self.pins)?.set(&wanted)?;
        if warnings != self.warned {
            self.shared.clear("opt-out/");
            warnings.iter().for_each(|text| self.shared.warn(&format!("opt-out/{text}"), text.clone()));
            self.warned = warnings;
        }
        Ok(wanted.len() + self.warned.len() == pods.len())
    }
}
