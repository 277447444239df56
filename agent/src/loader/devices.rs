//! Programs of the packet path at devices: by links that outlive us, one for each device and program.

use std::{
    collections::{BTreeMap, BTreeSet},
    os::fd::AsFd as _,
    path::Path,
};

use anyhow::{Context as _, Result, bail};
use aya::programs::{LinkOrder, Program, TcAttachType, XdpMode, links::FdLink, tc::TcAttachOptions};

use super::{EARLY, Loaded, program};
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
    /// What comes in by a device of the node, before the stack, in its driver.
    EarlyNative,
    /// The same without the driver's help.
    EarlyGeneric,
}

impl Point {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::FromNetwork,
        Self::ToNetwork,
        Self::FromPod,
        Self::ToPod,
        Self::EarlyNative,
        Self::EarlyGeneric,
    ];

    /// The program's name.
    pub const fn program(self) -> &'static str {
        match self {
            Self::FromNetwork => "from_network",
            Self::ToNetwork => "to_network",
            Self::FromPod => "from_pod",
            Self::ToPod => "to_pod",
            Self::EarlyNative | Self::EarlyGeneric => EARLY,
        }
    }

    /// What it is called in the name of a pin.
    const fn label(self) -> &'static str {
        match self {
            Self::EarlyNative => "early_native",
            Self::EarlyGeneric => "early_generic",
            Self::FromNetwork | Self::ToNetwork | Self::FromPod | Self::ToPod => self.program(),
        }
    }

    /// The hook, as people know it.
    pub const fn hook(self) -> &'static str {
        match self {
            Self::FromNetwork | Self::FromPod => "tc/ingress",
            Self::ToNetwork | Self::ToPod => "tc/egress",
            Self::EarlyNative => "xdp/native",
            Self::EarlyGeneric => "xdp/generic",
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
    format!("device-{ifindex}-{}", point.label())
}

fn parse(name: &str) -> Option<(u32, Point)> {
    let (ifindex, program) = name.strip_prefix("device-")?.split_once('-')?;
    let point = Point::ALL.into_iter().find(|point| point.label() == program)?;
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
    /// Makes these devices (index, name), and no others, run this binary's programs. Returns what went wrong.
    pub fn attach_devices(
        &mut self,
        wanted: &BTreeMap<(u32, Point), String>,
    ) -> BTreeMap<(u32, Point), String> {
        let mut problems = BTreeMap::new();
        let present: BTreeSet<_> =
            device_attachments(&self.pins).into_iter().map(|item| (item.ifindex, item.point)).collect();
        for (ifindex, point) in present.into_iter().filter(|key| !wanted.contains_key(key)) {
            // Without its pin the link goes, and the program with it.
            if let Err(error) = remove(&self.pins.link(&pin_name(ifindex, point))) {
                problems.insert((ifindex, point), format!("{error:#}"));
            }
        }
        for ((ifindex, point), name) in wanted {
            if let Err(error) = self.attach_device(*ifindex, name, *point) {
                problems.insert((*ifindex, *point), format!("{error:#}"));
            }
        }
        problems
    }

    fn attach_device(&mut self, ifindex: u32, name: &str, point: Point) -> Result<()> {
        let pin = self.pins.link(&pin_name(ifindex, point));
        let program = program(&mut self.ebpf, point.program())?;
        if let Ok(link) = sys::pinned(&pin)
            && sys::device_of_link(link.as_fd()).is_ok_and(|device| device == ifindex)
        {
            let fd = program.fd()?;
            return Ok(sys::replace_program(link.as_fd(), fd.as_fd())?);
        }
        remove(&pin)?;
        link(program, name, point)?.pin(&pin).with_context(|| format!("cannot pin {}", pin.display()))?;
        Ok(())
    }
}

/// Attaches by a new link. At tc outermost: programs of others see packets as the node's stack does.
fn link(program: &mut Program, name: &str, point: Point) -> Result<FdLink> {
    let (direction, order) = match point {
        Point::FromNetwork | Point::FromPod => (TcAttachType::Ingress, LinkOrder::first()),
        Point::ToNetwork | Point::ToPod => (TcAttachType::Egress, LinkOrder::last()),
        Point::EarlyNative | Point::EarlyGeneric => {
            let Program::Xdp(program) = program else { bail!("{EARLY} is no XDP program") };
            let native = point == Point::EarlyNative;
            let id = program.attach(name, if native { XdpMode::Driver } else { XdpMode::Skb })?;
            return Ok(program.take_link(id)?.try_into()?);
        }
    };
    let Program::SchedClassifier(program) = program else {
        bail!("{} is no tc program", point.program());
    };
    let id = program.attach_with_options(name, direction, TcAttachOptions::TcxOrder(order))?;
    Ok(program.take_link(id)?.try_into()?)
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
