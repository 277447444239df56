//! Addresses that no name may lead to. We ask in the node's name and from its network: whoever writes an ExternalName says what
//! the name stands for, and must not reach by it what the node alone may reach.

use std::{
    collections::BTreeSet,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use nix::ifaddrs::getifaddrs;

/// The metadata service of a cloud, whose IPv4 form is a link-local address.
const METADATA: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254);
/// Behind it, an IPv4 address for gateways to IPv4. Source: RFC 6052.
const NAT64: [u16; 6] = [0x64, 0xff9b, 0, 0, 0, 0];

/// Takes what is forbidden out of `found`; `own` are the node's addresses. Returns whether there was any.
pub fn take_out(found: &mut Vec<SocketAddr>, own: &BTreeSet<IpAddr>) -> bool {
    let before = found.len();
    found.retain(|address| {
        let ip = address.ip().to_canonical();
        !is_special(ip) && !own.contains(&ip)
    });
    found.len() < before
}

/// The addresses of this node's devices as they are now. Others that the node takes, for Services, have no daemons behind them.
///
/// # Errors
/// The kernel does not tell.
pub fn own() -> io::Result<BTreeSet<IpAddr>> {
    let address = |device: nix::ifaddrs::InterfaceAddress| {
        let storage = device.address?;
        let v4 = storage.as_sockaddr_in().map(|address| IpAddr::V4(address.ip()));
        v4.or_else(|| storage.as_sockaddr_in6().map(|address| IpAddr::V6(address.ip())))
    };
    Ok(getifaddrs()?.filter_map(address).collect())
}

/// Whether it means this machine, its link, or a group of machines.
fn is_special(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => is_special_v4(v4),
        IpAddr::V6(v6) => {
            let special =
                v6.is_loopback() || v6.is_unspecified() || v6.is_multicast() || v6.is_unicast_link_local();
            special || v6 == METADATA || embedded(v6).is_some_and(is_special_v4)
        }
    }
}

fn is_special_v4(v4: Ipv4Addr) -> bool {
    // All of 0.0.0.0/8 is this host on this network, RFC 1122.
    let this = v4.octets()[0] == 0 || v4.is_loopback() || v4.is_link_local();
    this || v4.is_multicast() || v4.is_broadcast()
}

/// The IPv4 address that one of IPv6 stands for: mapped, compatible, or by NAT64.
fn embedded(v6: Ipv6Addr) -> Option<Ipv4Addr> {
    let [.., high, low] = v6.segments();
    let behind =
        v6.segments().starts_with(&NAT64).then(|| Ipv4Addr::from(u32::from(high) << 16 | u32::from(low)));
    behind.or_else(|| v6.to_ipv4())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_to_other_machines_only() {
        let own = BTreeSet::from(["192.0.2.7", "2001:db8::7"].map(|own| own.parse().unwrap()));
        for (address, is_left) in [
            ("203.0.113.1", true),
            ("10.244.0.5", true),
            ("192.168.1.1", true),
            ("2001:db8::1", true),
            ("fd00::1", true),
            ("64:ff9b::203.0.113.1", true),
            ("127.0.0.1", false),
            ("127.9.9.9", false),
            ("169.254.169.254", false),
            ("0.0.0.0", false),
            ("0.1.2.3", false),
            ("224.0.0.1", false),
            ("255.255.255.255", false),
            ("192.0.2.7", false),
            ("::1", false),
            ("::", false),
            ("fe80::1", false),
            ("ff02::1", false),
            ("fd00:ec2::254", false),
            ("2001:db8::7", false),
            ("::ffff:127.0.0.1", false),
            ("::ffff:169.254.169.254", false),
            ("::ffff:192.0.2.7", false),
            ("::127.0.0.1", false),
            ("64:ff9b::169.254.169.254", false),
        ] {
            let mut found = vec![SocketAddr::new(address.parse().unwrap(), 80)];
            assert_eq!(take_out(&mut found, &own), !is_left, "{address}");
            assert_eq!(found.len(), usize::from(is_left), "{address}");
        }
    }

    #[test]
    fn a_machine_has_addresses_of_its_own() {
        assert!(own().unwrap().contains(&Ipv4Addr::LOCALHOST.into()));
    }
}
