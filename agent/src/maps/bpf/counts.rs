//! How many entries the maps have that nobody keeps a mirror of.

use std::os::fd::AsFd as _;

use anyhow::{Context as _, Result};

use super::open;
use crate::{maps::Pins, sys};

fn count<const K: usize, const V: usize>(pins: &Pins, name: &'static str) -> Result<(&'static str, u64)> {
    let count = sys::count::<[u8; K], [u8; V]>(open(&pins.map(name))?.fd().as_fd());
    Ok((name, count.with_context(|| format!("cannot read {name}"))?))
}

/// Entries by name of the map, all but those of `FLOWS`, whose connections are looked at one by one, and of those in `Tables`.
///
/// # Errors
/// A map cannot be opened or read.
pub fn counts(pins: &Pins) -> Result<[(&'static str, u64); 8]> {
    Ok([
        count::<32, 24>(pins, "UDP_REVNAT")?,
        count::<20, 16>(pins, "AFFINITY")?,
        count::<40, 16>(pins, "FRAGMENTS")?,
        count::<16, 16>(pins, "PATHS")?,
        count::<16, 128>(pins, "PODS")?,
        count::<8, 128>(pins, "OPT_OUTS")?,
        count::<4, 40>(pins, "DEVICES")?,
        count::<4, 4>(pins, "RESERVED")?,
    ])
}
