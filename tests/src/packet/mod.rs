//! Packets for tests: built from what they are to say, and read again. Written from the RFCs, without the code under test.

use std::net::{IpAddr, SocketAddr};

mod build;
mod checksum;
mod mutate;
mod read;

pub use build::{Carried, Packet, icmp_error, on_wire};
pub use checksum::{ones, residue};
pub use mutate::mutate;
pub use read::{Ends, Head, read, read_quoted, verify};

/// IANA protocol numbers.
pub const ICMP: u8 = 1;
/// See [`ICMP`].
pub const TCP: u8 = 6;
/// See [`ICMP`].
pub const UDP: u8 = 17;
/// See [`ICMP`].
pub const ICMPV6: u8 = 58;
/// See [`ICMP`].
pub const SCTP: u8 = 132;
/// See [`ICMP`]; extension headers of IPv6.
pub const HOP_BY_HOP: u8 = 0;
/// See [`HOP_BY_HOP`].
pub const ROUTING: u8 = 43;
/// See [`HOP_BY_HOP`].
pub const FRAGMENT: u8 = 44;
/// See [`HOP_BY_HOP`].
pub const DESTINATION: u8 = 60;

/// Bytes of an Ethernet header.
pub const ETHERNET: usize = 14;

/// TCP flags.
pub const FIN: u8 = 1;
/// See [`FIN`].
pub const SYN: u8 = 2;
/// See [`FIN`].
pub const RST: u8 = 4;
/// See [`FIN`].
pub const ACK: u8 = 16;

/// An address and a port from text.
///
/// # Panics
/// It is neither.
pub fn at(text: &str) -> SocketAddr {
    text.parse().unwrap_or_else(|_| panic!("{text} is no address with a port"))
}

/// The protocol number of ICMP of the family of `address`.
pub const fn icmp_of(address: IpAddr) -> u8 {
    if address.is_ipv6() { ICMPV6 } else { ICMP }
}

#[cfg(test)]
mod tests;
