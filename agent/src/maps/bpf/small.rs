//! Maps with one purpose and one user each.

use std::{
    collections::{BTreeMap, BTreeSet},
    os::fd::{AsFd as _, AsRawFd, BorrowedFd},
};

use anyhow::{Context as _, Result};
use aya::maps::{Array, HashMap, Map, MapData, SockMap};
use bytemuck::must_cast;
use sluice_common::layout::{
    CONFIG_BARE, CONFIG_OPT_OUTS, CONFIG_OPTIONS, CONFIG_WORKERS, DEVICE_BARE, DEVICES_CAPACITY, DeviceValue,
    LISTENERS_CAPACITY, PodValue, RevnatKey, bare_bit,
};

use super::{deleted, open, shape};
use crate::maps::Pins;

/// What sockets remember of their translation.
pub struct SocketMemory {
    sockets: MapData,
    revnat: HashMap<MapData, [u8; 32], [u8; 24]>,
}

impl SocketMemory {
    /// Opens the maps pinned at `pins`.
    ///
    /// # Errors
    /// Names the pin that cannot be opened.
    pub fn open(pins: &Pins) -> Result<Self> {
        Ok(Self {
            sockets: open(&pins.map("SOCKETS"))?,
            revnat: Map::LruHashMap(open(&pins.map("UDP_REVNAT"))?).try_into()?,
        })
    }

    /// The map of socket storage.
    pub fn sockets(&self) -> BorrowedFd<'_> {
        self.sockets.fd().as_fd()
    }

    /// Whether this exchange is remembered.
    pub fn has_revnat(&self, key: &RevnatKey) -> bool {
        self.revnat.get(&must_cast(*key), 0).is_ok()
    }
}

/// The network namespaces that are left alone, by cookie.
pub struct OptOuts {
    map: HashMap<MapData, u64, [u8; 128]>,
    config: Array<MapData, u64>,
}

impl OptOuts {
    /// Opens the maps pinned at `pins`.
    ///
    /// # Errors
    /// Names the pin that cannot be opened.
    pub fn open(pins: &Pins) -> Result<Self> {
        let data = |name: &str| open(&pins.map(name));
        Ok(Self {
            map: Map::HashMap(data("OPT_OUTS")?).try_into()?,
            config: Map::Array(data("CONFIG")?).try_into()?,
        })
    }

    /// All of them, each with its pod.
    ///
    /// # Errors
    /// The kernel refuses a read.
    pub fn all(&self) -> Result<BTreeMap<u64, PodValue>> {
        let entries = self.map.iter().map(|entry| entry.map(|(cookie, pod)| (cookie, must_cast(pod))));
        entries.collect::<Result<_, _>>().context("cannot read OPT_OUTS")
    }

    /// Makes them `wanted`. The count, which makes programs look, is right at every moment for those that stay.
    ///
    /// # Errors
    /// The kernel refuses a write; what was written stands.
    pub fn set(&mut self, wanted: &BTreeMap<u64, PodValue>) -> Result<()> {
        let present = self.all()?;
        // What goes makes room for what comes.
        for cookie in present.keys().filter(|cookie| !wanted.contains_key(cookie)) {
            deleted(self.map.remove(cookie)).context("cannot write to OPT_OUTS")?;
        }
        for (cookie, pod) in wanted.iter().filter(|(cookie, pod)| present.get(cookie) != Some(pod)) {
            let value: [u8; 128] = must_cast(*pod);
            self.map.insert(cookie, value, 0).context("cannot write to OPT_OUTS")?;
        }
        self.config.set(CONFIG_OPT_OUTS, wanted.len() as u64, 0).context("cannot write to CONFIG")
    }
}

/// The ports that the agent reserved on this node.
pub struct ReservedPorts(HashMap<MapData, u32, u32>);

impl ReservedPorts {
    /// Name of the map.
    pub const NAME: &str = "RESERVED";

    /// Opens the map pinned at `pins`.
    ///
    /// # Errors
    /// Names the pin, which cannot be opened.
    pub fn open(pins: &Pins) -> Result<Self> {
        Ok(Self(Map::HashMap(open(&pins.map(Self::NAME))?).try_into()?))
    }

    /// All of them.
    ///
    /// # Errors
    /// The kernel refuses a read.
    pub fn all(&self) -> Result<BTreeSet<u16>> {
        let ports = self.0.keys().map(|port| port.map(|port| port as u16));
        ports.collect::<Result<_, _>>().context("cannot read RESERVED")
    }

    /// Notes a port.
    ///
    /// # Errors
    /// The kernel refuses the write.
    pub fn insert(&mut self, port: u16) -> Result<()> {
        self.0.insert(u32::from(port), 1, 0).context("cannot write to RESERVED")
    }

    /// Takes the note back.
    ///
    /// # Errors
    /// The kernel refuses the write.
    pub fn remove(&mut self, port: u16) -> Result<()> {
        deleted(self.0.remove(&u32::from(port))).context("cannot write to RESERVED")
    }
}

/// What programs of the packet path know of the node's devices.
pub struct Devices {
    map: HashMap<MapData, u32, [u8; 40]>,
    config: Array<MapData, u64>,
}

impl Devices {
    /// Opens the maps pinned at `pins`.
    ///
    /// # Errors
    /// Names the pin that cannot be opened.
    pub fn open(pins: &Pins) -> Result<Self> {
        let data = |name: &str| open(&pins.map(name));
        Ok(Self {
            map: Map::HashMap(data("DEVICES")?).try_into()?,
            config: Map::Array(data("CONFIG")?).try_into()?,
        })
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.map.keys().filter(Result::is_ok).count()
    }

    /// Makes them `wanted`, by interface index.
    ///
    /// # Errors
    /// The kernel refuses a write; what was written stands.
    pub fn set(&mut self, wanted: &BTreeMap<u32, DeviceValue>) -> Result<()> {
        let entries = self.map.iter().map(|entry| entry.map(|(index, value)| (index, must_cast(value))));
        let present: BTreeMap<u32, DeviceValue> =
            entries.collect::<Result<_, _>>().context("cannot read DEVICES")?;
        for index in present.keys().filter(|index| !wanted.contains_key(index)) {
            deleted(self.map.remove(index)).context("cannot write to DEVICES")?;
        }
        for (index, device) in wanted.iter().filter(|(index, device)| present.get(index) != Some(device)) {
            let value: [u8; 40] = must_cast(*device);
            self.map.insert(index, value, 0).with_context(|| {
                format!(
                    "cannot write to DEVICES, which has room for {DEVICES_CAPACITY} devices, of {}",
                    wanted.len()
                )
            })?;
        }
        let bare = wanted.iter().filter(|(_, device)| device.flags & DEVICE_BARE != 0);
        let bits = bare.fold(0, |bits, (index, _)| bits | bare_bit(*index));
        self.config.set(CONFIG_BARE, bits, 0).context("cannot write to CONFIG")
    }

    /// Bits of `OPTION_*`, as the programs have them.
    pub fn options(&self) -> u64 {
        self.config.get(&CONFIG_OPTIONS, 0).unwrap_or(0)
    }

    /// Sets bits of `OPTION_*`.
    ///
    /// # Errors
    /// The kernel refuses the write.
    pub fn set_options(&mut self, options: u64) -> Result<()> {
        self.config.set(CONFIG_OPTIONS, options, 0).context("cannot write to CONFIG")
    }
}

/// Where the redirector puts its listeners, and its heartbeat.
pub struct Listeners {
    sockets: SockMap<MapData>,
    config: Array<MapData, u64>,
    heartbeat: MapData,
}

impl Listeners {
    /// The maps that [`Self::open`] opens.
    pub const NAMES: [&str; 3] = ["LISTENERS", "CONFIG", "HEARTBEAT"];
    /// The most workers that there is room for.
    pub const MOST_WORKERS: u32 = LISTENERS_CAPACITY / 2;

    /// Opens the maps pinned at `pins`.
    ///
    /// # Errors
    /// Names the pin that cannot be opened.
    pub fn open(pins: &Pins) -> Result<Self> {
        let data = |name: &str| open(&pins.map(name));
        Ok(Self {
            sockets: Map::SockMap(data("LISTENERS")?).try_into()?,
            config: Map::Array(data("CONFIG")?).try_into()?,
            heartbeat: data("HEARTBEAT")?,
        })
    }

    /// The kernel's numbers of those maps, as they are pinned; 0 of one that is not there.
    pub fn ids(pins: &Pins) -> Vec<u32> {
        Self::NAMES.iter().map(|name| shape(&pins.map(name)).map_or(0, |shape| shape.id)).collect()
    }

    /// Steers new connections to these listeners, IPv4 and IPv6 of each worker, in place of earlier ones.
    ///
    /// # Errors
    /// The kernel refuses a write.
    pub fn steer<L: AsRawFd>(&mut self, workers: &[(L, L)]) -> Result<()> {
        for (index, (v4, v6)) in (0..).zip(workers) {
            self.sockets.set(index * 2, v4, 0).context("cannot write to LISTENERS")?;
            self.sockets.set(index * 2 + 1, v6, 0).context("cannot write to LISTENERS")?;
        }
        self.config.set(CONFIG_WORKERS, workers.len() as u64, 0).context("cannot write to CONFIG")
    }

    /// The map that the heartbeat is written to.
    pub fn heartbeat(&self) -> BorrowedFd<'_> {
        self.heartbeat.fd().as_fd()
    }
}
