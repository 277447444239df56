//! Whose the addresses of endpoints are.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use super::{
    super::{EndpointSlice, ObjectName},
    Store,
};

impl Store {
    /// The pods of addresses that became another's since the last call; `None` where nobody is known by it, or several are, as
    /// pods on the host's network.
    pub fn take_renamed(&mut self) -> BTreeMap<IpAddr, Option<ObjectName>> {
        let renamed = std::mem::take(&mut self.renamed);
        renamed.into_iter().map(|address| (address, self.pod_at(address))).collect()
    }

    /// The addresses that a pod is known by.
    pub fn named_addresses(&self) -> BTreeSet<IpAddr> {
        self.by_address.keys().copied().filter(|address| self.pod_at(*address).is_some()).collect()
    }

    fn pod_at(&self, address: IpAddr) -> Option<ObjectName> {
        let slices = self.by_address.get(&address).into_iter().flatten();
        let slices = slices.filter_map(|name| self.slices.get(&**name));
        let named = slices.flat_map(|slice| {
            let own = slice.endpoints.iter().filter(|endpoint| endpoint.addresses.contains(&address));
            own.filter_map(|endpoint| Some((&slice.service.namespace, endpoint.pod.as_ref()?)))
        });
        let names: BTreeSet<_> = named.collect();
        let (namespace, name) = names.first()?;
        (names.len() == 1).then(|| ObjectName::new((*namespace).clone(), name.to_string()))
    }

    /// Notes the addresses to which the slice that was known by this name, and the one that is now, give other pods.
    pub(super) fn note_renamed(&mut self, name: &ObjectName, new: Option<&EndpointSlice>) {
        let [old, new] = [self.slices.get(name), new].map(|slice| slice.map(ends).unwrap_or_default());
        self.renamed.extend(old.symmetric_difference(&new).map(|(address, _)| *address));
    }
}

fn ends(slice: &EndpointSlice) -> BTreeSet<(IpAddr, &Arc<str>)> {
    let named = slice.endpoints.iter().filter_map(|endpoint| Some((endpoint, endpoint.pod.as_ref()?)));
    named.flat_map(|(endpoint, pod)| endpoint.addresses.iter().map(move |address| (*address, pod))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Change, Endpoint, EndpointState, Node};

    fn slice(name: &str, pods: &[(u8, &str)]) -> Change {
        let endpoint = |(octet, pod): &(u8, &str)| Endpoint {
            addresses: vec![[10, 0, 0, *octet].into()],
            state: EndpointState::Ready,
            pod: Some((*pod).into()),
            node: None,
            zone: None,
            zone_hints: BTreeSet::new(),
            node_hints: BTreeSet::new(),
        };
        let name = ObjectName::new("shop", name);
        let slice = EndpointSlice {
            changed: None,
            name: name.clone(),
            service: ObjectName::new("shop", "cart"),
            ports: Vec::new(),
            endpoints: pods.iter().map(endpoint).collect(),
        };
        Change::Slice(name, (!pods.is_empty()).then(|| Box::new(slice)))
    }

    #[test]
    fn addresses_are_told_of_when_their_pod_is_another() {
        let mut store = Store::new(Node::default());
        for (case, change, want) in [
            ("new", slice("a", &[(1, "cart-1"), (2, "cart-2")]), "1=cart-1 2=cart-2"),
            ("the same", slice("a", &[(2, "cart-2"), (1, "cart-1")]), ""),
            ("one more", slice("a", &[(1, "cart-1"), (2, "cart-2"), (3, "cart-3")]), "3=cart-3"),
            ("in another slice too", slice("b", &[(1, "cart-1")]), "1=cart-1"),
            ("one less there", slice("a", &[(2, "cart-2"), (3, "cart-3")]), "1=cart-1"),
            ("gone", slice("b", &[]), "1=-"),
            ("another pod has the address", slice("a", &[(2, "cart-9"), (3, "cart-3")]), "2=cart-9"),
            ("two pods have it", slice("b", &[(3, "agent")]), "3=-"),
        ] {
            store.apply(change);
            let last = |address: &IpAddr| address.to_string().rsplit('.').next().unwrap().to_owned();
            let name = |pod: &Option<ObjectName>| pod.as_ref().map_or("-".to_owned(), |pod| pod.name.clone());
            let renamed = store.take_renamed();
            let text: Vec<String> =
                renamed.iter().map(|(address, pod)| format!("{}={}", last(address), name(pod))).collect();
            assert_eq!(text.join(" "), want, "{case}");
        }
    }
}
