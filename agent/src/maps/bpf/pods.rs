//! Whose the addresses of endpoints are, for people who read.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use anyhow::{Context as _, Result};
use aya::maps::{HashMap, Map, MapData};
use bytemuck::must_cast;
use sluice_common::{Addr, layout::PodValue};

use super::{deleted, open};
use crate::maps::Pins;

/// The map `PODS`.
pub struct PodNames(HashMap<MapData, [u8; 16], [u8; 128]>);

impl PodNames {
    /// Opens the map pinned at `pins`.
    ///
    /// # Errors
    /// Names the pin, which cannot be opened.
    pub fn open(pins: &Pins) -> Result<Self> {
        Ok(Self(Map::HashMap(open(&pins.map("PODS"))?).try_into()?))
    }

    /// The pod with this address.
    pub fn get(&self, address: Addr) -> Option<PodValue> {
        self.0.get(&must_cast(address), 0).ok().map(must_cast)
    }

    /// Gives addresses to pods, or takes them away.
    ///
    /// # Errors
    /// The kernel refuses a write, because the map is full in the first place; what was written stands.
    pub fn set(&mut self, pods: &BTreeMap<IpAddr, Option<PodValue>>) -> Result<()> {
        for (address, pod) in pods {
            let key: [u8; 16] = must_cast(Addr::from(*address));
            match pod {
                Some(pod) => self
                    .0
                    .insert(key, must_cast::<_, [u8; 128]>(*pod), 0)
                    .context("cannot write to PODS (sized by --max-backends)")?,
                None => deleted(self.0.remove(&key)).context("cannot write to PODS")?,
            }
        }
        Ok(())
    }

    /// Takes away every other address.
    ///
    /// # Errors
    /// The kernel refuses a read or a write.
    pub fn keep_only(&mut self, known: &BTreeSet<IpAddr>) -> Result<()> {
        let keys: Vec<[u8; 16]> = self.0.keys().collect::<Result<_, _>>().context("cannot read PODS")?;
        let is_stray = |key: &&[u8; 16]| !known.contains(&IpAddr::from(must_cast::<_, Addr>(**key)));
        for key in keys.iter().filter(is_stray) {
            deleted(self.0.remove(key)).context("cannot write to PODS")?;
        }
        Ok(())
    }
}
