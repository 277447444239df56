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

    /// Whose each address is.
    fn holds(&self) -> BTreeSet<Holder> {
        let holder = || (!self.host_network).then(|| self.name.namespace.clone());
        self.addresses.iter().map(|address| (*address, holder())).collect()
    }
}

/// An address, and the namespace that has it; none where it is a node's, which pods on the host's network show as theirs.
type Holder = (IpAddr, Option<String>);

/// All pods. Two may have one address: both in the node's own network, or one after the other.
#[derive(Debug, Default)]
pub struct Pods {
    by_name: BTreeMap<ObjectName, Pod>,
    declared: BTreeMap<PodPort, u32>,
    holders: BTreeMap<Holder, u32>,
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

    /// Whether pods of `namespace` have this address, and neither a node nor anybody else.
    pub fn is_of(&self, address: IpAddr, namespace: &str) -> bool {
        // `None` is the least.
        let all = self.holders.range((address, None)..);
        let mut holders = all.map(|(holder, _)| holder).take_while(|(at, _)| *at == address);
        let only = holders.next().filter(|_| holders.next().is_none());
        only.is_some_and(|(_, holder)| holder.as_deref() == Some(namespace))
    }

    /// Sets a pod; `None` when it is gone. Returns the addresses about whose ports or holders the answer changes.
    pub fn set(&mut self, name: ObjectName, pod: Option<Pod>) -> BTreeSet<IpAddr> {
        let facts = |pod: Option<&Pod>| pod.map(|pod| (pod.declared(), pod.holds())).unwrap_or_default();
        let (declares, holds) = facts(pod.as_ref());
        let old = match pod {
            Some(pod) => self.by_name.insert(name, pod),
            None => self.by_name.remove(&name),
        };
        let (declared, held) = facts(old.as_ref());
        tally(&mut self.declared, &declared, &declares);
        tally(&mut self.holders, &held, &holds);
        let ports = declared.symmetric_difference(&declares).map(|port| port.address);
        ports.chain(held.symmetric_difference(&holds).map(|(address, _)| *address)).collect()
    }

    /// All of them, by name.
    pub fn all(&self) -> impl Iterator<Item = &Pod> {
        self.by_name.values()
    }
}

/// Counts what a pod says now instead of what it said.
fn tally<T: Clone + Ord>(counts: &mut BTreeMap<T, u32>, old: &BTreeSet<T>, new: &BTreeSet<T>) {
    for fact in new.difference(old) {
        *counts.entry(fact.clone()).or_default() += 1;
    }
    for fact in old.difference(new) {
        if let Some(count) = counts.get_mut(fact) {
            *count -= 1;
            if *count == 0 {
                counts.remove(fact);
            }
        }
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

    #[test]
    fn an_address_is_a_namespaces_where_its_pods_alone_have_it() {
        let address = IpAddr::from([10, 0, 0, 1]);
        let mut pods = Pods::default();
        let pod = |namespace: &str, name: &str, at: [u8; 4], host_network| Pod {
            name: ObjectName::new(namespace, name),
            addresses: vec![at.into()],
            node: None,
            host_network,
            labels: BTreeMap::new(),
            ports: Vec::new(),
        };
        let (own, other) = ([10, 0, 0, 1], [10, 0, 0, 2]);
        for (case, name, set, changed, want) in [
            ("nobody has it", ("shop", "z"), None, 0, false),
            ("a pod has another", ("shop", "z"), Some((other, false)), 1, false),
            ("a pod of ours", ("shop", "a"), Some((own, false)), 1, true),
            ("the same again", ("shop", "a"), Some((own, false)), 0, true),
            ("another of ours", ("shop", "b"), Some((own, false)), 1, true),
            ("somebody else's too", ("yard", "a"), Some((own, false)), 1, false),
            ("that one moved", ("yard", "a"), Some((other, false)), 2, true),
            ("one on the host's network", ("shop", "c"), Some((own, true)), 1, false),
            ("that one is gone", ("shop", "c"), None, 1, true),
            ("one of two is gone", ("shop", "a"), None, 1, true),
            ("the last is on the host's network", ("shop", "b"), Some((own, true)), 1, false),
        ] {
            let (namespace, name) = name;
            let set = set.map(|(at, host_network)| pod(namespace, name, at, host_network));
            let touched = pods.set(ObjectName::new(namespace, name), set);
            assert_eq!(touched.len(), changed, "{case}: {touched:?}");
            assert_eq!(pods.is_of(address, "shop"), want, "{case}");
        }
        for (namespace, name) in [("shop", "z"), ("shop", "b"), ("yard", "a")] {
            pods.set(ObjectName::new(namespace, name), None);
        }
        assert!(pods.holders.is_empty(), "nothing is left behind");
    }
}
