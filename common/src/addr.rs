//! One address type for both families, so that one set of maps serves IPv4 and IPv6.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use bytemuck::{Pod, Zeroable};

/// The third word of every IPv4-mapped IPv6 address (RFC 4291 §2.5.5.2), network byte order.
const MAPPED_PREFIX_BE: u32 = 0xffff_u32.to_be();

/// An IPv6 address, or an IPv4 address in its IPv4-mapped form; network byte order.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Pod, Zeroable)]
pub struct Addr {
    /// The 16 bytes as four words, each in network byte order, as `bpf_sock_addr.user_ip6` has them.
    pub words_be: [u32; 4],
}

impl Addr {
    /// `::`, which no client can dial; marks unused entries.
    pub const UNSPECIFIED: Self = Self { words_be: [0; 4] };

    /// From an IPv4 address as `bpf_sock_addr.user_ip4` has it, network byte order.
    #[inline(always)]
    pub const fn from_v4_be(address_be: u32) -> Self {
        Self { words_be: [0, 0, MAPPED_PREFIX_BE, address_be] }
    }

    /// The IPv4 address in network byte order; meaningless unless [`Self::is_v4`].
    #[inline(always)]
    pub const fn v4_be(&self) -> u32 {
        self.words_be[3]
    }

    /// Whether this is an IPv4 address.
    #[inline(always)]
    pub const fn is_v4(&self) -> bool {
        self.words_be[0] == 0 && self.words_be[1] == 0 && self.words_be[2] == MAPPED_PREFIX_BE
    }

    /// Whether this is `::`.
    pub fn is_unspecified(&self) -> bool {
        *self == Self::UNSPECIFIED
    }
}

impl From<IpAddr> for Addr {
    fn from(address: IpAddr) -> Self {
        let octets = match address {
            IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
            IpAddr::V6(v6) => v6.octets(),
        };
        Self { words_be: bytemuck::must_cast(octets) }
    }
}

impl From<Addr> for IpAddr {
    fn from(address: Addr) -> Self {
        let octets: [u8; 16] = bytemuck::must_cast(address.words_be);
        if address.is_v4() {
            return Self::V4(Ipv4Addr::new(octets[12], octets[13], octets[14], octets[15]));
        }
        Self::V6(Ipv6Addr::from(octets))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_survive_the_way_into_a_map_and_back() {
        for text in ["10.96.0.1", "0.0.0.0", "255.255.255.255", "fd00::1", "::1", "2001:db8:1:2:3:4:5:6"] {
            let address: IpAddr = text.parse().unwrap();
            assert_eq!(IpAddr::from(Addr::from(address)), address, "{text}");
        }
    }

    #[test]
    fn ipv4_equals_its_mapped_form() {
        let plain = Addr::from("10.0.0.7".parse::<IpAddr>().unwrap());
        assert_eq!(plain, Addr::from("::ffff:10.0.0.7".parse::<IpAddr>().unwrap()));
        assert_eq!(plain, Addr::from_v4_be(u32::from_ne_bytes([10, 0, 0, 7])));
        assert!(plain.is_v4());
        assert!(!Addr::from("::1".parse::<IpAddr>().unwrap()).is_v4());
    }
}
