//! Addresses and ports as API objects may carry them: leading zeros and blanks, which `std::net` refuses.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

/// Reads an address as kube-proxy does: blanks around it, and decimal octets with leading zeros, are fine.
///
/// Source: kube-proxy `TestBadIPs`; Go's `netutils.ParseIPSloppy` (octets are decimal, never octal).
pub fn parse_ip(text: &str) -> Option<IpAddr> {
    let text = text.trim();
    let (head, tail) = match text.rfind(':') {
        Some(colon) if text[colon + 1..].contains('.') => text.split_at(colon + 1),
        Some(_) => return text.parse::<Ipv6Addr>().ok().map(canonical),
        None => ("", text),
    };
    let v4 = parse_v4(tail)?;
    if head.is_empty() {
        return Some(IpAddr::V4(v4));
    }
    format!("{head}{v4}").parse::<Ipv6Addr>().ok().map(canonical)
}

/// Reads a network as kube-proxy does; the bits behind the prefix need not be zero.
pub fn parse_network(text: &str) -> Option<IpNet> {
    let (address, length) = text.trim().split_once('/')?;
    let length = length.trim_start_matches('0');
    let length = if length.is_empty() { 0 } else { length.parse().ok()? };
    IpNet::new(parse_ip(address)?, length).ok().map(|network| network.trunc())
}

/// An IPv4-mapped address is the IPv4 address, as in Go's `net.IP`.
const fn canonical(address: Ipv6Addr) -> IpAddr {
    match address.to_ipv4_mapped() {
        Some(v4) => IpAddr::V4(v4),
        None => IpAddr::V6(address),
    }
}

fn parse_v4(text: &str) -> Option<Ipv4Addr> {
    let mut octets = [0; 4];
    let mut parts = text.split('.');
    for octet in &mut octets {
        let part = parts.next()?;
        if part.is_empty() || !part.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        *octet = part
            .trim_start_matches('0')
            .parse()
            .or_else(|error| if part.bytes().all(|byte| byte == b'0') { Ok(0) } else { Err(error) })
            .ok()?;
    }
    parts.next().is_none().then(|| octets.into())
}

/// A port that can be dialled: 1 to 65535.
pub fn parse_port(number: i32) -> Option<u16> {
    u16::try_from(number).ok().filter(|port| *port != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_as_kube_proxy_reads_them() {
        for (text, want) in [
            ("10.96.0.1", Some("10.96.0.1")),
            ("172.30.0.041", Some("172.30.0.41")),
            ("1.2.3.004", Some("1.2.3.4")),
            (" 203.0.113.000 ", Some("203.0.113.0")),
            ("010.000.000.001", Some("10.0.0.1")),
            ("10.0.0.256", None),
            ("10.0.0", None),
            ("10.0.0.1.2", None),
            ("10.0.0.+1", None),
            ("", None),
            ("None", None),
            ("fd00::1", Some("fd00::1")),
            ("FD00:0:0::0001", Some("fd00::1")),
            ("::ffff:10.0.0.07", Some("10.0.0.7")),
            ("fd00::1%eth0", None),
            ("::1:2:3:4:5:6:7:8", None),
            ("ünïcode:1.2.3.4", None),
        ] {
            assert_eq!(parse_ip(text), want.map(|want| want.parse().unwrap()), "{text:?}");
        }
    }

    #[test]
    fn ports_are_those_that_can_be_dialled() {
        for (number, want) in [(-1, None), (0, None), (1, Some(1)), (65_535, Some(65_535)), (65_536, None)] {
            assert_eq!(parse_port(number), want, "{number}");
        }
    }
}
