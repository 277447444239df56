//! Which addresses are the node's own, where NodePorts are served, and which are cluster IPs, where a port that no
//! Service has is refused.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use sluice_common::{
    Addr,
    layout::{
        ADDRESS_CLUSTER_IP, ADDRESS_ENDPOINT, ADDRESS_LOCAL_ENDPOINT, ADDRESS_REDIRECTED, ADDRESS_VIP,
        FLAG_REDIRECTED, FrontendKey, FrontendKind, FrontendValue,
    },
};

use crate::maps::Op;

/// What `ADDRESSES` should hold, and where it may not yet.
#[derive(Debug, Default)]
pub struct Addresses {
    node: BTreeMap<Addr, u32>,
    /// Cluster IPs, each with the number of its frontends.
    cluster: BTreeMap<Addr, u32>,
    /// Load balancer and external addresses, each with the number of its frontends.
    vips: BTreeMap<Addr, u32>,
    /// Endpoints' own addresses, each with the number of its frontends.
    endpoints: BTreeMap<Addr, u32>,
    /// Addresses of which the redirector serves a port, each with the number of those ports.
    redirected: BTreeMap<Addr, u32>,
    /// Backends on this node, by id.
    local: HashMap<u32, Addr>,
    /// Their addresses, each with their number.
    local_counts: BTreeMap<Addr, u32>,
    unsettled: BTreeSet<Addr>,
}

impl Addresses {
    /// Starts with addresses about which nothing is known but that the map has them.
    pub fn adopt(addresses: impl Iterator<Item = Addr>) -> Self {
        Self { unsettled: addresses.collect(), ..Self::default() }
    }

    /// The node's addresses from now on, each with its kind.
    pub fn set_node(&mut self, wanted: &BTreeMap<Addr, u32>) {
        let differs = |one: &BTreeMap<Addr, u32>, other: &BTreeMap<Addr, u32>| {
            one.iter()
                .filter(|(addr, kind)| other.get(addr) != Some(kind))
                .map(|(addr, _)| *addr)
                .collect::<Vec<_>>()
        };
        self.unsettled.extend(differs(wanted, &self.node));
        self.unsettled.extend(differs(&self.node, wanted));
        self.node.clone_from(wanted);
    }

    /// A frontend changes from `old` to `new`; `None` where it is not.
    pub fn note(&mut self, key: &FrontendKey, old: Option<&FrontendValue>, new: Option<&FrontendValue>) {
        if key.scope != 0 {
            return;
        }
        let before = self.kind_of(&key.addr);
        for (bit, counts) in [
            (ADDRESS_CLUSTER_IP, &mut self.cluster),
            (ADDRESS_VIP, &mut self.vips),
            (ADDRESS_ENDPOINT, &mut self.endpoints),
            (ADDRESS_REDIRECTED, &mut self.redirected),
        ] {
            let has = |value: Option<&FrontendValue>| value.is_some_and(|value| bits(value) & bit != 0);
            match (has(old), has(new)) {
                (false, true) => *counts.entry(key.addr).or_default() += 1,
                (true, false) => {
                    let left = counts.get(&key.addr).map_or(0, |count| count.saturating_sub(1));
                    counts.insert(key.addr, left);
                    if left == 0 {
                        counts.remove(&key.addr);
                    }
                }
                (true, true) | (false, false) => {}
            }
        }
        if self.kind_of(&key.addr) != before {
            self.unsettled.insert(key.addr);
        }
    }

    /// The backend `id` is an endpoint of this node at that address from now on; `None`: it is not.
    pub fn note_local(&mut self, id: u32, addr: Option<Addr>) {
        let old = match addr {
            Some(addr) => self.local.insert(id, addr),
            None => self.local.remove(&id),
        };
        if old == addr {
            return;
        }
        if let Some(old) = old {
            let left = self.local_counts.get(&old).map_or(0, |count| count.saturating_sub(1));
            self.local_counts.insert(old, left);
            if left == 0 {
                self.local_counts.remove(&old);
            }
        }
        if let Some(addr) = addr {
            *self.local_counts.entry(addr).or_default() += 1;
        }
        self.unsettled.extend(old.into_iter().chain(addr));
    }

    /// An address that is the node's too is the node's: its other ports are daemons'.
    fn kind_of(&self, addr: &Addr) -> Option<u32> {
        let redirected = if self.redirected.contains_key(addr) { ADDRESS_REDIRECTED } else { 0 };
        let base = self.node.get(addr).copied();
        let base = base.or_else(|| self.cluster.contains_key(addr).then_some(ADDRESS_CLUSTER_IP));
        let base = base.or_else(|| self.vips.contains_key(addr).then_some(ADDRESS_VIP));
        let base = base.or_else(|| self.endpoints.contains_key(addr).then_some(ADDRESS_ENDPOINT));
        let local = if self.local_counts.contains_key(addr) { ADDRESS_LOCAL_ENDPOINT } else { 0 };
        Some(base.unwrap_or(0) | redirected | local).filter(|kind| *kind != 0)
    }

    /// The writes to do, those first that make room. An address that is both belongs to the node.
    pub fn pending(&self) -> Vec<(Addr, Op)> {
        let (kept, gone): (Vec<_>, Vec<_>) = self
            .unsettled
            .iter()
            .map(|addr| (*addr, self.kind_of(addr)))
            .partition(|(_, kind)| kind.is_some());
        let op = |(addr, kind): (Addr, Option<u32>)| {
            (addr, kind.map_or(Op::DeleteAddress(addr), |kind| Op::PutAddress(addr, kind)))
        };
        gone.into_iter().chain(kept).map(op).collect()
    }

    /// What [`Self::pending`] said of this address is done.
    pub fn settled(&mut self, addr: &Addr) {
        self.unsettled.remove(addr);
    }

    /// Addresses that the map may say are the node's; those that it still has to be told of among them.
    pub fn of_node(&self) -> impl Iterator<Item = &Addr> {
        self.node.keys().chain(&self.unsettled)
    }

    /// Addresses of which the map may say that the redirector serves a port; those that it still has to be told of
    /// among them.
    pub fn redirected(&self) -> impl Iterator<Item = &Addr> {
        self.redirected.keys().chain(&self.unsettled)
    }

    /// Whether something is still to be written.
    pub fn is_unsettled(&self) -> bool {
        !self.unsettled.is_empty()
    }
}

/// What a frontend makes its address.
const fn bits(value: &FrontendValue) -> u32 {
    let cluster = if value.kind == FrontendKind::ClusterIp as u8 { ADDRESS_CLUSTER_IP } else { 0 };
    let is_redirected = value.flags & FLAG_REDIRECTED != 0 && value.kind == FrontendKind::ClusterIp as u8;
    let redirected = if is_redirected { ADDRESS_REDIRECTED } else { 0 };
    let of_others =
        value.kind == FrontendKind::LoadBalancer as u8 || value.kind == FrontendKind::ExternalIp as u8;
    let endpoint = if value.kind == FrontendKind::Headless as u8 { ADDRESS_ENDPOINT } else { 0 };
    cluster | redirected | endpoint | if of_others { ADDRESS_VIP } else { 0 }
}

#[cfg(test)]
mod tests {
    use bytemuck::Zeroable as _;
    use sluice_common::layout::{ADDRESS_NODE, TCP};

    use super::*;

    impl Addresses {
        fn next(&self) -> Option<(Addr, Op)> {
            self.pending().first().copied()
        }
    }

    #[test]
    fn an_address_is_a_cluster_ip_as_long_as_some_frontend_is_there() {
        let addr = Addr::from_v4_be(7);
        let key = |port_be| FrontendKey { addr, port_be, protocol: TCP, scope: 0 };
        let value = |kind| FrontendValue { kind: kind as u8, ..FrontendValue::zeroed() };
        let (cluster, external) = (value(FrontendKind::ClusterIp), value(FrontendKind::ExternalIp));
        let put = Some((addr, Op::PutAddress(addr, ADDRESS_CLUSTER_IP)));
        let mut addresses = Addresses::default();
        for (case, port, old, new, want) in [
            ("an external address", 1, None, Some(external), Some((addr, Op::PutAddress(addr, ADDRESS_VIP)))),
            ("the first port", 2, None, Some(cluster), put),
            ("the same again", 2, Some(cluster), Some(cluster), None),
            ("the external address becomes the cluster IP", 1, Some(external), Some(cluster), None),
            ("one port goes", 2, Some(cluster), None, None),
            ("the last one goes", 1, Some(cluster), None, Some((addr, Op::DeleteAddress(addr)))),
        ] {
            addresses.note(&key(port), old.as_ref(), new.as_ref());
            assert_eq!(addresses.next(), want, "{case}");
            addresses.settled(&addr);
        }
        addresses.note(&key(1), None, Some(&cluster));
        addresses.set_node(&[(addr, ADDRESS_NODE)].into());
        assert_eq!(
            addresses.next(),
            Some((addr, Op::PutAddress(addr, ADDRESS_NODE))),
            "the node's comes first"
        );
        addresses.set_node(&BTreeMap::new());
        assert_eq!(addresses.next(), put, "and it is a cluster IP again");
    }

    #[test]
    fn what_makes_room_goes_first() {
        let (first, second) = (Addr::from_v4_be(1), Addr::from_v4_be(2));
        let mut addresses = Addresses::adopt([second].into_iter());
        addresses.set_node(&[(first, ADDRESS_NODE)].into());
        let ops = addresses.pending().into_iter().map(|(_, op)| op);
        assert_eq!(ops.collect::<Vec<_>>(), [Op::DeleteAddress(second), Op::PutAddress(first, ADDRESS_NODE)]);
    }

    #[test]
    fn an_address_is_a_local_endpoints_as_long_as_some_backend_has_it() {
        let (addr, other) = (Addr::from_v4_be(7), Addr::from_v4_be(9));
        let (put, delete) = (|kind| Some(Op::PutAddress(addr, kind)), Some(Op::DeleteAddress(addr)));
        let mut addresses = Addresses::default();
        let rows = [
            ("one port", 1, Some(addr), put(ADDRESS_LOCAL_ENDPOINT)),
            ("the same again", 1, Some(addr), None),
            ("another port", 2, Some(addr), put(ADDRESS_LOCAL_ENDPOINT)),
            ("the first one goes", 1, None, put(ADDRESS_LOCAL_ENDPOINT)),
            ("its id is another's", 2, Some(other), delete),
            ("nobody's", 3, None, None),
        ];
        for (case, id, now, want) in rows {
            addresses.note_local(id, now);
            assert_eq!(addresses.next().map(|(_, op)| op), want, "{case}");
            addresses.settled(&addr);
            addresses.settled(&other);
        }
        addresses.set_node(&[(other, ADDRESS_NODE)].into());
        let both = ADDRESS_NODE | ADDRESS_LOCAL_ENDPOINT;
        assert_eq!(
            addresses.next(),
            Some((other, Op::PutAddress(other, both))),
            "a pod in the node's network"
        );
    }
}
