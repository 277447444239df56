//! Connections of the packet path: read whole, removed one by one.

use std::os::fd::AsFd as _;

use anyhow::{Context as _, Result};
use aya::maps::{Array, HashMap, Map, MapData};
use bytemuck::must_cast;
use sluice_common::layout::{CONFIG_NO_POD_FLOWS, FlowKey, FlowValue};

use super::{deleted, open};
use crate::{maps::Pins, sys};

/// The map `FLOWS`.
pub struct Flows {
    map: HashMap<MapData, [u8; size_of::<FlowKey>()], [u8; size_of::<FlowValue>()]>,
    whole: MapData,
    config: Array<MapData, u64>,
}

impl Flows {
    /// Opens the map pinned at `pins`.
    ///
    /// # Errors
    /// Names the pin that cannot be opened.
    pub fn open(pins: &Pins) -> Result<Self> {
        let path = pins.map("FLOWS");
        let config = Map::Array(open(&pins.map("CONFIG"))?).try_into()?;
        Ok(Self { map: Map::LruHashMap(open(&path)?).try_into()?, whole: open(&path)?, config })
    }

    /// All entries, in no order. None counts as used by it.
    ///
    /// # Errors
    /// The kernel refuses the read.
    pub fn all(&self) -> Result<Vec<(FlowKey, FlowValue)>> {
        sys::entries(self.whole.fd().as_fd()).context("cannot read FLOWS")
    }

    /// The entry of a packet with these ends.
    pub fn get(&self, key: &FlowKey) -> Option<FlowValue> {
        self.map.get(&must_cast(*key), 0).ok().map(must_cast)
    }

    /// Says that of connections which began before `until_ns` none counts at pods' devices; 0: that nobody knows.
    ///
    /// # Errors
    /// The kernel refuses the write.
    pub fn set_none_at_pods(&mut self, until_ns: u64) -> Result<()> {
        self.config.set(CONFIG_NO_POD_FLOWS, until_ns, 0).context("cannot write to CONFIG")
    }

    /// Removes an entry.
    ///
    /// # Errors
    /// The kernel refuses the write.
    pub fn remove(&mut self, key: &FlowKey) -> Result<()> {
        deleted(self.map.remove(&must_cast(*key))).context("cannot write to FLOWS")
    }
}
