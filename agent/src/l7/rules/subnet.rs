//! Address prefixes, as in `10.0.0.0/8`. A plain address is a prefix of its full length.

use std::{fmt, net::IpAddr};

/// A prefix.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Subnet {
    address: u128,
    bits: u32,
    v4: bool,
}

impl Subnet {
    /// Reads `text`; `None` when it is no prefix.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (address, length) = match text.split_once('/') {
            Some((address, length)) => (address, Some(length.parse::<u32>().ok()?)),
            None => (text, None),
        };
        let address = address.parse::<IpAddr>().ok()?;
        let width = if address.is_ipv4() { 32 } else { 128 };
        let length = length.unwrap_or(width);
        (length <= width).then(|| Self {
            address: number(address),
            bits: width - length,
            v4: address.is_ipv4(),
        })
    }

    /// Whether `address` is within.
    pub(crate) fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        let differing = number(address) ^ self.address;
        address.is_ipv4() == self.v4 && differing.checked_shr(self.bits).unwrap_or(0) == 0
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.v4 {
            write!(f, "{}/{}", std::net::Ipv4Addr::from(self.address as u32), 32 - self.bits)
        } else {
            write!(f, "{}/{}", std::net::Ipv6Addr::from(self.address), 128 - self.bits)
        }
    }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(u32::from(v4)),
        IpAddr::V6(v6) => u128::from(v6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_in_a_subnet() {
        for (subnet, address, want) in [
            ("10.0.0.0/8", "10.1.2.3", Some(true)),
            ("10.0.0.0/8", "11.1.2.3", Some(false)),
            ("10.0.0.0/8", "::ffff:10.1.2.3", Some(true)),
            ("0.0.0.0/0", "1.2.3.4", Some(true)),
            ("::/0", "1.2.3.4", Some(false)),
            ("::/0", "fd00::1", Some(true)),
            ("fd00::/8", "fd12::1", Some(true)),
            ("10.0.0.1", "10.0.0.1", Some(true)),
            ("10.0.0.0/33", "10.0.0.1", None),
            ("ten", "10.0.0.1", None),
        ] {
            let got = Subnet::parse(subnet).map(|subnet| subnet.contains(address.parse().unwrap()));
            assert_eq!(got, want, "{address} in {subnet}");
        }
    }
}
