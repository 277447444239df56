//! What the bytes of each pinned map mean, in the map `SCHEMAS`: by the map's id, so that it says nothing of one that an older
//! release, which does not know of it, has made since.

use anyhow::{Context as _, Result};
use aya::maps::{HashMap, Map, MapData};

use super::{deleted, open, shape};
use crate::maps::{Pins, SPECS};

/// Of maps that say nothing: those of releases before there was `SCHEMAS`.
const UNSAID: u32 = 1;

/// The map, if it is there.
pub struct Schemas(Option<HashMap<MapData, u32, u32>>);

impl Schemas {
    /// Name of the map.
    pub const NAME: &str = "SCHEMAS";

    /// Opens what is pinned at `pins`.
    pub fn open(pins: &Pins) -> Self {
        let map = MapData::from_pin(pins.map(Self::NAME)).ok();
        Self(map.and_then(|map| Map::HashMap(map).try_into().ok()))
    }

    /// The number of the map with this id.
    pub fn of(&self, map_id: u32) -> u32 {
        self.0.as_ref().and_then(|map| map.get(&map_id, 0).ok()).unwrap_or(UNSAID)
    }
}

/// Notes that the maps pinned at `pins` mean what this binary says; what is noted of those that were set aside stays.
///
/// # Errors
/// The kernel refuses a write.
pub fn note_schemas(pins: &Pins) -> Result<()> {
    let mut noted: HashMap<MapData, u32, u32> = Map::HashMap(open(&pins.map(Schemas::NAME))?).try_into()?;
    let id = |pins: &Pins, name: &str| shape(&pins.map(name)).map(|shape| shape.id);
    for spec in SPECS {
        let Some(id) = id(pins, spec.name) else { continue };
        noted.insert(id, spec.schema, 0).context("cannot write to SCHEMAS")?;
    }
    let before = pins.before();
    let there = [pins, &before].into_iter().flat_map(|pins| SPECS.map(|spec| id(pins, spec.name)));
    let there: Vec<u32> = there.flatten().collect();
    let gone = noted.keys().filter_map(Result::ok).filter(|id| !there.contains(id));
    for id in gone.collect::<Vec<_>>() {
        deleted(noted.remove(&id)).context("cannot write to SCHEMAS")?;
    }
    Ok(())
}
