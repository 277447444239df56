//! What pods tell about themselves: labels, the ports they declare, and whether they want to be left alone.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use super::{ObjectName, PodPort, Protocol};

/// A pod of this node whose sockets keep the addresses that they dial: annotation `sluice.dev/socket-lb: "false"`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct OptOut {
    /// The pod.
    pub pod: ObjectName,
    /// `metadata.uid`: the kubelet names the pod's cgroup after it.
    pub uid: String,
}

/// A pod of this node, as its metadata tells of it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct OwnPod {
    /// Its name.
    pub name: ObjectName,
    /// `metadata.uid`, if it wants to be left alone.
    pub left_alone: Option<String>,
}

/// A pod that has an address.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pod {
    /// Its name.
    pub name: ObjectName,
    /// `status.podIPs`.
    pub addresses: Vec<IpAddr>,
    /// `spec.nodeName`.
    pub node: Option<Arc<str>>,
    /// `spec.hostNetwork`: its addresses are the node's.
    pub host_network: bool,
    /// `metadata.labels`.
    pub labels: BTreeMap<String, String>,
    /// Transport and number of the ports that its containers declare.
    pub ports: Vec<(Protocol, u16)>,
}

impl Pod {
    /// The declared ports, at each address.
    fn declared(&self) -> BTreeSet<PodPort> {
        let at = |address: &IpAddr| {
            let address = *address;
            self.ports.iter().map(move |(protocol, port)| PodPort {
                address,
                protocol: *protocol,
                port: *port,
            })
        };
        self.addresses.iter().flat_map(at).collect()
    }
}

/// All pods. Two may have one address: both in the node's own network, or one after the other.
#[derive(Debug, Default)]
pub struct Pods {
    by_name: BTreeMap<ObjectName, Pod>,
    declared: BTreeMap<PodPort, u32>,
}

impl Pods {
    /// Whether some pod declares this port.
    pub fn declare(&self, port: &PodPort) -> bool {
        self.declared.contains_key(port)
    }

    /// The pod of that name.
    pub fn get(&self, name: &ObjectName) -> Option<&Pod> {
        self.by_name.get(name)
    }

    /// Sets a pod; `None` when it is gone. Returns the addresses about whose ports the answer changes.
    pub fn set(&mut self, name: ObjectName, pod: Option<Pod>) -> BTreeSet<IpAddr> {
        let new = pod.as_ref().map(Pod::declared).unwrap_or_default();
        let old = match pod {
            Some(pod) => self.by_name.insert(name, pod),
            None => self.by_name.remove(&name),
        };
        let old = old.as_ref().map(Pod::declared).unwrap_or_default();
        for port in new.difference(&old) {
            *self.declared.entry(port.clone()).or_default() += 1;
        }
        for port in old.difference(&new) {
            if let Some(count) = self.declared.get_mut(port) {
                *count -= 1;
                if *count == 0 {
                    self.declared.remove(port);
                }
            }
        }
        old.symmetric_difference(&new).map(|port| port.address).collect()
    }

    /// All of them, by name.
    pub fn all(&self) -> impl Iterator<Item = &Pod> {
        self.by_name.values()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_known_as_long_as_some_pod_declares_it() {
        let address = IpAddr::from([10, 0, 0, 1]);
        let port = PodPort { address, protocol: Protocol::Tcp, port: 80 };
        let mut pods = Pods::default();
        for (case, name, declares, changed, known) in [
            ("first pod", "a", Some(80), true, true),
            ("the same again", "a", Some(80), false, true),
            ("second pod of the same address", "b", Some(80), true, true),
            ("first pod gone", "a", None, true, true),
            ("unknown pod gone", "c", None, false, true),
            ("second pod has another port now", "b", Some(81), true, false),
            ("second pod gone", "b", None, true, false),
        ] {
            let name = ObjectName::new("shop", name);
            let pod = declares.map(|port| Pod {
                name: name.clone(),
                addresses: vec![address],
                node: None,
                host_network: false,
                labels: BTreeMap::new(),
                ports: vec![(Protocol::Tcp, port)],
            });
            assert_eq!(!pods.set(name, pod).is_empty(), changed, "{case}");
            assert_eq!(pods.declare(&port), known, "{case}");
        }
        assert!(pods.declared.is_empty() && pods.by_name.is_empty(), "nothing is left behind");
    }
}
