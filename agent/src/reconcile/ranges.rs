//! Numbers and contiguous ranges of numbers, with a rest between two users.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::GRACE_NS;

/// `count` numbers from `start`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Range {
    pub start: u32,
    pub count: u32,
}

impl Range {
    pub const fn end(self) -> u64 {
        self.start as u64 + self.count as u64
    }
}

/// Allocator of ranges of `1..capacity` (0 is never handed out): of the free ones the shortest that is long enough.
#[derive(Debug)]
pub struct Ranges {
    /// Free ranges: start → end; never adjacent.
    free: BTreeMap<u32, u32>,
    /// The same: length and start.
    by_length: BTreeSet<(u32, u32)>,
    resting: VecDeque<(u64, Range)>,
    capacity: u32,
}

impl Ranges {
    pub fn new(capacity: u32) -> Self {
        let (free, by_length) = (BTreeMap::new(), BTreeSet::new());
        let mut ranges = Self { free, by_length, resting: VecDeque::new(), capacity };
        if capacity > 1 {
            ranges.put(1, capacity);
        }
        ranges
    }

    fn put(&mut self, start: u32, end: u32) {
        self.free.insert(start, end);
        self.by_length.insert((end - start, start));
    }

    /// Takes out the free range that begins there; its end.
    fn take(&mut self, start: u32) -> Option<u32> {
        let end = self.free.remove(&start)?;
        self.by_length.remove(&(end - start, start));
        Some(end)
    }

    pub const fn capacity(&self) -> u32 {
        self.capacity
    }

    /// How many numbers are free.
    pub fn free(&self) -> u32 {
        self.free.iter().map(|(start, end)| end - start).sum()
    }

    /// Whether so many in a row are free.
    pub fn fits(&self, count: u32) -> bool {
        self.by_length.last().map_or(0, |(length, _)| *length) >= count
    }

    /// A free range; the empty range for a count of 0.
    pub fn allocate(&mut self, count: u32) -> Option<Range> {
        if count == 0 {
            return Some(Range::default());
        }
        let (_, start) = self.by_length.range((count, 0)..).next().copied()?;
        let end = self.take(start)?;
        if start + count < end {
            self.put(start + count, end);
        }
        Some(Range { start, count })
    }

    /// Takes a particular range out of what is free. False if it is not all free: then nothing changes.
    pub fn reserve(&mut self, range: Range) -> bool {
        if range.count == 0 {
            return true;
        }
        let Some((start, end)) = self.free.range(..=range.start).next_back().map(|(s, e)| (*s, *e)) else {
            return false;
        };
        if range.end() > u64::from(end) {
            return false;
        }
        self.take(start);
        if start < range.start {
            self.put(start, range.start);
        }
        if range.start + range.count < end {
            self.put(range.start + range.count, end);
        }
        true
    }

    /// Gives a range back that no reader can know of.
    pub fn release(&mut self, range: Range) {
        if range.count == 0 {
            return;
        }
        let (mut start, mut end) = (range.start, range.start + range.count);
        if let Some((left, left_end)) = self.free.range(..start).next_back().map(|(s, e)| (*s, *e))
            && left_end == start
        {
            self.take(left);
            start = left;
        }
        if let Some(right_end) = self.take(end) {
            end = right_end;
        }
        self.put(start, end);
    }

    /// Gives a range back after a rest.
    pub fn rest(&mut self, range: Range, now_ns: u64) {
        if range.count > 0 {
            self.resting.push_back((now_ns, range));
        }
    }

    pub fn release_expired(&mut self, now_ns: u64) {
        while let Some((since_ns, range)) = self.resting.front().copied() {
            if now_ns.saturating_sub(since_ns) < GRACE_NS {
                break;
            }
            self.resting.pop_front();
            self.release(range);
        }
    }

    pub fn is_resting(&self) -> bool {
        !self.resting.is_empty()
    }
}

/// Single numbers, in the same way.
#[derive(Debug)]
pub struct Ids(Ranges);

impl Ids {
    pub fn new(capacity: u32) -> Self {
        // The ids are hash keys: `capacity` of them, from 1.
        Self(Ranges::new(capacity.saturating_add(1)))
    }

    pub fn allocate(&mut self) -> Option<u32> {
        self.0.allocate(1).map(|range| range.start)
    }

    pub fn reserve(&mut self, id: u32) -> bool {
        self.0.reserve(Range { start: id, count: 1 })
    }

    pub fn rest(&mut self, id: u32, now_ns: u64) {
        self.0.rest(Range { start: id, count: 1 }, now_ns);
    }

    pub fn release(&mut self, id: u32) {
        self.0.release(Range { start: id, count: 1 });
    }

    pub fn release_expired(&mut self, now_ns: u64) {
        self.0.release_expired(now_ns);
    }

    pub fn is_resting(&self) -> bool {
        self.0.is_resting()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shortest_range_that_is_long_enough_is_taken() {
        let mut ranges = Ranges::new(100);
        let taken: Vec<Range> = [5, 1, 3, 1, 4, 1].map(|count| ranges.allocate(count).unwrap()).into();
        for index in [0, 2, 4] {
            ranges.release(taken[index]);
        }
        for (count, from) in [(4, taken[4].start), (2, taken[2].start), (1, taken[2].start + 2), (6, 16)] {
            assert_eq!(ranges.allocate(count), Some(Range { start: from, count }), "{count}");
        }
        assert!(ranges.fits(78) && !ranges.fits(79), "{ranges:?}");
        assert_eq!(ranges.free(), 83);
    }

    #[test]
    fn ranges_are_reused_whole_after_their_rest() {
        let mut ranges = Ranges::new(11);
        let (a, b) = (ranges.allocate(4).unwrap(), ranges.allocate(6).unwrap());
        assert_eq!((a.start, b.start), (1, 5));
        assert_eq!(ranges.allocate(1), None, "full");
        ranges.rest(a, 0);
        ranges.rest(b, 5);
        ranges.release_expired(GRACE_NS - 1);
        assert_eq!(ranges.allocate(1), None, "a rests");
        ranges.release_expired(GRACE_NS + 5);
        assert_eq!(ranges.allocate(10), Some(Range { start: 1, count: 10 }), "neighbours join");
    }

    #[test]
    fn reserving_takes_what_is_free_and_nothing_else() {
        let mut ranges = Ranges::new(20);
        for (start, count, want) in [
            (5, 5, true),
            (9, 2, false),
            (10, 10, true),
            (1, 4, true),
            (1, 1, false),
            (19, 5, false),
            (0, 1, false),
        ] {
            assert_eq!(ranges.reserve(Range { start, count }), want, "{start}+{count}");
        }
        assert!(
            !Ranges::new(20).reserve(Range { start: u32::MAX, count: u32::MAX }),
            "damaged maps do not panic"
        );
    }
}
