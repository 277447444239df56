//! The header that tells an endpoint who its client is and what was dialled, before anything else on a connection. Pure.
//!
//! Source: <https://www.haproxy.org/download/2.9/doc/proxy-protocol.txt>

use std::net::{IpAddr, SocketAddr};

use crate::l7::rules::ProxyProtocolVersion;

/// What version 2 begins with.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// Version 2, of a connection that is made for somebody else.
const VERSION_2_PROXY: u8 = 0x21;
const TCP_V4: u8 = 0x11;
const TCP_V6: u8 = 0x21;

/// Both ends of a client's connection: which header an endpoint gets, and which connections to it may be shared.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Ends {
    /// The client.
    pub client: SocketAddr,
    /// What it dialled.
    pub dialled: SocketAddr,
}

/// The header of `version` for a connection with these ends.
pub fn header(version: ProxyProtocolVersion, ends: &Ends) -> Vec<u8> {
    let (from, to) = (ends.client, ends.dialled);
    match version {
        ProxyProtocolVersion::V1 => {
            let family = if from.is_ipv4() { "TCP4" } else { "TCP6" };
            format!("PROXY {family} {} {} {} {}\r\n", from.ip(), to.ip(), from.port(), to.port()).into_bytes()
        }
        ProxyProtocolVersion::V2 => {
            let mut addresses = [octets(from.ip()), octets(to.ip())].concat();
            addresses.extend([from.port(), to.port()].map(u16::to_be_bytes).concat());
            let family = if from.is_ipv4() { TCP_V4 } else { TCP_V6 };
            let mut header = SIGNATURE.to_vec();
            header.extend([VERSION_2_PROXY, family, 0, addresses.len() as u8]);
            header.extend(addresses);
            header
        }
    }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_as_the_specification_has_them() {
        let v4 = ("10.244.1.9:40000", "10.96.0.1:80");
        let v6 = ("[fd00::9]:40000", "[fd00:96::1]:80");
        let binary = |family: u8, addresses: &[u8]| {
            [b"\r\n\r\n\0\r\nQUIT\n\x21".as_slice(), &[family, 0, addresses.len() as u8], addresses].concat()
        };
        let ports = [0x9c, 0x40, 0, 80];
        let v6_addresses = [
            &[0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9][..],
            &[0xfd, 0, 0, 0x96, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1],
            &ports,
        ];
        for ((client, dialled), version, want) in [
            (v4, ProxyProtocolVersion::V1, b"PROXY TCP4 10.244.1.9 10.96.0.1 40000 80\r\n".to_vec()),
            (v6, ProxyProtocolVersion::V1, b"PROXY TCP6 fd00::9 fd00:96::1 40000 80\r\n".to_vec()),
            (
                v4,
                ProxyProtocolVersion::V2,
                binary(0x11, &[&[10, 244, 1, 9, 10, 96, 0, 1], &ports[..]].concat()),
            ),
            (v6, ProxyProtocolVersion::V2, binary(0x21, &v6_addresses.concat())),
        ] {
            let ends = Ends { client: client.parse().unwrap(), dialled: dialled.parse().unwrap() };
            assert_eq!(header(version, &ends), want, "{version:?} {client}");
        }
    }
}
