//! Rules of `tcp` in the kernel: an endpoint stands in the range as often as its weight asks for.

use std::{collections::BTreeMap, net::IpAddr};

use sluice_common::layout::Excluded;

use super::{CompiledEndpoint, categorized};
use crate::model::{Family, Pod, Protocol, SharePort, Split, Store};

/// More slots than this, or four for each endpoint, are not taken: weights are rounded then.
const SLOTS_MAX: u128 = 1_024;

/// The endpoints of a split port, and how many slots lead to none: connections there are refused.
///
/// `own` are the port's own endpoints; those that no destination has are kept as excluded.
pub fn apply(
    store: &Store,
    split: &Split,
    family: Family,
    own: Vec<CompiledEndpoint>,
    uses_local: bool,
) -> (Vec<CompiledEndpoint>, u32) {
    let shares: Vec<(u32, Vec<CompiledEndpoint>)> = split
        .shares
        .iter()
        .filter(|share| share.weight > 0 || split.shares.len() == 1)
        .map(|share| {
            let found = share.to.as_ref().map(|to| usable(store, to, family));
            (share.weight.max(1), found.unwrap_or_default())
        })
        .collect();
    let slots = slots(&shares.iter().map(|(weight, found)| (*weight, found.len())).collect::<Vec<_>>());
    let mut all: BTreeMap<(IpAddr, u16), CompiledEndpoint> = BTreeMap::new();
    let mut refused = 0;
    for ((_, found), slots) in shares.into_iter().zip(slots) {
        if found.is_empty() {
            refused += slots;
        }
        for endpoint in found {
            let fresh = || {
                let in_local = uses_local && endpoint.local;
                CompiledEndpoint { weight: 0, in_cluster: true, in_local, excluded: None, ..endpoint.clone() }
            };
            all.entry((endpoint.address, endpoint.port)).or_insert_with(fresh).weight += slots;
        }
    }
    for endpoint in own {
        let excluded = Some(endpoint.excluded.unwrap_or(Excluded::Rule));
        let left_out = CompiledEndpoint { in_cluster: false, in_local: false, excluded, ..endpoint };
        all.entry((left_out.address, left_out.port)).or_insert(left_out);
    }
    (all.into_values().collect(), refused)
}

/// The endpoints of a destination that clients of this node may use now, by its own Service's policies.
fn usable(store: &Store, to: &SharePort, family: Family) -> Vec<CompiledEndpoint> {
    let Some(service) = store.service(&to.name()) else { return Vec::new() };
    let port = service.ports.iter().find(|port| port.port == to.port && port.protocol == Protocol::Tcp);
    let Some(port) = port else { return Vec::new() };
    let found = categorized(store, &store.slices_of(&service.name), port, family, service.internal_local);
    let pods = if to.labels.is_empty() { BTreeMap::new() } else { by_address(store) };
    let has_labels = |endpoint: &CompiledEndpoint| {
        to.labels.is_empty()
            || pods.get(&endpoint.address).is_some_and(|pods| {
                pods.iter().any(|pod| to.labels.iter().all(|(key, value)| pod.labels.get(key) == Some(value)))
            })
    };
    let serves = |endpoint: &CompiledEndpoint| {
        if service.internal_local { endpoint.in_local } else { endpoint.in_cluster }
    };
    found.into_iter().filter(|endpoint| serves(endpoint) && has_labels(endpoint)).collect()
}

fn by_address(store: &Store) -> BTreeMap<IpAddr, Vec<&Pod>> {
    let mut by_address: BTreeMap<IpAddr, Vec<&Pod>> = BTreeMap::new();
    for pod in store.pods() {
        for address in &pod.addresses {
            by_address.entry(address.to_canonical()).or_default().push(pod);
        }
    }
    by_address
}

/// Slots for each endpoint of a destination, given weights and numbers of endpoints; a destination without
/// endpoints counts as one. Exact in the lowest terms where that is not too many, else rounded, never to 0.
fn slots(shares: &[(u32, usize)]) -> Vec<u32> {
    let counts = shares.iter().map(|(_, count)| (*count).max(1) as u128);
    let whole = counts.clone().fold(1, lcm);
    let exact: Vec<u128> = shares
        .iter()
        .zip(counts.clone())
        .map(|((weight, _), count)| u128::from(*weight).saturating_mul(whole / count))
        .collect();
    let common = exact.iter().copied().fold(0, gcd).max(1);
    let total = exact.iter().zip(counts.clone()).map(|(slots, count)| (slots / common).saturating_mul(count));
    let total = total.fold(0, u128::saturating_add);
    let endpoints: u128 = counts.clone().sum();
    let most = SLOTS_MAX.max(endpoints * 4);
    if total <= most {
        return exact.into_iter().map(|slots| u32::try_from(slots / common).unwrap_or(u32::MAX)).collect();
    }
    let sum: f64 = shares.iter().map(|(weight, _)| f64::from(*weight)).sum();
    let rounded = |((weight, _), count): (&(u32, usize), u128)| {
        (most as f64 * f64::from(*weight) / sum / count as f64).round().max(1.0) as u32
    };
    shares.iter().zip(counts).map(rounded).collect()
}

fn gcd(a: u128, b: u128) -> u128 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// Large numbers stay below 2^64: what comes of them is rounded anyway.
fn lcm(a: u128, b: u128) -> u128 {
    (a / gcd(a, b)).saturating_mul(b).min(1 << 64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_become_as_few_slots_as_they_can() {
        for (case, shares, want) in [
            ("one each", &[(80, 1), (20, 1)][..], &[4, 1][..]),
            ("several endpoints", &[(80, 2), (20, 1)], &[2, 1]),
            ("a share for each endpoint", &[(50, 3), (50, 2)], &[2, 3]),
            ("one destination", &[(100, 5)], &[1]),
            ("none is one that refuses", &[(90, 3), (10, 0)], &[3, 1]),
            ("lowest terms over endpoints", &[(3, 3), (1, 1)], &[1, 1]),
            ("nothing", &[], &[]),
        ] {
            assert_eq!(slots(shares), want, "{case}");
        }
    }

    #[test]
    fn too_many_slots_are_rounded_and_nobody_gets_none() {
        for (case, shares) in [
            ("primes", &[(999_983, 7), (1, 11)][..]),
            ("large weights", &[(u32::MAX, 3), (u32::MAX - 1, 2)]),
            ("many endpoints", &[(99, 997), (1, 991)]),
            ("many destinations", &[(1, 7), (1, 11), (1, 13), (1, 17), (1, 19), (1, 23)]),
        ] {
            let slots = slots(shares);
            let total: u64 =
                slots.iter().zip(shares).map(|(slots, (_, n))| u64::from(*slots) * *n as u64).sum();
            let endpoints: u64 = shares.iter().map(|(_, n)| *n as u64).sum();
            assert!(slots.iter().all(|slots| *slots > 0), "{case}: {slots:?}");
            // Rounding adds half a slot for each endpoint at most, or one for a tiny share.
            assert!(total <= 1_024.max(endpoints * 4) + endpoints, "{case}: {total}");
        }
    }
}
