//! On which of the node's addresses NodePorts are served. The choice is pure; only [`interfaces`] looks at the node.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use ipnet::IpNet;
use sluice_common::{
    Addr,
    layout::{ADDRESS_LOOPBACK, ADDRESS_NODE, ADDRESS_OWN},
};

use crate::{model::Family, objects::parse_network};

/// `--nodeport-addresses`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Selector {
    /// The node's first address of each family.
    Primary,
    /// Every address of the node in one of these networks.
    Networks(Vec<IpNet>),
}

impl FromStr for Selector {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.trim() == "primary" {
            return Ok(Self::Primary);
        }
        let parse = |part| {
            parse_network(part)
                .ok_or_else(|| format!("{part:?} is neither \"primary\" nor a network such as 10.0.0.0/8"))
        };
        text.split(',').map(parse).collect::<Result<_, _>>().map(Self::Networks)
    }
}

/// The addresses, each with its kind as `ADDRESSES` has it. `node` are those of the Node object, `interfaces`
/// those that the node's interfaces have. 127.0.0.1 and ::1 serve the node's own processes with either selector,
/// unless networks are given that leave their family out.
pub fn addresses(selector: &Selector, node: &[IpAddr], interfaces: &[IpAddr]) -> BTreeMap<Addr, u32> {
    let usable =
        |address: &&IpAddr| !address.is_loopback() && !is_link_local(address) && !address.is_unspecified();
    let mut chosen = BTreeMap::new();
    for (family, loopback) in
        [(Family::V4, IpAddr::V4(Ipv4Addr::LOCALHOST)), (Family::V6, IpAddr::V6(Ipv6Addr::LOCALHOST))]
    {
        let ours = |address: &&IpAddr| Family::of(**address) == family;
        let with_loopback = match selector {
            Selector::Primary => {
                let primary = node.iter().chain(interfaces).filter(usable).find(ours);
                chosen.extend(primary.map(|address| (Addr::from(*address), ADDRESS_NODE)));
                true
            }
            Selector::Networks(networks) => {
                let inside = |address: &&IpAddr| networks.iter().any(|network| network.contains(*address));
                let found = node.iter().chain(interfaces).filter(usable).filter(ours).filter(inside);
                chosen.extend(found.map(|address| (Addr::from(*address), ADDRESS_NODE)));
                networks.iter().any(|network| Family::of(network.addr()) == family)
            }
        };
        if with_loopback {
            chosen.insert(Addr::from(loopback), ADDRESS_LOOPBACK);
        }
    }
    // The others are the node's as well, though no NodePort is served there.
    for address in node.iter().chain(interfaces).filter(usable) {
        chosen.entry(Addr::from(*address)).or_insert(ADDRESS_OWN);
    }
    chosen
}

const fn is_link_local(address: &IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    }
}

/// The addresses of the interfaces of this network namespace, in the kernel's order.
pub fn interfaces() -> Vec<IpAddr> {
    let found = nix::ifaddrs::getifaddrs().into_iter().flatten();
    let address = |interface: nix::ifaddrs::InterfaceAddress| {
        let storage = interface.address?;
        let v4 = storage.as_sockaddr_in().map(|address| IpAddr::V4(address.ip()));
        v4.or_else(|| storage.as_sockaddr_in6().map(|address| IpAddr::V6(address.ip())))
    };
    found.filter_map(address).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_follow_the_selector() {
        let ips = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<IpAddr>>();
        let interfaces = ips(&["127.0.0.1", "10.0.0.5", "192.168.1.5", "::1", "fe80::1", "fd00::5"]);
        for (case, selector, node, want) in [
            (
                "primary of the Node object",
                "primary",
                vec!["192.168.1.5"],
                vec!["192.168.1.5", "127.0.0.1", "fd00::5", "::1"],
            ),
            ("primary of the interfaces", "primary", vec![], vec!["10.0.0.5", "127.0.0.1", "fd00::5", "::1"]),
            ("networks", "192.168.0.0/24,192.168.1.0/24", vec!["10.0.0.5"], vec!["192.168.1.5", "127.0.0.1"]),
            (
                "both families",
                "10.0.0.0/8, fd00::/8",
                vec![],
                vec!["10.0.0.5", "127.0.0.1", "fd00::5", "::1"],
            ),
            ("leading zeros", "010.000.000.000/8", vec![], vec!["10.0.0.5", "127.0.0.1"]),
            ("none fits", "203.0.113.0/24", vec![], vec!["127.0.0.1"]),
        ] {
            let chosen = addresses(&selector.parse().unwrap(), &ips(&node), &interfaces);
            let got: std::collections::BTreeSet<IpAddr> = chosen
                .iter()
                .filter(|(_, kind)| **kind != ADDRESS_OWN)
                .map(|(address, _)| IpAddr::from(*address))
                .collect();
            assert_eq!(got, ips(&want).into_iter().collect(), "{case}");
            assert!(
                chosen.iter().all(|(a, kind)| IpAddr::from(*a).is_loopback() == (*kind == ADDRESS_LOOPBACK)),
                "{case}"
            );
        }
        for bad in ["", "10.0.0.1", "10.0.0.0/33", "all"] {
            assert!(bad.parse::<Selector>().is_err(), "{bad}");
        }
    }
}
