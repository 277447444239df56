//! Contents on their way from a map of an earlier agent into one of the same entries and another capacity.

use std::{collections::HashMap as Table, hash::Hash, io, os::fd::AsFd as _, path::Path};

use anyhow::{Context as _, Result};
use aya::maps::{Array, HashMap, Map, MapData, MapError, MapInfo};
use bytemuck::must_cast;
use sluice_common::layout::{AffinityValue, CONFIG_POD_FLOWS, FlowValue};

use super::{now_ns, open};
use crate::{
    maps::{Pins, Shape},
    sys,
};

/// `BPF_NOEXIST`, `include/uapi/linux/bpf.h`.
const IF_ABSENT: u64 = 1;

/// Sizes of what is pinned at `path`; `None` if nothing is.
pub fn shape(path: &Path) -> Option<Shape> {
    let info = MapInfo::from_pin(path).ok()?;
    Some(Shape {
        id: info.id(),
        key_size: info.key_size(),
        value_size: info.value_size(),
        capacity: info.max_entries(),
    })
}

/// What programs remember by one map, being copied into the one that replaces it.
pub struct Memory {
    /// Its name.
    pub name: &'static str,
    pass: Box<dyn FnMut(bool) -> Result<u64> + Send>,
}

impl Memory {
    /// The maps that programs write and that hold what clients rely on.
    pub const NAMES: [&str; 3] = ["FLOWS", "UDP_REVNAT", "AFFINITY"];

    /// From the map pinned at `from` into the one of that name at `pins`; `None` of a name that is not among [`Self::NAMES`].
    ///
    /// # Errors
    /// Names the pin that cannot be opened.
    pub fn new(name: &'static str, from: &Path, pins: &Pins) -> Result<Option<Self>> {
        let (from, to) = (open(from)?, open(&pins.map(name))?);
        let pass = match name {
            "FLOWS" => {
                let used_ns = |bytes: &[u8; 80]| must_cast::<_, FlowValue>(*bytes).last_seen_ns;
                let mut pass = pass::<40, 80>(name, from, to, used_ns)?;
                let mut config: Array<MapData, u64> = Map::Array(open(&pins.map("CONFIG"))?).try_into()?;
                Box::new(move |in_use| {
                    // A sweep that met the new map empty may just be saying that pods' devices need not look.
                    config.set(CONFIG_POD_FLOWS, now_ns(), 0).context("cannot write to CONFIG")?;
                    pass(in_use)
                })
            }
            // Says nothing of when it was used.
            "UDP_REVNAT" => pass::<32, 24>(name, from, to, |_| 0)?,
            "AFFINITY" => {
                let used_ns = |bytes: &[u8; 16]| must_cast::<_, AffinityValue>(*bytes).last_used_ns;
                pass::<20, 16>(name, from, to, used_ns)?
            }
            _ => return Ok(None),
        };
        Ok(Some(Self { name, pass }))
    }

    /// Copies what is new since the last time. Once programs use the new map (`in_use`), what it has is newer: entries that
    /// it has stay, and those that it had and has no more are not brought back. Returns how many were copied.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn pass(&mut self, in_use: bool) -> Result<u64> {
        (self.pass)(in_use)
    }
}

type Pass = Box<dyn FnMut(bool) -> Result<u64> + Send>;

fn pass<const K: usize, const V: usize>(
    name: &'static str,
    from: MapData,
    to: MapData,
    used_ns: fn(&[u8; V]) -> u64,
) -> Result<Pass> {
    let capacity = to.info()?.max_entries() as usize;
    let mut to: HashMap<MapData, [u8; K], [u8; V]> = Map::LruHashMap(to).try_into()?;
    let mut copied: Table<[u8; K], [u8; V]> = Table::new();
    Ok(Box::new(move |in_use| {
        let entries = sys::entries::<[u8; K], [u8; V]>(from.fd().as_fd());
        let entries = entries.with_context(|| format!("cannot read the {name} of an earlier agent"))?;
        let mut count = 0;
        for (key, value) in due(fitting(entries, capacity, used_ns), &copied, in_use) {
            match to.insert(key, value, if in_use { IF_ABSENT } else { 0 }) {
                Err(MapError::SyscallError(error))
                    if error.io_error.kind() == io::ErrorKind::AlreadyExists => {}
                result => result.with_context(|| format!("cannot write to {name}"))?,
            }
            copied.insert(key, value);
            count += 1;
        }
        Ok(count)
    }))
}

/// The `capacity` of these that were used last, the oldest first: should the kernel need room, it takes those that came first.
fn fitting<K, V>(mut entries: Vec<(K, V)>, capacity: usize, used_ns: fn(&V) -> u64) -> Vec<(K, V)> {
    entries.sort_by_key(|(_, value)| used_ns(value));
    entries.split_off(entries.len().saturating_sub(capacity))
}

/// Those that were not copied yet, or, while the new map is nobody's, not as they are now.
fn due<K: Eq + Hash, V: PartialEq>(entries: Vec<(K, V)>, copied: &Table<K, V>, in_use: bool) -> Vec<(K, V)> {
    let is_due = |(key, value): &(K, V)| copied.get(key).is_none_or(|before| !in_use && before != value);
    entries.into_iter().filter(is_due).collect()
}

/// Entries of a hash map, or of an array those that are not zero.
struct Whole<K, const V: usize> {
    name: &'static str,
    entries: Vec<(K, [u8; V])>,
}

impl<K: bytemuck::Pod, const V: usize> Whole<K, V> {
    fn read(name: &'static str, from: &Pins) -> Result<Self> {
        let entries = sys::entries::<K, [u8; V]>(open(&from.map(name))?.fd().as_fd());
        let mut entries = entries.with_context(|| format!("cannot read the {name} of an earlier agent"))?;
        entries.retain(|(_, value)| *value != [0; V]);
        Ok(Self { name, entries })
    }
}

impl<const V: usize> Whole<u32, V> {
    fn fits_array(&self, to: &Pins) -> bool {
        let capacity = shape(&to.map(self.name)).map_or(0, |shape| shape.capacity);
        self.entries.iter().all(|(index, _)| *index < capacity)
    }

    fn write_array(self, to: &Pins) -> Result<()> {
        let mut map: Array<MapData, [u8; V]> = Map::Array(open(&to.map(self.name))?).try_into()?;
        let mut entries = self.entries.into_iter();
        let written = entries.try_for_each(|(index, value)| map.set(index, value, 0));
        written.with_context(|| format!("cannot write to {}", self.name))
    }
}

impl<K: aya::Pod, const V: usize> Whole<K, V> {
    fn fits_hash(&self, to: &Pins) -> bool {
        shape(&to.map(self.name)).is_some_and(|shape| self.entries.len() <= shape.capacity as usize)
    }

    fn write_hash(self, to: &Pins) -> Result<()> {
        let mut map: HashMap<MapData, K, [u8; V]> = Map::HashMap(open(&to.map(self.name))?).try_into()?;
        let mut entries = self.entries.into_iter();
        let written = entries.try_for_each(|(key, value)| map.insert(key, value, 0));
        written.with_context(|| format!("cannot write to {}", self.name))
    }
}

/// Copies what an agent keeps of Services from the maps pinned at `from` into the empty ones at `to`, so that all ids stay
/// what they were. False, and nothing is written, if it does not fit.
///
/// # Errors
/// The kernel refuses; some may be written.
pub fn copy_services(from: &Pins, to: &Pins) -> Result<bool> {
    let backends = Whole::<u32, 24>::read("BACKENDS", from)?;
    let slots = Whole::<u32, 16>::read("SLOTS", from)?;
    let nodes = Whole::<u32, 128>::read("NODES", from)?;
    let services = Whole::<u32, 224>::read("SERVICES", from)?;
    let frontends = Whole::<[u8; 20], 32>::read("FRONTENDS", from)?;
    let fits = backends.fits_array(to)
        && slots.fits_array(to)
        && nodes.fits_hash(to)
        && services.fits_hash(to)
        && frontends.fits_hash(to);
    if fits {
        nodes.write_hash(to)?;
        backends.write_array(to)?;
        slots.write_array(to)?;
        services.write_hash(to)?;
        frontends.write_hash(to)?;
    }
    Ok(fits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_are_left_behind_and_what_is_newest_comes_last() {
        let entries = vec![("c", 30), ("a", 10), ("d", 40), ("b", 20)];
        for (capacity, want) in [
            (0, vec![]),
            (1, vec![("d", 40)]),
            (3, vec![("b", 20), ("c", 30), ("d", 40)]),
            (9, vec![("a", 10), ("b", 20), ("c", 30), ("d", 40)]),
        ] {
            assert_eq!(fitting(entries.clone(), capacity, |age| *age), want, "{capacity}");
        }
    }

    #[test]
    fn what_changed_is_copied_again_only_while_nobody_uses_the_new_map() {
        let copied: Table<&str, u64> = [("same", 1), ("changed", 1)].into();
        let now = vec![("same", 1), ("changed", 2), ("new", 1)];
        assert_eq!(due(now.clone(), &copied, false), [("changed", 2), ("new", 1)]);
        assert_eq!(due(now, &copied, true), [("new", 1)]);
    }
}
