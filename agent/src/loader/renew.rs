//! Pinned maps of another size, layout or meaning than this binary wants: made anew beside those that the attached programs go on using,
//! filled with what those hold, and taken into use by one step, when programs are replaced.
//!
//! A map whose capacity alone differs is set aside in the folder `before`, pinned, until programs are replaced: an agent that
//! ends halfway leaves what the next one needs.

use std::{collections::BTreeMap, fs, io, path::Path};

use anyhow::{Context as _, Result};

use crate::maps::{
    MapSpec, Pins, SPECS, Shape, Sizes,
    bpf::{Memory, Schemas, copy_services, note_schemas, shape},
};

/// Maps that name each other's entries: if one has to be made anew, all are.
const CONNECTED: [&str; 5] = ["FRONTENDS", "SLOTS", "BACKENDS", "SERVICES", "NODES"];
/// Besides, what must be filled before programs may read it.
const FILLED_FIRST: [&str; 2] = ["ADDRESSES", "SOURCE_RANGES"];

/// How what is pinned compares with what this binary wants.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fit {
    Absent,
    Fits,
    /// Only its capacity differs.
    Resized,
    Foreign,
}

/// What becomes of what is pinned under one name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fate {
    Kept,
    /// To the folder `before`, in place of nothing.
    SetAside,
    /// From the folder `before` too.
    Forgotten,
    /// What an earlier agent set aside stays there.
    Removed,
}

/// What comes of the maps that an earlier agent left.
#[derive(Default)]
pub struct Renewal {
    /// Maps are made anew that have to be filled before they are used.
    pub fills_first: bool,
    copies_services: bool,
    /// Names of maps of which something is copied once programs are attached.
    remembered: Vec<&'static str>,
    memories: Option<Vec<Memory>>,
}

impl Fit {
    fn of(spec: &MapSpec, found: Option<Shape>, schemas: &Schemas, sizes: &Sizes) -> Self {
        let Some(found) = found else { return Self::Absent };
        let has_sizes = (found.key_size, found.value_size) == (spec.key_size, spec.value_size);
        if !has_sizes || schemas.of(found.id) != spec.schema {
            return Self::Foreign;
        }
        match (spec.capacity)(sizes) {
            Some(capacity) if capacity != found.capacity => Self::Resized,
            _ => Self::Fits,
        }
    }
}

impl Renewal {
    /// Puts out of the way what does not fit. Nothing that runs changes.
    ///
    /// # Errors
    /// Names the pin that cannot be moved or removed.
    pub fn prepare(pins: &Pins, sizes: &Sizes) -> Result<Self> {
        let before = pins.before();
        remove_all(&pins.spent())?;
        let schemas = Schemas::open(pins);
        let fit = |spec: &MapSpec, pins: &Pins| Fit::of(spec, shape(&pins.map(spec.name)), &schemas, sizes);
        let found: BTreeMap<_, _> =
            SPECS.iter().map(|spec| (spec.name, (fit(spec, pins), fit(spec, &before)))).collect();
        let fates = fates(&found);
        for (name, fate) in &fates {
            let pin = pins.map(name);
            if *fate != Fate::Kept && pin.exists() {
                tracing::warn!(map = %name, "the pinned map has another layout, meaning or size; making it anew");
            }
            match fate {
                Fate::Kept => {}
                Fate::SetAside => set_aside(&pin, &before, name)?,
                Fate::Removed => remove(&pin)?,
                Fate::Forgotten => {
                    remove(&pin)?;
                    remove(&before.map(name))?;
                }
            }
        }
        let is_anew = |name: &&str| fates.get(name).is_some_and(|fate| *fate != Fate::Kept);
        Ok(Self {
            fills_first: CONNECTED.iter().chain(&FILLED_FIRST).any(is_anew),
            copies_services: before.map(CONNECTED[0]).exists(),
            remembered: Memory::NAMES.into_iter().filter(|name| before.map(name).exists()).collect(),
            memories: None,
        })
    }

    /// Notes what the maps mean, once they are there, and fills the new ones of Services.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn fill(&self, pins: &Pins) -> Result<()> {
        note_schemas(pins)?;
        if self.copies_services && !copy_services(&pins.before(), pins)? {
            tracing::warn!("what the maps held does not fit into the new ones; Services are numbered anew");
        }
        Ok(())
    }

    /// Copies what programs remember and is not copied yet; `in_use` once they use the new maps.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn carry(&mut self, pins: &Pins, in_use: bool) -> Result<()> {
        if self.memories.is_none() {
            let before = pins.before();
            let memory = |name: &&'static str| Memory::new(name, &before.map(name), pins).transpose();
            self.memories = Some(self.remembered.iter().filter_map(memory).collect::<Result<_>>()?);
        }
        for memory in self.memories.iter_mut().flatten() {
            let count = memory.pass(in_use)?;
            if count > 0 {
                tracing::info!(map = memory.name, count, "took over what an earlier agent's map remembers");
            }
        }
        Ok(())
    }

    /// Unpins what was set aside, for an agent that comes now finds all in the new maps; [`Self::carry`] goes on with what it
    /// holds open.
    ///
    /// # Errors
    /// A pin cannot be removed.
    pub fn release(&mut self, pins: &Pins) -> Result<()> {
        self.copies_services = false;
        let before = pins.before();
        if before.root().exists() {
            // In one step: half of the connected maps would be taken for all that there is.
            fs::rename(before.root(), pins.spent())
                .with_context(|| format!("cannot rename {}", before.root().display()))?;
        }
        remove_all(&pins.spent())
    }

    /// No program uses what was set aside any more.
    pub fn finish(&mut self) {
        *self = Self::default();
    }

    /// Whether anything is left to do once programs are attached.
    pub const fn is_under_way(&self) -> bool {
        self.copies_services || !self.remembered.is_empty()
    }
}

fn set_aside(pin: &Path, before: &Pins, name: &str) -> Result<()> {
    fs::create_dir_all(before.maps())
        .with_context(|| format!("cannot create {}", before.maps().display()))?;
    match fs::rename(pin, before.map(name)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot set {} aside", pin.display()))
        }
        _ => Ok(()),
    }
}

fn remove(pin: &Path) -> Result<()> {
    match fs::remove_file(pin) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", pin.display()))
        }
        _ => Ok(()),
    }
}

/// Removes a folder of pins that is no more needed, if it is there.
///
/// # Errors
/// It cannot be removed.
pub fn remove_all(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", folder.display()))
        }
        _ => Ok(()),
    }
}

/// What to do with each map, by what is pinned `now` and what an earlier agent set aside `before`.
fn fates(found: &BTreeMap<&'static str, (Fit, Fit)>) -> BTreeMap<&'static str, Fate> {
    let of = |name: &str| found.get(name).copied().unwrap_or((Fit::Absent, Fit::Absent));
    let connected = CONNECTED.map(of);
    let all_anew = connected
        .iter()
        .any(|(now, before)| matches!(now, Fit::Resized | Fit::Foreign) || *before != Fit::Absent);
    let is_foreign = connected.iter().any(|(now, before)| match before {
        Fit::Absent => matches!(now, Fit::Absent | Fit::Foreign),
        Fit::Fits | Fit::Resized => false,
        Fit::Foreign => true,
    });
    let fate = |name: &'static str| {
        let (now, before) = of(name);
        if CONNECTED.contains(&name) {
            return match before {
                _ if !all_anew => Fate::Kept,
                // Ids of one generation mean nothing in another: all of them are copied, or none.
                _ if is_foreign => Fate::Forgotten,
                Fit::Absent => Fate::SetAside,
                // The agent that set it aside ended before all programs were its own.
                Fit::Fits | Fit::Resized | Fit::Foreign => Fate::Removed,
            };
        }
        match now {
            Fit::Absent | Fit::Fits if before == Fit::Foreign => Fate::Forgotten,
            Fit::Absent | Fit::Fits => Fate::Kept,
            Fit::Resized if !Memory::NAMES.contains(&name) => Fate::Removed,
            Fit::Resized if before == Fit::Absent => Fate::SetAside,
            // The attached programs use what was set aside first.
            Fit::Resized => Fate::Removed,
            Fit::Foreign => Fate::Forgotten,
        }
    };
    found.keys().map(|name| (*name, fate(name))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is pinned: all that an agent of this binary leaves, but for these.
    fn found(others: &[(&'static str, Fit, Fit)]) -> BTreeMap<&'static str, (Fit, Fit)> {
        let mut all: BTreeMap<_, _> =
            SPECS.iter().map(|spec| (spec.name, (Fit::Fits, Fit::Absent))).collect();
        all.extend(others.iter().map(|(name, now, before)| (*name, (*now, *before))));
        all
    }

    fn connected(now: Fit, before: Fit) -> Vec<(&'static str, Fit, Fit)> {
        CONNECTED.into_iter().map(|name| (name, now, before)).collect()
    }

    #[test]
    fn what_fits_is_kept_and_what_does_not_is_set_aside_where_it_can_be_copied() {
        use Fate::{Forgotten, Kept, Removed, SetAside};
        use Fit::{Absent, Fits, Foreign, Resized};
        for (case, now, before, want) in [
            ("same size", Fits, Absent, Kept),
            ("never there", Absent, Absent, Kept),
            ("another size", Resized, Absent, SetAside),
            ("another layout", Foreign, Absent, Forgotten),
            ("an agent ended halfway", Fits, Resized, Kept),
            ("halfway, back to the first size", Resized, Fits, Removed),
            ("halfway, before the new one was made", Absent, Resized, Kept),
            ("what was set aside is of another layout", Fits, Foreign, Forgotten),
        ] {
            for name in Memory::NAMES {
                let fates = fates(&found(&[(name, now, before)]));
                assert_eq!(fates[name], want, "{name}: {case}");
                assert_eq!(fates["FRONTENDS"], Kept, "{name}: {case}");
            }
        }
        let fates = fates(&found(&[("ADDRESSES", Resized, Absent)]));
        assert_eq!(fates["ADDRESSES"], Removed, "the agent knows what belongs there");
    }

    #[test]
    fn the_maps_that_name_each_other_go_together() {
        use Fate::{Forgotten, Kept, Removed, SetAside};
        use Fit::{Absent, Fits, Foreign, Resized};
        let halfway = connected(Fits, Resized);
        // Renamed one by one, the first two only.
        let moving = (0..).zip(CONNECTED).map(|(index, name)| match index {
            0 | 1 => (name, Absent, Resized),
            _ => (name, Fits, Absent),
        });
        let moving: Vec<_> = moving.collect();
        for (case, others, want) in [
            ("nothing differs", vec![], [Kept; 5]),
            ("one has another size", vec![("SLOTS", Resized, Absent)], [SetAside; 5]),
            ("one has another layout", vec![("SLOTS", Foreign, Absent)], [Forgotten; 5]),
            (
                "one is gone, another has another size",
                vec![("SLOTS", Resized, Absent), ("NODES", Absent, Absent)],
                [Forgotten; 5],
            ),
            ("an agent ended halfway", halfway, [Removed; 5]),
            ("it ended as it set them aside", moving, [Removed, Removed, SetAside, SetAside, SetAside]),
        ] {
            let fates = fates(&found(&others));
            assert_eq!(CONNECTED.map(|name| fates[name]), want, "{case}");
        }
    }
}
