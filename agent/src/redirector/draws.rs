//! Random draws of one worker: fast, seeded, and good enough to spread load. Never for secrets.

use std::{
    cell::Cell,
    hash::{BuildHasher, RandomState},
};

/// A generator that counts and mixes.
#[derive(Debug)]
pub struct Draws(Cell<u64>);

impl Draws {
    /// From `seed`, or from somewhere else each time.
    pub fn new(seed: Option<u64>) -> Self {
        Self(Cell::new(seed.unwrap_or_else(|| RandomState::new().hash_one(0_u8))))
    }

    /// The next draw, uniform over all of `u32`.
    pub fn next(&self) -> u32 {
        // Any odd step visits all numbers; this one has its bits well spread.
        let state = self.0.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.0.set(state);
        (mix(state) >> 32) as u32
    }

    /// Sixteen bytes in base64: what a WebSocket client begins with. No secret: it only shows that the server understood.
    pub fn websocket_key(&self) -> String {
        const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let letter = || char::from(LETTERS[self.below(64)]);
        // The last letter stands for the two bits that are left.
        let last = ['A', 'Q', 'g', 'w'][self.below(4)];
        (0..21).map(|_| letter()).chain([last, '=', '=']).collect()
    }

    /// A draw below `limit`; 0 when there is nothing to choose from.
    pub fn below(&self, limit: usize) -> usize {
        let limit = u64::try_from(limit).unwrap_or(u64::MAX).min(u64::from(u32::MAX));
        ((u64::from(self.next()) * limit) >> 32) as usize
    }
}

/// Spreads every bit of `value` over all bits of the result.
pub const fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 31)).wrapping_mul(0x7fb5_d329_728e_a185);
    let value = (value ^ (value >> 27)).wrapping_mul(0x81da_def4_bc2d_d44d);
    value ^ (value >> 33)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_are_spread_evenly() {
        let draws = Draws::new(Some(7));
        let mut hits = [0_u32; 8];
        for _ in 0..8_000 {
            hits[draws.below(8)] += 1;
        }
        assert!(hits.iter().all(|hits| (850..1150).contains(hits)), "{hits:?}");
        assert_eq!(draws.below(0), 0);
    }

    #[test]
    fn the_same_seed_draws_the_same() {
        let (a, b) = (Draws::new(Some(1)), Draws::new(Some(1)));
        assert!((0..100).all(|_| a.next() == b.next()));
    }
}
