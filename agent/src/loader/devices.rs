//! Programs of the packet path at devices: by links that outlive us, one for each device and program.

use std::{
    collections::{BTreeMap, BTreeSet},
    os::fd::AsFd as _,
    path::Path,
};

use anyhow::{Context as _, Result, bail};
use aya::programs::{LinkOrder, Program, TcAttachType, links::FdLink, tc::TcAttachOptions};

use super::{Loaded, program};
use crate::{maps::Pins, sys};

/// Where a program runs, and which.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Point {
    /// What comes in by a device of the node.
    FromNetwork,
    /// What goes out by a device of the node.
    ToNetwork,
    /// What a pod sends.
    FromPod,
    /// What a pod gets.
    ToPod,
}

impl Point {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::FromNetwork, Self::ToNetwork, Self::FromPod, Self::ToPod];

    /// The program's name.
    pub const fn program(self) -> &'static str {
        match self {
            Self::FromNetwork => "from_network",
            Self::ToNetwork => "to_network",
            Self::FromPod => "from_pod",
            Self::ToPod => "to_pod",
        }
    }

    /// The hook, as people know it.
    pub const fn hook(self) -> &'static str {
        match self {
            Self::FromNetwork | Self::FromPod => "tc/ingress",
            Self::ToNetwork | Self::ToPod => "tc/egress",
        }
    }

    const fn direction(self) -> TcAttachType {
        match self {
            Self::FromNetwork | Self::FromPod => TcAttachType::Ingress,
            Self::ToNetwork | Self::ToPod => TcAttachType::Egress,
        }
    }
}

/// A program at a device, as the pins tell.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DeviceAttachment {
    /// Which.
    pub point: Point,
    /// Interface index.
    pub ifindex: u32,
    /// Whether the link is there and its device too.
    pub attached: bool,
}

fn pin_name(ifindex: u32, point: Point) -> String {
    format!("tc-{ifindex}-{}", point.program())
}

fn parse(name: &str) -> Option<(u32, Point)> {
    let (ifindex, program) = name.strip_prefix("tc-")?.split_once('-')?;
    let point = Point::ALL.into_iter().find(|point| point.program() == program)?;
    Some((ifindex.parse().ok()?, point))
}

/// What is attached to devices; needs no agent.
pub fn device_attachments(pins: &Pins) -> Vec<DeviceAttachment> {
    let files = std::fs::read_dir(pins.links()).into_iter().flatten().flatten();
    let names = files.filter_map(|file| parse(file.file_name().to_str()?));
    let mut found: Vec<DeviceAttachment> = names
        .map(|(ifindex, point)| {
            let link = sys::pinned(&pins.link(&pin_name(ifindex, point)));
            let device = link.and_then(|link| sys::device_of_link(link.as_fd()));
            DeviceAttachment { point, ifindex, attached: device.is_ok_and(|device| device == ifindex) }
        })
        .collect();
    found.sort_by_key(|item| (item.ifindex, item.point));
    found
}

impl Loaded {
    /// Makes these devices (index, name), and no others, run this binary's programs. Returns what went wrong, by device.
    pub fn attach_devices(&mut self, wanted: &BTreeMap<(u32, Point), String>) -> BTreeMap<String, String> {
        let mut problems = BTreeMap::new();
        for ((ifindex, point), name) in wanted {
            if let Err(error) = self.attach_device(*ifindex, name, *point) {
                problems.insert(format!("{name} ({})", point.hook()), format!("{error:#}"));
            }
        }
        let present: BTreeSet<_> =
            device_attachments(&self.pins).into_iter().map(|item| (item.ifindex, item.point)).collect();
        for (ifindex, point) in present.into_iter().filter(|key| !wanted.contains_key(key)) {
            // Without its pin the link goes, and the program with it.
            let pin = self.pins.link(&pin_name(ifindex, point));
            if let Err(error) = remove(&pin) {
                problems.insert(pin.display().to_string(), format!("{error:#}"));
            }
        }
        problems
    }

    fn attach_device(&mut self, ifindex: u32, name: &str, point: Point) -> Result<()> {
        let pin = self.pins.link(&pin_name(ifindex, point));
        let program = program(&mut self.ebpf, point.program())?;
        let Program::SchedClassifier(program) = program else {
            bail!("{} is no tc program", point.program());
        };
        if let Ok(link) = sys::pinned(&pin)
            && sys::device_of_link(link.as_fd()).is_ok_and(|device| device == ifindex)
        {
            let fd = program.fd()?;
            return Ok(sys::replace_program(link.as_fd(), fd.as_fd())?);
        }
        remove(&pin)?;
        // Outermost: programs of others see packets as the node's stack does.
        let order = match point.direction() {
            TcAttachType::Egress => LinkOrder::last(),
            _ => LinkOrder::first(),
        };
        let options = TcAttachOptions::TcxOrder(order);
        let id = program.attach_with_options(name, point.direction(), options)?;
        let link: FdLink = program.take_link(id)?.try_into()?;
        link.pin(&pin).with_context(|| format!("cannot pin {}", pin.display()))?;
        Ok(())
    }
}

/// Removes every pin of a program at a device; returns which.
pub(super) fn detach_all(pins: &Pins) -> Result<Vec<std::path::PathBuf>> {
    let files =
        device_attachments(pins).into_iter().map(|item| pins.link(&pin_name(item.ifindex, item.point)));
    files.map(|pin| remove(&pin).map(|()| pin)).collect()
}

fn remove(pin: &Path) -> Result<()> {
    match std::fs::remove_file(pin) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error).with_context(|| format!("cannot remove {}", pin.display())),
    }
}
