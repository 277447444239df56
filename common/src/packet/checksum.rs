//! The Internet checksum, changed in step with what it covers (RFC 1624).

use crate::Addr;

/// A sum of 16-bit words, not folded yet; the same whatever the byte order (RFC 1071 §2).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Difference(u32);

impl Difference {
    /// No change.
    pub const NONE: Self = Self(0);

    /// After `old` gave way to `new`, both network byte order.
    #[inline(always)]
    pub const fn word(self, old: u32, new: u32) -> Self {
        self.add(!old).add(new)
    }

    /// After an address gave way to another of its family, as far as the header shows it.
    #[inline(always)]
    pub const fn address(self, old: &Addr, new: &Addr, is_v6: bool) -> Self {
        let last = self.word(old.words_be[3], new.words_be[3]);
        if !is_v6 {
            return last;
        }
        last.word(old.words_be[0], new.words_be[0])
            .word(old.words_be[1], new.words_be[1])
            .word(old.words_be[2], new.words_be[2])
    }

    /// After the pair of ports gave way to another, network byte order.
    #[inline(always)]
    pub const fn ports(self, old: (u16, u16), new: (u16, u16)) -> Self {
        self.word(pair(old), pair(new))
    }

    /// Both changes.
    #[inline(always)]
    pub const fn and(self, other: Self) -> Self {
        self.add(other.0)
    }

    /// As the kernel's `__wsum`.
    #[inline(always)]
    pub const fn sum(self) -> u32 {
        self.0
    }

    #[inline(always)]
    const fn add(self, word: u32) -> Self {
        let (sum, carry) = self.0.overflowing_add(word);
        Self(sum.wrapping_add(carry as u32))
    }

    /// What the checksum field `old` (network byte order) becomes.
    #[inline(always)]
    pub const fn apply(self, old_be: u16) -> u16 {
        !fold(Self(!old_be as u32 & 0xffff).add(self.0).0)
    }
}

#[inline(always)]
const fn pair((first, second): (u16, u16)) -> u32 {
    // In memory the first comes first; which half of the word that is makes no difference to the sum's halves, as long
    // as old and new agree.
    (first as u32) | (second as u32) << 16
}

/// The two halves of a sum added up.
#[inline(always)]
pub const fn fold(sum: u32) -> u16 {
    let once = (sum & 0xffff) + (sum >> 16);
    ((once & 0xffff) + (once >> 16)) as u16
}

/// The sum of `bytes`, taken as 16-bit words in memory order, behind `start`.
#[inline(always)]
pub fn sum<const N: usize>(start: u32, bytes: &[u8; N]) -> u32 {
    let mut sum = start;
    let mut at = 0;
    while at + 1 < N {
        sum += u32::from(u16::from_ne_bytes([bytes[at], bytes[at + 1]]));
        at += 2;
    }
    if at < N {
        sum += u32::from(u16::from_ne_bytes([bytes[at], 0]));
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full(bytes: &[u8]) -> u16 {
        let words =
            bytes.chunks(2).map(|pair| u32::from(u16::from_ne_bytes([pair[0], *pair.get(1).unwrap_or(&0)])));
        let mut sum: u32 = words.sum();
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        !(sum as u16)
    }

    #[test]
    fn a_changed_sum_equals_one_made_anew() {
        let mut state = 7_u32;
        for round in 0..20_000 {
            let mut bytes = [0_u8; 24];
            for byte in &mut bytes {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                *byte = (state >> 24) as u8;
            }
            let before = full(&bytes);
            let old: [u8; 4] = bytes[8..12].try_into().unwrap();
            let new = state.to_ne_bytes();
            bytes[8..12].copy_from_slice(&new);
            let difference = Difference::NONE.word(u32::from_ne_bytes(old), u32::from_ne_bytes(new));
            let (changed, anew) = (difference.apply(before), full(&bytes));
            // 0 and 0xffff are the same sum.
            assert!(changed == anew || changed ^ anew == 0xffff, "round {round}");
        }
    }

    #[test]
    fn the_sum_of_bytes_is_that_of_their_words() {
        assert_eq!(!fold(sum(0, &[0x45, 0, 0, 0x54, 0xab])), full(&[0x45, 0, 0, 0x54, 0xab]));
        assert_eq!(!fold(sum(0, &[0xff; 20])), full(&[0xff; 20]));
    }
}
