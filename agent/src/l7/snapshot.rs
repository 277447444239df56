//! What the agent tells the redirector: everything that it needs, whole, each time. Keys of the JSON are lower camel case.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    metrics::{DestinationCounts, RouteCounts, RouteName},
    model::{ObjectName, Split},
};

/// The state of the cluster, as far as the redirector is concerned.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Snapshot {
    /// Rises with each change.
    pub version: u64,
    /// DNS domain of the cluster.
    pub domain: String,
    /// This node's zone, if it has one.
    pub zone: Option<String>,
    /// Services whose connections are steered to the redirector, and those that rules lead to.
    pub services: Vec<Service>,
    /// Clients on this node, and pods behind those Services.
    pub pods: Vec<Pod>,
    /// Accepted objects, whole.
    pub virtual_services: Vec<Value>,
    /// Accepted objects, whole.
    pub destination_rules: Vec<Value>,
    /// Ports that the kernel serves by rules: for the command line, and for the agent's successor.
    pub splits: Vec<SplitPort>,
}

/// A port that the kernel serves by a rule of `tcp`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SplitPort {
    /// Namespace of the Service.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its port.
    pub port: u16,
    /// What is done.
    pub split: Split,
}

/// A Service.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Service {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its TCP ports.
    pub ports: Vec<Port>,
    /// Balanced request by request even without rules.
    pub per_request: bool,
    /// `spec.externalName`.
    pub external_name: Option<String>,
}

/// A TCP port of a Service.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Port {
    /// Its name; often empty.
    pub name: String,
    /// Its number.
    pub port: u16,
    /// `appProtocol`.
    pub app_protocol: Option<String>,
    /// What clients dial and the kernel steers here; none when the port is only a destination.
    pub frontends: Vec<SocketAddr>,
    /// The same of addresses that the kernel leads here by the cluster IP: they may be other machines'.
    pub led: Vec<SocketAddr>,
    /// Those that may serve this node's clients now.
    pub endpoints: Vec<Endpoint>,
    /// Session affinity in seconds; 0 is none.
    pub affinity_timeout_s: u32,
}

/// An endpoint of a port.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Endpoint {
    /// Address and port.
    pub address: SocketAddr,
    /// `namespace/name`, if it is known.
    #[serde(default)]
    pub pod: Option<String>,
    /// Its zone, if it is known.
    #[serde(default)]
    pub zone: Option<String>,
}

/// A pod.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Pod {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// It is on this node and has addresses of its own: connections may be made under them.
    pub can_lend: bool,
    /// Those of its addresses from which replies to a pod of this node come by where they can be kept for the redirector.
    pub answers_at: Vec<IpAddr>,
}

impl Snapshot {
    /// Whether any connection is steered to the redirector.
    pub fn needs_redirector(&self) -> bool {
        self.services.iter().flat_map(|service| &service.ports).any(|port| !port.frontends.is_empty())
    }

    /// The ports that the kernel serves by rules.
    pub fn splits(&self) -> BTreeMap<(ObjectName, u16), Split> {
        let key = |of: &SplitPort| (ObjectName::new(&*of.namespace, &*of.name), of.port);
        self.splits.iter().map(|of| (key(of), of.split.clone())).collect()
    }
}

/// What the redirector answers, with each snapshot and every few seconds.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Report {
    /// What the file [`token_file`] has: only root reads that. In the first report of a connection.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub token: String,
    /// When its listeners came into the map, ns of `CLOCK_MONOTONIC`; 0 before that.
    pub epoch: u64,
    /// The version that is in effect.
    pub version: u64,
    /// It has been told to go, and serves until another one does.
    pub going: bool,
    /// The kernel's numbers of the maps that it opened; of releases before there was this, none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub maps: Vec<u32>,
    /// What happened how often since its start.
    pub counters: BTreeMap<String, u64>,
    /// What is worth a warning of the agent's.
    pub notes: Vec<String>,
    /// How many there are of some things at the moment.
    pub open: BTreeMap<String, u64>,
    /// Requests since its start, where there were some since the last report on this connection.
    pub routes: Vec<(RouteName, RouteCounts)>,
    /// What is open to destinations, where that changed since the last report on this connection; nothing of those that
    /// are gone.
    pub destinations: Vec<(String, Option<DestinationCounts>)>,
}

/// Bytes of the largest report: a length beyond it is not the redirector's.
pub const LARGEST_REPORT: u32 = 1 << 20;

/// In place of a snapshot's length: another redirector has taken over. Only one that has shown its token hears this, and
/// only for another one that has.
pub const REPLACED: u32 = 0;

/// In place of a snapshot's length: this is not the token, or not the maps. A redirector of a folder or of maps that are gone
/// starts anew then, with this agent's.
pub const REFUSED: u32 = u32::MAX;

/// The user that the redirector becomes once it has its listeners: `nobody`, on every distribution.
pub const USER: u32 = 65_534;

/// Where the agent gives snapshots out, in the folder `--run-dir`.
pub fn agent_socket(folder: &Path) -> PathBuf {
    folder.join("redirector.sock")
}

/// What a redirector shows to be one, in the same folder: it reads it before it becomes nobody.
pub fn token_file(folder: &Path) -> PathBuf {
    folder.join("redirector.token")
}

/// Where the last snapshot is, in the same folder.
pub fn snapshot_file(folder: &Path) -> PathBuf {
    folder.join("snapshot.json")
}
