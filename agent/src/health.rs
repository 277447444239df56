//! How the agent is doing: written by its parts, read by the admin server.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use serde::{Deserialize, Serialize};

use crate::metrics::{DestinationCounts, Histogram, RouteCounts, RouteName};

/// What follows from a problem, by how its topic begins.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Severity {
    /// It is told, and the node serves on: neither another node nor another start of the agent would mend it.
    Told,
    /// Load balancers should use other nodes, for this one does not forward everything.
    Drains,
    /// The agent should be started again, too.
    Restarts,
}

/// Problems in spite of which the node forwards.
const TOLD: [&str; 15] = [
    "source/",
    "api-server",
    "service/",
    "port/",
    "full/",
    "write/",
    "takeover",
    "unprobed",
    "nodeport",
    "service-cidrs",
    "redirector",
    "steering",
    "arrivals",
    "snapshot",
    "pins",
];
/// Problems that a start of the agent may mend.
const RESTARTS: [&str; 2] = ["probe", "attach"];

impl Severity {
    fn of(topic: &str) -> Self {
        let is_among = |prefixes: &[&str]| prefixes.iter().any(|prefix| topic.starts_with(prefix));
        match (is_among(&TOLD), is_among(&RESTARTS)) {
            (true, _) => Self::Told,
            (_, true) => Self::Restarts,
            (false, false) => Self::Drains,
        }
    }
}

/// A source of objects.
#[derive(Clone, Serialize, Deserialize, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Source {
    /// `manifests`, or a resource such as `services`.
    pub name: String,
    /// Whether it was listed completely.
    pub synced: bool,
}

/// Something worth a look that does not keep the node from working.
#[derive(Clone, Serialize, Deserialize, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Warning {
    /// What to tell.
    pub text: String,
    /// Which part of which object it is about, if it is about one.
    pub about: Option<About>,
}

/// A part of an object, and what is wrong with it.
#[derive(Clone, Serialize, Deserialize, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[serde(rename_all = "camelCase")]
pub struct About {
    /// Kind of the object.
    pub kind: String,
    /// Namespace; empty for objects that have none.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Whether the object is left out, and not only a part of it.
    pub rejected: bool,
    /// Path of the field.
    pub path: String,
    /// What is wrong and what follows.
    pub message: String,
}

/// A program that should run at a device.
#[derive(Clone, Serialize, Deserialize, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct AtDevice {
    /// Its name.
    pub program: String,
    /// Name of the device.
    pub device: String,
    /// Interface index of the device.
    pub ifindex: u32,
}

/// The agent's state, as `/state` shows it.
#[derive(Clone, Serialize, Deserialize, Debug, Default)]
#[serde(rename_all = "camelCase")]
pub struct State {
    /// This node.
    pub node: String,
    /// The agent's version.
    pub version: String,
    /// The agent's process id.
    pub pid: u32,
    /// What the programs are attached to.
    pub cgroup: PathBuf,
    /// Sources.
    pub sources: Vec<Source>,
    /// Whether a first complete state is in the maps and the programs run.
    pub programmed: bool,
    /// When the self-probe last went through, seconds since 1970.
    pub probed_s: Option<u64>,
    /// What keeps the node from working right, by topic.
    pub problems: BTreeMap<String, String>,
    /// What is wrong with objects, by topic.
    pub warnings: BTreeMap<String, Warning>,
    /// The last error, even if it is over.
    pub last_error: Option<String>,
    /// Each rule object (kind, namespace, name) and its state: accepted, rejected or superseded.
    #[serde(default)]
    pub rules: Vec<([String; 3], String)>,
    /// What happened how often in the redirector since its start.
    #[serde(default)]
    pub redirector: BTreeMap<String, u64>,
    /// How many there are of some things in the redirector at the moment.
    #[serde(default)]
    pub redirector_open: BTreeMap<String, u64>,
    /// Processes that asked for its snapshots and are no redirector.
    #[serde(default)]
    pub feed_refused: u64,
    /// Which redirector that is.
    #[serde(skip)]
    pub redirector_epoch: u64,
    /// Requests since its start, by where they went.
    #[serde(skip)]
    pub routes: BTreeMap<RouteName, RouteCounts>,
    /// What it has open to destinations at the moment, and which endpoints it leaves out.
    #[serde(skip)]
    pub destinations: BTreeMap<String, DestinationCounts>,
    /// From changes of endpoints, as their objects tell, to the maps.
    #[serde(skip)]
    pub programming: Histogram,
    /// What compiling and writing took.
    #[serde(skip)]
    pub sync: Histogram,
    /// Map writes since the start.
    pub writes: u64,
    /// Sockets that were told that their backend is gone, or that rules hold for what they dialled, since the start.
    #[serde(default)]
    pub sockets_destroyed: u64,
    /// This node is about to go: load balancers are told not to use it.
    #[serde(default)]
    pub node_leaving: bool,
    /// This node's pods, once they are known: `namespace/name`.
    #[serde(default)]
    pub pods: Option<Vec<String>>,
    /// Since when the programming thread has been at work on what it was told.
    #[serde(skip)]
    pub busy_since: Option<Instant>,
    /// Since when the kernel has refused some write to the maps, each time that it was tried.
    #[serde(skip)]
    pub refused_since: Option<Instant>,
    /// Writes that did not succeed, by map: refused by the kernel, or without room.
    #[serde(default)]
    pub write_failures: BTreeMap<String, u64>,
    /// How long either may be.
    #[serde(skip)]
    pub sync_timeout: Duration,
    /// When it last had done everything.
    #[serde(skip)]
    pub updated: Option<SystemTime>,
    /// Programs that should run at devices.
    #[serde(default)]
    pub at_devices: Vec<AtDevice>,
    /// Connections of the packet path that were forgotten, by why, since the start.
    #[serde(default)]
    pub flows_removed: BTreeMap<String, u64>,
    /// Connections of the packet path that the kernel forgot for new ones, since the start.
    #[serde(default)]
    pub flows_forgotten: u64,
    /// Connections through packets by Service port (namespace, name, port name), if somebody wants to know.
    #[serde(skip)]
    pub service_connections: BTreeMap<[String; 3], u64>,
    /// Bytes that sockets have sent to Service ports and received from them, likewise.
    #[serde(skip)]
    pub service_bytes: BTreeMap<[String; 3], [u64; 2]>,
    /// How many entries maps hold, as far as it was counted.
    #[serde(default)]
    pub map_entries: BTreeMap<String, u64>,
}

impl State {
    /// Programmed, probed, and nothing known to be wrong.
    pub fn is_healthy(&self) -> bool {
        self.programmed && self.probed_s.is_some() && self.problems.is_empty()
    }

    /// Whether this node forwards as it should, as far as it knows: while it starts, what an earlier agent left does. An
    /// API server that is away or a Service that does not fit is for `sluice status` to tell: taking the node out of every
    /// load balancer would not mend it.
    pub fn is_forwarding(&self) -> bool {
        self.stuck().is_none() && self.worst() <= Some(Severity::Told)
    }

    /// Whether there is no reason to start the agent anew.
    pub fn is_alive(&self) -> bool {
        self.stuck().is_none() && self.worst() <= Some(Severity::Drains)
    }

    fn worst(&self) -> Option<Severity> {
        self.problems.keys().map(|topic| Severity::of(topic)).max()
    }

    /// What has kept an update from the maps, and for how long, if that is too long.
    fn stuck(&self) -> Option<String> {
        let too_long = |since: Option<Instant>| {
            since
                .map(|since| since.elapsed())
                .filter(|time| *time > self.sync_timeout)
                .map(|time| time.as_secs())
        };
        let busy = too_long(self.busy_since);
        let busy = busy.map(|seconds| format!("an update has not reached the maps for {seconds} s"));
        let refused = too_long(self.refused_since);
        busy.or_else(|| {
            refused.map(|seconds| format!("the kernel has refused writes to the maps for {seconds} s"))
        })
    }
}

/// The state, shared among the agent's threads.
#[derive(Debug)]
pub struct Shared(Mutex<State>);

impl Shared {
    /// The state of an agent that has done nothing yet.
    pub fn new(node: &str, cgroup: &Path, sync_timeout: Duration) -> Self {
        Self(Mutex::new(State {
            node: node.to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            cgroup: cgroup.to_owned(),
            sync_timeout,
            ..State::default()
        }))
    }

    /// A copy.
    pub fn get(&self) -> State {
        let mut state = self.lock().clone();
        if let Some(text) = state.stuck() {
            state.problems.insert("sync".to_owned(), text);
        }
        state
    }

    /// Whether this node forwards as it should: see [`State::is_forwarding`].
    pub fn is_forwarding(&self) -> bool {
        self.lock().is_forwarding()
    }

    /// Notes whether the kernel refuses writes at the moment.
    pub fn refused(&self, refuses: bool) {
        let mut state = self.lock();
        let since = state.refused_since.unwrap_or_else(Instant::now);
        state.refused_since = refuses.then_some(since);
    }

    /// What `look` sees of the state, which is not copied for it.
    pub fn see<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        look(&self.lock())
    }

    /// Notes whether a source is complete.
    pub fn source(&self, name: &str, synced: bool) {
        let mut state = self.lock();
        match state.sources.iter_mut().find(|source| source.name == name) {
            Some(source) => source.synced = synced,
            None => state.sources.push(Source { name: name.to_owned(), synced }),
        }
    }

    /// A source that nobody asks any more.
    pub fn forget_source(&self, name: &str) {
        self.lock().sources.retain(|source| source.name != name);
    }

    /// Notes what is wrong about `topic`; `None` takes it back.
    pub fn problem(&self, topic: &str, text: Option<String>) {
        let mut state = self.lock();
        match text {
            None => drop(state.problems.remove(topic)),
            Some(text) => {
                if state.problems.get(topic) != Some(&text) {
                    tracing::error!("{text}");
                }
                state.last_error = Some(text.clone());
                state.problems.insert(topic.to_owned(), text);
            }
        }
    }

    /// Takes back the problems below `prefix` that are not among `topics`.
    pub fn keep_problems(&self, prefix: &str, topics: impl Iterator<Item = String>) {
        let keep: std::collections::BTreeSet<String> = topics.collect();
        self.lock().problems.retain(|topic, _| !topic.starts_with(prefix) || keep.contains(topic));
    }

    /// Notes something worth a look.
    pub fn warn(&self, topic: &str, text: String) {
        self.lock().warnings.insert(topic.to_owned(), Warning { text, about: None });
    }

    /// Notes what is wrong with an object.
    pub fn warn_about(&self, topic: &str, text: String, about: About) {
        self.lock().warnings.insert(topic.to_owned(), Warning { text, about: Some(about) });
    }

    /// Takes back warnings whose topic begins with `prefix`.
    pub fn clear(&self, prefix: &str) {
        self.lock().warnings.retain(|topic, _| !topic.starts_with(prefix));
    }

    /// Edits the rest.
    pub fn update(&self, edit: impl FnOnce(&mut State)) {
        edit(&mut self.lock());
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every edit leaves a valid state, so that one thread's panic spoils nothing.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_neither_a_restart_nor_another_node_would_mend_is_told_and_no_more() {
        for (topic, forwards, lives) in [
            ("source/services", true, true),
            ("full/SLOTS is full", true, true),
            ("write/cannot write to NODES", true, true),
            ("takeover", true, true),
            ("unprobed", true, true),
            ("snapshot", true, true),
            ("arrivals", true, true),
            ("devices/eth0 (tc/ingress): no", false, true),
            ("what nobody thought of", false, true),
            ("probe", false, false),
            ("attach", false, false),
        ] {
            let shared = Shared::new("node", Path::new("/"), Duration::from_secs(60));
            shared.problem(topic, Some("it is so".to_owned()));
            let state = shared.get();
            assert_eq!((state.is_forwarding(), state.is_alive()), (forwards, lives), "{topic}");
        }
    }

    #[test]
    fn writes_that_are_refused_for_too_long_keep_an_update_from_the_maps() {
        let shared = Shared::new("node", Path::new("/"), Duration::ZERO);
        shared.refused(true);
        let state = shared.get();
        assert!(!state.is_forwarding() && !state.is_alive());
        assert!(state.problems["sync"].starts_with("the kernel has refused writes"), "{:?}", state.problems);
        shared.refused(false);
        assert!(shared.get().is_alive());
        let patient = Shared::new("node", Path::new("/"), Duration::from_secs(60));
        patient.refused(true);
        assert!(patient.get().is_forwarding(), "a moment is nothing");
    }
}
