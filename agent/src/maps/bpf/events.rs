//! The ring buffer `EVENTS`: one process reads it, and programs write only while it says that it does.

use std::os::fd::{AsFd, BorrowedFd};

use anyhow::{Context as _, Result};
use aya::maps::{Array, Map, MapData, MapInfo, PerCpuArray, RingBuf};
use sluice_common::{
    Reason,
    layout::{CONFIG_WATCHED, CONFIG_WATCHED_EACH, EventValue},
};

use super::{now_ns, open};
use crate::maps::Pins;

/// Name of the map.
const NAME: &str = "EVENTS";
/// How long the watcher's word counts. Longer than it takes to say it again, and no longer than events may go on after it died.
const WATCHED_NS: u64 = 2_000_000_000;

/// What the ring buffer holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Record {
    /// An event.
    Event(EventValue),
    /// A record of another version's programs, which are still attached.
    Unknown,
}

/// The reader's end. Programs stop writing once it is dropped.
pub struct Events {
    ring: RingBuf<MapData>,
    config: Array<MapData, u64>,
    reasons: PerCpuArray<MapData, u64>,
    pins: Pins,
    id: u32,
    each: bool,
    lost_before: u64,
}

impl Events {
    /// Opens the maps pinned at `pins`; what an earlier reader has left there is thrown away. Nothing is written yet.
    /// `each`: hear of each datagram and each reply of sockets too.
    ///
    /// # Errors
    /// Names the pin that cannot be opened.
    pub fn open(pins: &Pins, each: bool) -> Result<Self> {
        let data = |name: &str| open(&pins.map(name));
        let ring = data(NAME)?;
        let id = ring.info()?.id();
        let mut events = Self {
            ring: Map::RingBuf(ring).try_into().context("cannot map EVENTS")?,
            config: Map::Array(data("CONFIG")?).try_into()?,
            reasons: Map::PerCpuArray(data("REASONS")?).try_into()?,
            pins: pins.clone(),
            id,
            each,
            lost_before: 0,
        };
        while events.take().is_some() {}
        events.lost_before = events.count_lost()?;
        Ok(events)
    }

    /// Says that somebody watches; to be said again each second.
    ///
    /// # Errors
    /// The kernel refuses the write.
    pub fn watch(&mut self) -> Result<()> {
        let until_ns = now_ns() + WATCHED_NS;
        self.say(CONFIG_WATCHED, until_ns)?;
        self.say(CONFIG_WATCHED_EACH, if self.each { until_ns } else { 0 })
    }

    fn say(&mut self, slot: u32, until_ns: u64) -> Result<()> {
        self.config.set(slot, until_ns, 0).context("cannot write to CONFIG")
    }

    /// The next record, if there is one.
    pub fn take(&mut self) -> Option<Record> {
        let item = self.ring.next()?;
        let is_ours = item.len() == size_of::<EventValue>();
        Some(if is_ours { Record::Event(bytemuck::pod_read_unaligned(&item)) } else { Record::Unknown })
    }

    /// How many events found no room since this was opened.
    ///
    /// # Errors
    /// The kernel refuses the read.
    pub fn lost(&self) -> Result<u64> {
        Ok(self.count_lost()?.saturating_sub(self.lost_before))
    }

    fn count_lost(&self) -> Result<u64> {
        let counts = self.reasons.get(&(Reason::EventLost as u32), 0).context("cannot read REASONS")?;
        Ok(counts.iter().sum())
    }

    /// Whether the map is still the one that is pinned: that of another agent's programs is another one.
    pub fn is_current(&self) -> bool {
        MapInfo::from_pin(self.pins.map(NAME)).is_ok_and(|info| info.id() == self.id)
    }
}

impl AsFd for Events {
    /// Becomes readable when there is a record.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.ring.as_fd()
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        for slot in [CONFIG_WATCHED, CONFIG_WATCHED_EACH] {
            // Should it fail, the last word runs out by itself.
            let _runs_out = self.say(slot, 0);
        }
    }
}
