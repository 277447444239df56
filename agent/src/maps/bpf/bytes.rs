//! Bytes by service port, where they are counted.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use aya::maps::{Map, MapData, PerCpuHashMap};

use super::deleted;

/// What sockets have sent and received, by id of the service port.
pub struct ServiceBytes(PerCpuHashMap<MapData, u32, [u64; 2]>);

impl ServiceBytes {
    /// Its name in the programs; it is not pinned.
    pub const NAME: &str = "SERVICE_BYTES";

    /// The map of the programs that were loaded.
    ///
    /// # Errors
    /// It is of another kind.
    pub fn new(map: Map) -> Result<Self> {
        Ok(Self(map.try_into()?))
    }

    /// All sums so far, over all CPUs.
    ///
    /// # Errors
    /// The kernel refuses a read.
    pub fn all(&self) -> Result<BTreeMap<u32, [u64; 2]>> {
        let sum = |entry: Result<(u32, aya::maps::PerCpuValues<[u64; 2]>), _>| {
            entry.map(|(id, values)| {
                let sums = values.iter().fold([0; 2], |[a, b], [sent, received]| [a + sent, b + received]);
                (id, sums)
            })
        };
        let entries: Result<_, aya::maps::MapError> = self.0.iter().map(sum).collect();
        entries.context("cannot read how many bytes Services had")
    }

    /// Forgets those of a service port that is gone.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn remove(&mut self, id: u32) -> Result<()> {
        deleted(self.0.remove(&id)).context("cannot forget how many bytes a Service had")
    }
}
