//! What `/metrics` tells of each Service port, where somebody wants it (`--service-metrics`): connections through packets, and
//! bytes of sockets.

use std::collections::{BTreeMap, HashMap};

use anyhow::Result;

use crate::maps::bpf::{BpfMaps, ServiceBytes};

/// Namespace, name and port name.
pub type Name = [String; 3];

/// What is told of each.
#[derive(Default)]
pub struct Services {
    bytes: Option<ServiceBytes>,
    ledger: Ledger,
}

/// Whose bytes were counted so far.
#[derive(Clone, Default)]
struct Ledger {
    /// Whose the ids were when they were last looked at.
    known: BTreeMap<u32, Name>,
    /// What ids counted that are gone, of ports that have another one: the other IP family's.
    ended: BTreeMap<Name, [u64; 2]>,
}

impl Services {
    /// Nothing was looked at yet.
    pub fn new(bytes: Option<ServiceBytes>) -> Self {
        Self { bytes, ledger: Ledger::default() }
    }

    /// Connections of `counts`, by id, both families together; none where nobody wants them.
    pub fn connections(&self, maps: &BpfMaps, counts: HashMap<u32, u64>) -> BTreeMap<Name, u64> {
        let mut sums = BTreeMap::new();
        for (id, count) in counts.into_iter().filter(|_| self.bytes.is_some()) {
            // Of a Service that is gone nobody asks any more.
            if let Some(name) = name(maps, id) {
                *sums.entry(name).or_default() += count;
            }
        }
        sums
    }

    /// Bytes sent and received, both families together, also that of one that is gone by now. What a Service had that is gone
    /// is forgotten, for another one may get its id.
    pub fn bytes(&mut self, maps: &BpfMaps) -> BTreeMap<Name, [u64; 2]> {
        self.read_bytes(maps).unwrap_or_else(|error| {
            tracing::warn!("bytes of Services are not told: {error:#}");
            BTreeMap::new()
        })
    }

    fn read_bytes(&mut self, maps: &BpfMaps) -> Result<BTreeMap<Name, [u64; 2]>> {
        let Some(bytes) = &mut self.bytes else { return Ok(BTreeMap::new()) };
        let counted = bytes.all()?.into_iter().map(|(id, counts)| (id, counts, name(maps, id)));
        let mut ledger = self.ledger.clone();
        let (sums, gone) = ledger.sums(counted);
        for id in gone {
            bytes.remove(id)?;
        }
        self.ledger = ledger;
        Ok(sums)
    }
}

impl Ledger {
    /// What each port has in all, by what ids counted and whose they are now; and the ids to forget, whose port is gone.
    fn sums(
        &mut self,
        counted: impl Iterator<Item = (u32, [u64; 2], Option<Name>)>,
    ) -> (BTreeMap<Name, [u64; 2]>, Vec<u32>) {
        let (mut sums, mut gone) = (BTreeMap::new(), Vec::new());
        let before = std::mem::take(&mut self.known);
        for (id, counts, now) in counted {
            let before = before.get(&id);
            // Not what somebody else counted who had the id.
            if let Some(name) = now.filter(|now| before.is_none_or(|before| before == now)) {
                add(&mut sums, &name, counts);
                self.known.insert(id, name);
                continue;
            }
            gone.push(id);
            if let Some(name) = before {
                add(&mut self.ended, name, counts);
            }
        }
        self.ended.retain(|name, _| sums.contains_key(name));
        self.ended.iter().for_each(|(name, counts)| add(&mut sums, name, *counts));
        (sums, gone)
    }
}

fn add(sums: &mut BTreeMap<Name, [u64; 2]>, name: &Name, [sent, received]: [u64; 2]) {
    let sum = sums.entry(name.clone()).or_default();
    *sum = [sum[0] + sent, sum[1] + received];
}

fn name(maps: &BpfMaps, id: u32) -> Option<Name> {
    let service = maps.service(id)?;
    Some([service.namespace, service.name, service.port_name].map(|text| text.as_str().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(name: &str) -> Name {
        ["shop", name, "http"].map(str::to_owned)
    }

    #[test]
    fn what_one_service_had_is_not_told_of_another_with_its_id() {
        for (case, id, now, want) in [
            ("the same", 7, Some("cart"), true),
            ("a new one", 8, Some("pay"), true),
            ("another one by now", 7, Some("pay"), false),
            ("gone", 7, None, false),
        ] {
            let mut ledger = Ledger { known: BTreeMap::from([(7, of("cart"))]), ..Ledger::default() };
            let (sums, gone) = ledger.sums([(id, [1, 2], now.map(of))].into_iter());
            assert_eq!(sums.values().collect::<Vec<_>>(), [&[1, 2]][..usize::from(want)], "{case}");
            assert_eq!(gone, [id][usize::from(want)..], "{case}");
        }
    }

    #[test]
    fn what_one_family_had_is_told_while_the_other_is_there() {
        let mut ledger = Ledger::default();
        let mut sum = |counted: &[(u32, u64, Option<&str>)]| {
            let counted = counted.iter().map(|(id, count, name)| (*id, [*count; 2], name.map(of)));
            ledger.sums(counted).0.get(&of("cart")).map(|[sent, _]| *sent)
        };
        let cart = Some("cart");
        for (case, counted, want) in [
            ("both", vec![(4, 60, cart), (6, 40, cart)], Some(100)),
            ("one family goes", vec![(4, 61, None), (6, 41, cart)], Some(102)),
            ("and is forgotten", vec![(6, 45, cart)], Some(106)),
            ("the Service goes", vec![(6, 46, None)], None),
            ("another one of its name", vec![(7, 1, cart)], Some(1)),
        ] {
            assert_eq!(sum(&counted), want, "{case}");
        }
    }
}
