//! Packets: what their headers say, what becomes of a connection with them, and how checksums follow. Pure: bytes come
//! through [`Bytes`], which is a packet in the kernel and a slice in tests.

pub mod checksum;
pub mod flow;
mod parse;
pub mod reply;

pub use parse::{Fragment, Kind, Packet, inner, parse};

/// Something with bytes in it.
pub trait Bytes {
    /// `N` bytes from `at` on; `None` past the end.
    fn load<const N: usize>(&self, at: u32) -> Option<[u8; N]>;

    /// The same for headers that nearly every packet has: quicker, where that costs the verifier more.
    #[inline(always)]
    fn peek<const N: usize>(&self, at: u32) -> Option<[u8; N]> {
        self.load(at)
    }
}

impl Bytes for [u8] {
    fn load<const N: usize>(&self, at: u32) -> Option<[u8; N]> {
        self.get(at as usize..)?.first_chunk().copied()
    }
}

/// Protocol number of ICMP.
pub const ICMP: u8 = 1;
/// Protocol number of ICMPv6.
pub const ICMPV6: u8 = 58;

/// `EtherType` of IPv4.
pub const ETHERTYPE_IPV4: u16 = 0x0800;
/// `EtherType` of IPv6.
pub const ETHERTYPE_IPV6: u16 = 0x86dd;
/// Bytes of an Ethernet header.
pub const ETHERNET: u32 = 14;
