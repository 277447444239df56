//! Rows that metrics tell apart: so many, and who is among them stays for as long as there is such a row.

use std::collections::{BTreeMap, BTreeSet};

use crate::metrics::RouteName;

/// The rows that were told of, and what stands for all others.
#[derive(Debug)]
pub struct Bounded<K> {
    told: BTreeSet<K>,
    others: K,
}

impl<K: Ord + Clone> Bounded<K> {
    /// None was told of.
    pub const fn new(others: K) -> Self {
        Self { told: BTreeSet::new(), others }
    }

    /// Counts together, by `add`, what there is no room for.
    pub fn bound<V: Default>(&mut self, sums: BTreeMap<K, V>, add: impl Fn(&mut V, &V)) -> BTreeMap<K, V> {
        self.told.retain(|name| sums.contains_key(name));
        let mut bounded = BTreeMap::new();
        for (name, counts) in sums {
            let is_one = self.told.contains(&name) || self.told.len() < RouteName::MOST;
            let name = if is_one { name } else { self.others.clone() };
            if name != self.others {
                self.told.insert(name.clone());
            }
            add(bounded.entry(name).or_default(), &counts);
        }
        bounded
    }
}
