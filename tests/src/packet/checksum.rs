//! The Internet checksum in full (RFC 1071), never in part: slow and plain, to check code that is neither.

use std::net::IpAddr;

/// The sum of `bytes` as big-endian words, carries added at the end; an odd last byte stands first in its word.
fn sum(bytes: &[u8]) -> u64 {
    bytes.chunks(2).map(|pair| u64::from(pair[0]) * 256 + pair.get(1).map_or(0, |low| u64::from(*low))).sum()
}

fn folded(sum: u64) -> u16 {
    // 2^16 ≡ 1 modulo 2^16 - 1; the zero of that arithmetic shows as 0xffff unless all was zero.
    if sum == 0 { 0 } else { ((sum - 1) % 0xffff + 1) as u16 }
}

/// The checksum of `bytes`.
pub fn ones(bytes: &[u8]) -> u16 {
    !folded(sum(bytes))
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

/// The checksum of `body` behind the pseudo header of these addresses (RFC 9293 §3.1, RFC 8200 §8.1).
pub fn behind_pseudo(src: IpAddr, dst: IpAddr, protocol: u8, body: &[u8]) -> u16 {
    !folded(pseudo(src, dst, protocol, body.len()) + sum(body))
}

fn pseudo(src: IpAddr, dst: IpAddr, protocol: u8, length: usize) -> u64 {
    sum(&octets(src)) + sum(&octets(dst)) + u64::from(protocol) + length as u64
}

/// What all words that a checksum covers, itself included, add up to: 0xffff if the checksum is right. `pseudo` is what
/// the pseudo header has besides lengths, where there is one.
pub fn residue(ends: Option<(IpAddr, IpAddr, u8)>, body: &[u8]) -> u16 {
    let before = ends.map_or(0, |(src, dst, protocol)| pseudo(src, dst, protocol, body.len()));
    folded(before + sum(body))
}

/// CRC-32C (RFC 9260 appendix A), bit by bit.
pub fn crc32c(bytes: &[u8]) -> u32 {
    let step = |crc: u32, _: u32| (crc >> 1) ^ (if crc & 1 == 1 { 0x82f6_3b78 } else { 0 });
    !bytes.iter().fold(u32::MAX, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), step))
}
