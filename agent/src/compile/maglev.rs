//! Maglev tables: which endpoint stands where in a range, so that every node says the same of a client, each endpoint gets its
//! share, and few clients go elsewhere when an endpoint comes or goes.
//!
//! Source: Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load Balancer", NSDI 2016, §3.4.

use std::net::SocketAddr;

use sluice_common::{Addr, choose};

/// Sizes of tables, all prime: a hundred places for each endpoint as long as there are such. Few sizes, for another size is
/// another table: almost every client goes elsewhere.
const SIZES: [u32; 3] = [1_021, 4_093, 16_381];
/// More endpoints than this get shares that differ by more than an eighth: they are chosen by chance.
pub const MOST_ENDPOINTS: usize = 2_000;

/// How many places a table for so many endpoints has; `None` when they are too many. One endpoint needs no choice.
pub fn size(endpoints: usize) -> Option<u32> {
    match endpoints {
        0 | 1 => Some(endpoints as u32),
        2..=MOST_ENDPOINTS => {
            let largest = SIZES[SIZES.len() - 1];
            Some(SIZES.into_iter().find(|size| *size as usize >= endpoints * 100).unwrap_or(largest))
        }
        _ => None,
    }
}

/// Which of `ends` stands where: indices, as many as [`size`] says. Hangs on the ends alone, not on their order: that of
/// equal sets in another order names the same ends at the same places. `None` when they are too many.
pub fn table(ends: &[SocketAddr]) -> Option<Vec<usize>> {
    let size = size(ends.len())?;
    let mut turns: Vec<Turns> =
        ends.iter().enumerate().map(|(index, end)| Turns::of(index, *end, size)).collect();
    // Who comes first takes what two want.
    turns.sort_by_key(|turn| ends[turn.index]);
    let mut places: Vec<Option<usize>> = vec![None; size as usize];
    let mut left = places.len();
    while left > 0 {
        for turn in turns.iter_mut().take(left) {
            turn.take(&mut places);
        }
        left -= left.min(ends.len());
    }
    places.into_iter().collect()
}

/// An endpoint's own order of all places.
struct Turns {
    index: usize,
    next: u32,
    skip: u32,
    size: u32,
}

impl Turns {
    fn of(index: usize, end: SocketAddr, size: u32) -> Self {
        let Addr { words_be: [a, b, c, d] } = Addr::from(end.ip());
        let pair = |high: u32, low: u32| u64::from(u32::from_be(high)) << 32 | u64::from(u32::from_be(low));
        let hash = choose::mix(choose::mix(choose::mix(pair(a, b)) ^ pair(c, d)) ^ u64::from(end.port()));
        let (offset, skip) = ((hash >> 32) as u32, hash as u32);
        let skip = if size > 1 { skip % (size - 1) + 1 } else { 0 };
        Self { index, next: offset % size, skip, size }
    }

    /// Takes the first place of its own order that is free; one must be.
    fn take(&mut self, places: &mut [Option<usize>]) {
        loop {
            let place = &mut places[self.next as usize];
            self.next = (self.next + self.skip) % self.size;
            if place.is_none() {
                *place = Some(self.index);
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ends(count: u32) -> Vec<SocketAddr> {
        let end = |number: u32| SocketAddr::new([10, 244, (number >> 8) as u8, number as u8].into(), 8080);
        (0..count).map(end).collect()
    }

    /// Whose each place is.
    fn owners(ends: &[SocketAddr]) -> Vec<SocketAddr> {
        table(ends).unwrap().into_iter().map(|index| ends[index]).collect()
    }

    #[test]
    fn everybody_gets_an_even_share() {
        for (count, size) in
            [(1, 1), (2, 1_021), (10, 1_021), (11, 4_093), (41, 16_381), (163, 16_381), (2_000, 16_381)]
        {
            let ends = ends(count);
            let owners = owners(&ends);
            assert_eq!(owners.len(), size, "{count}");
            let shares = ends.iter().map(|end| owners.iter().filter(|owner| *owner == end).count());
            let (least, most) = shares.fold((usize::MAX, 0), |(least, most), n| (least.min(n), most.max(n)));
            assert!(least > 0 && most - least <= 1, "{count}: {least} to {most}");
        }
        assert_eq!(table(&[]), Some(Vec::new()));
        assert_eq!(table(&ends(2_001)), None);
    }

    #[test]
    fn the_order_of_endpoints_makes_no_difference() {
        let mut ends = ends(37);
        let before = owners(&ends);
        ends.reverse();
        assert_eq!(owners(&ends), before);
        ends.rotate_left(11);
        assert_eq!(owners(&ends), before);
    }

    #[test]
    fn few_places_change_hands_when_an_endpoint_goes() {
        for count in [3, 7, 10, 25, 40, 100, 163, 500] {
            let all = ends(count);
            let before = owners(&all);
            for gone in [0, count as usize / 2, count as usize - 1] {
                let mut left = all.clone();
                let gone = left.remove(gone);
                let after = owners(&left);
                let moved =
                    before.iter().zip(&after).filter(|(old, new)| **old != gone && old != new).count();
                // Those whom it served must go; of the others, one in thirty at the most.
                assert!(moved * 30 <= before.len(), "{count} without {gone}: {moved} of {}", before.len());
            }
        }
    }
}
