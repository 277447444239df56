//! What pods tell about themselves: the ports they declare, and whether they want to be left alone.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use super::{ObjectName, PodPort};

/// A pod of this node whose sockets keep the addresses that they dial: annotation `sluice.dev/socket-lb: "false"`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct OptOut {
    /// The pod.
    pub pod: ObjectName,
    /// `metadata.uid`: the kubelet names the pod's cgroup after it.
    pub uid: String,
}

/// The ports that pods declare. Two pods may have one address: both in the node's own network, or one after the other.
#[derive(Debug, Default)]
pub struct PodPorts {
    by_pod: BTreeMap<ObjectName, Vec<PodPort>>,
    counts: BTreeMap<PodPort, u32>,
}

impl PodPorts {
    /// Whether some pod declares this port.
    pub fn contains(&self, port: &PodPort) -> bool {
        self.counts.contains_key(port)
    }

    /// Sets what a pod declares; nothing when it is gone. Returns the addresses about which the answer changes.
    pub fn set(&mut self, pod: ObjectName, ports: Vec<PodPort>) -> BTreeSet<IpAddr> {
        let new: BTreeSet<PodPort> = ports.iter().cloned().collect();
        let old = if ports.is_empty() { self.by_pod.remove(&pod) } else { self.by_pod.insert(pod, ports) };
        let old: BTreeSet<PodPort> = old.unwrap_or_default().into_iter().collect();
        for port in new.difference(&old) {
            *self.counts.entry(port.clone()).or_default() += 1;
        }
        for port in old.difference(&new) {
            if let Some(count) = self.counts.get_mut(port) {
                *count -= 1;
                if *count == 0 {
                    self.counts.remove(port);
                }
            }
        }
        old.symmetric_difference(&new).map(|port| port.address).collect()
    }

    /// The pods that are known.
    pub fn pods(&self) -> impl Iterator<Item = &ObjectName> {
        self.by_pod.keys()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Protocol;

    #[test]
    fn a_port_is_known_as_long_as_some_pod_declares_it() {
        let port =
            |number| PodPort { address: IpAddr::from([10, 0, 0, 1]), protocol: Protocol::Tcp, port: number };
        let pod = |name: &str| ObjectName::new("shop", name);
        let mut ports = PodPorts::default();
        for (case, name, declares, changed, known) in [
            ("first pod", "a", vec![port(80), port(80)], true, true),
            ("the same again", "a", vec![port(80)], false, true),
            ("second pod of the same address", "b", vec![port(80)], true, true),
            ("first pod gone", "a", vec![], true, true),
            ("unknown pod gone", "c", vec![], false, true),
            ("second pod has another port now", "b", vec![port(81)], true, false),
            ("second pod gone", "b", vec![], true, false),
        ] {
            let addresses = ports.set(pod(name), declares);
            assert_eq!(!addresses.is_empty(), changed, "{case}");
            assert_eq!(ports.contains(&port(80)), known, "{case}");
        }
        assert!(ports.counts.is_empty() && ports.by_pod.is_empty(), "nothing is left behind");
    }
}
