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
    /// Whose the ids of `bytes` were when they were last looked at.
    known: BTreeMap<u32, Name>,
}

impl Services {
    /// Nothing was looked at yet.
    pub fn new(bytes: Option<ServiceBytes>) -> Self {
        Self { bytes, known: BTreeMap::new() }
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

    /// Bytes sent and received, both families together. What a Service had that is gone is forgotten, for another one may get
    /// its id.
    pub fn bytes(&mut self, maps: &BpfMaps) -> BTreeMap<Name, [u64; 2]> {
        self.read_bytes(maps).unwrap_or_else(|error| {
            tracing::warn!("bytes of Services are not told: {error:#}");
            BTreeMap::new()
        })
    }

    fn read_bytes(&mut self, maps: &BpfMaps) -> Result<BTreeMap<Name, [u64; 2]>> {
        let mut sums = BTreeMap::new();
        let Some(bytes) = &mut self.bytes else { return Ok(sums) };
        let mut known = BTreeMap::new();
        for (id, [sent, received]) in bytes.all()? {
            let Some(name) = still(&self.known, id, name(maps, id)) else {
                bytes.remove(id)?;
                continue;
            };
            let sum: &mut [u64; 2] = sums.entry(name.clone()).or_default();
            *sum = [sum[0] + sent, sum[1] + received];
            known.insert(id, name);
        }
        self.known = known;
        Ok(sums)
    }
}

/// Who has the id, unless somebody else had it when it was looked at before.
fn still(known: &BTreeMap<u32, Name>, id: u32, now: Option<Name>) -> Option<Name> {
    now.filter(|name| known.get(&id).is_none_or(|before| before == name))
}

fn name(maps: &BpfMaps, id: u32) -> Option<Name> {
    let service = maps.service(id)?;
    Some([service.namespace, service.name, service.port_name].map(|text| text.as_str().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_service_had_is_not_told_of_another_with_its_id() {
        let of = |name: &str| ["shop", name, "http"].map(str::to_owned);
        let known = BTreeMap::from([(7, of("cart"))]);
        for (case, id, now, want) in [
            ("the same", 7, Some("cart"), true),
            ("a new one", 8, Some("pay"), true),
            ("another one by now", 7, Some("pay"), false),
            ("gone", 7, None, false),
        ] {
            assert_eq!(still(&known, id, now.map(of)).is_some(), want, "{case}");
        }
    }
}
