//! One id for each distinct value, for as long as somebody refers to it and a little longer.

use std::{
    collections::{HashMap, VecDeque},
    hash::Hash,
};

use super::{GRACE_NS, ranges::Ids};

/// Ids of values, counted references, and a rest before an id gets another value.
#[derive(Debug)]
pub struct Interner<V> {
    by_value: HashMap<V, u32>,
    by_id: HashMap<u32, (V, u32)>,
    resting: VecDeque<(u64, u32)>,
    ids: Ids,
    capacity: u32,
}

impl<V: Copy + Eq + Hash> Interner<V> {
    pub fn new(capacity: u32) -> Self {
        Self {
            by_value: HashMap::new(),
            by_id: HashMap::new(),
            resting: VecDeque::new(),
            ids: Ids::new(capacity),
            capacity,
        }
    }

    pub const fn capacity(&self) -> u32 {
        self.capacity
    }

    /// The id of `value`, without a reference to it yet; `None` when all are taken.
    pub fn id_of(&mut self, value: V) -> Option<u32> {
        if let Some(id) = self.by_value.get(&value) {
            return Some(*id);
        }
        let id = self.ids.allocate()?;
        self.by_value.insert(value, id);
        self.by_id.insert(id, (value, 0));
        Some(id)
    }

    /// Takes over an id from the maps. False if the id or the value is taken already, or out of range.
    pub fn adopt(&mut self, id: u32, value: V) -> bool {
        if self.by_value.contains_key(&value) || !self.ids.reserve(id) {
            return false;
        }
        self.by_value.insert(value, id);
        self.by_id.insert(id, (value, 0));
        true
    }

    pub fn has(&self, id: u32) -> bool {
        self.by_id.contains_key(&id)
    }

    pub fn refer(&mut self, id: u32) {
        if let Some((_, references)) = self.by_id.get_mut(&id) {
            *references += 1;
        }
    }

    /// Takes one reference back; true if it was the last.
    pub fn unrefer(&mut self, id: u32, now_ns: u64) -> bool {
        let Some((_, references)) = self.by_id.get_mut(&id) else { return false };
        *references = references.saturating_sub(1);
        if *references == 0 {
            self.resting.push_back((now_ns, id));
        }
        *references == 0
    }

    /// Whether nobody refers to `id`.
    pub fn is_unreferred(&self, id: u32) -> bool {
        self.by_id.get(&id).is_none_or(|(_, references)| *references == 0)
    }

    /// Lets every id rest that nobody refers to.
    pub fn rest_unreferred(&mut self, now_ns: u64) {
        let unused = self.by_id.iter().filter(|(_, (_, references))| *references == 0);
        let mut unused: Vec<u32> = unused.map(|(id, _)| *id).collect();
        unused.sort_unstable();
        self.resting.extend(unused.into_iter().map(|id| (now_ns, id)));
    }

    /// The ids whose rest is over and that are still unused. Call [`Self::free`] once they are out of the maps.
    pub fn expired(&mut self, now_ns: u64) -> Vec<u32> {
        let over = |since_ns: u64| now_ns.saturating_sub(since_ns) >= GRACE_NS;
        let referred = |id: &u32| self.by_id.get(id).is_none_or(|(_, references)| *references > 0);
        self.resting.retain(|(_, id)| !referred(id));
        let mut ids: Vec<u32> =
            self.resting.iter().take_while(|(since_ns, _)| over(*since_ns)).map(|(_, id)| *id).collect();
        ids.sort_unstable();
        ids.dedup();
        ids
    }

    pub fn free(&mut self, id: u32) {
        if let Some((value, _)) = self.by_id.remove(&id) {
            self.by_value.remove(&value);
            self.ids.release(id);
        }
    }

    pub fn is_resting(&self) -> bool {
        !self.resting.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_keeps_its_value_until_it_rested_unused() {
        let mut interner = Interner::new(2);
        let a = interner.id_of('a').unwrap();
        interner.refer(a);
        assert_eq!(interner.id_of('a'), Some(a));
        let b = interner.id_of('b').unwrap();
        interner.refer(b);
        assert_eq!(interner.id_of('c'), None, "full");
        interner.unrefer(a, 0);
        assert!(interner.expired(GRACE_NS - 1).is_empty(), "too early");
        assert_eq!(interner.expired(GRACE_NS), vec![a]);
        interner.refer(interner.by_value[&'a']);
        assert!(interner.expired(GRACE_NS * 9).is_empty(), "in use again");
        interner.unrefer(a, GRACE_NS * 9);
        interner.expired(GRACE_NS * 10);
        interner.free(a);
        assert_eq!(interner.id_of('c'), Some(a), "a new value in the free id");
    }
}
