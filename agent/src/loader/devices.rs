//! Programs of the packet path at devices: by links that outlive us, one for each device and program; where the kernel has
//! no such links for tc, by filters.

use std::{collections::BTreeMap, os::fd::AsFd as _, path::Path};

use anyhow::{Context as _, Result, bail};
use aya::programs::{LinkOrder, Program, TcAttachType, XdpMode, links::FdLink, tc::TcAttachOptions};
use rustix::io::Errno;

use super::{
    EARLY, Loaded,
    clsact::{self, Filter},
    features, program,
};
use crate::{devices, maps::Pins, sys};

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

    /// Whether it is XDP's.
    const fn is_early(self) -> bool {
        match self {
            Self::EarlyNative | Self::EarlyGeneric => true,
            Self::FromNetwork | Self::ToNetwork | Self::FromPod | Self::ToPod => false,
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

/// `--tc`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum Tc {
    /// By TCX where the kernel has it (Linux 6.6), else by clsact.
    Auto,
    /// By TCX links.
    Tcx,
    /// By filters at the queueing discipline clsact, as on older kernels.
    Clsact,
}

impl Tc {
    /// Whether programs at tc are filters.
    fn is_clsact(self) -> bool {
        match self {
            Self::Tcx => false,
            Self::Clsact => true,
            Self::Auto => !features::has_tcx(),
        }
    }
}

/// A program at a device, as pins and filters tell.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DeviceAttachment {
    /// Which.
    pub point: Point,
    /// Interface index.
    pub ifindex: u32,
    /// Whether the link is there and its device too.
    pub attached: bool,
    filter: Option<Filter>,
}

impl DeviceAttachment {
    /// The hook, as people know it.
    pub const fn hook(&self) -> &'static str {
        match (&self.filter, self.point) {
            (Some(_), Point::FromNetwork | Point::FromPod) => "clsact/ingress",
            (Some(_), Point::ToNetwork | Point::ToPod) => "clsact/egress",
            (_, point) => point.hook(),
        }
    }

    fn key(&self) -> (u32, Point) {
        (self.ifindex, self.point)
    }

    /// Takes the program away from the device.
    fn remove(&self, pins: &Pins) -> Result<()> {
        match &self.filter {
            Some(filter) => Ok(clsact::detach(filter)?),
            // Without its pin the link goes, and the program with it.
            None => remove(&pins.link(&pin_name(self.ifindex, self.point))),
        }
    }
}

fn pin_name(ifindex: u32, point: Point) -> String {
    format!("device-{ifindex}-{}", point.label())
}

fn parse(name: &str) -> Option<(u32, Point)> {
    let (ifindex, program) = name.strip_prefix("device-")?.split_once('-')?;
    let point = Point::ALL.into_iter().find(|point| point.label() == program)?;
    Some((ifindex.parse().ok()?, point))
}

/// Whether a pin is of a link at a device, as we name them.
pub(super) fn is_of_device(pin: &Path) -> bool {
    pin.file_name().and_then(|name| parse(name.to_str()?)).is_some()
}

/// What is attached to devices; needs no agent.
pub fn device_attachments(pins: &Pins) -> Vec<DeviceAttachment> {
    let files = std::fs::read_dir(pins.links()).into_iter().flatten().flatten();
    let names = files.filter_map(|file| parse(file.file_name().to_str()?));
    let links = names.map(|(ifindex, point)| {
        let link = sys::pinned(&pins.link(&pin_name(ifindex, point)));
        let device = link.and_then(|link| sys::device_of_link(link.as_fd()));
        let attached = device.is_ok_and(|device| device == ifindex);
        DeviceAttachment { point, ifindex, attached, filter: None }
    });
    let filters = clsact::filters().unwrap_or_default().into_iter().map(|filter| {
        let (point, ifindex) = (filter.point, filter.ifindex);
        DeviceAttachment { point, ifindex, attached: true, filter: Some(filter) }
    });
    let mut found: Vec<DeviceAttachment> = links.chain(filters).collect();
    found.sort_by_key(DeviceAttachment::key);
    found
}

impl Loaded {
    /// Makes these devices (index, name), and no others, run this binary's programs. Returns what went wrong; a device that
    /// went since it was listed is no failure.
    pub fn attach_devices(
        &mut self,
        wanted: &BTreeMap<(u32, Point), String>,
        tc: Tc,
    ) -> BTreeMap<(u32, Point), String> {
        let is_clsact = tc.is_clsact();
        let mut problems = BTreeMap::new();
        let mut remove = |items: Vec<DeviceAttachment>, pins: &Pins| {
            for item in items {
                if let Err(error) = item.remove(pins) {
                    problems.insert(item.key(), format!("{error:#}"));
                }
            }
        };
        let (filters, links): (Vec<_>, Vec<_>) =
            device_attachments(&self.pins).into_iter().partition(|item| item.filter.is_some());
        let gone = links.iter().filter(|item| !wanted.contains_key(&item.key())).cloned().collect();
        remove(gone, &self.pins);
        let mut failed = BTreeMap::new();
        for ((ifindex, point), name) in wanted {
            if let Err(error) = self.attach_device(*ifindex, name, *point, is_clsact)
                && !is_gone(*ifindex)
            {
                failed.insert((*ifindex, *point), format!("{error:#}"));
            }
        }
        // What took the place of others of ours runs by now, so that nothing passes in between.
        let has_place = |item: &DeviceAttachment| {
            wanted.keys().any(|(ifindex, point)| {
                is_clsact
                    && *ifindex == item.ifindex
                    && !point.is_early()
                    && clsact::is_same_place(*point, item.point)
            })
        };
        // Where the new form failed, the old one stays.
        let goes = |item: &DeviceAttachment| !failed.contains_key(&item.key());
        remove(filters.into_iter().filter(|item| !has_place(item) && goes(item)).collect(), &self.pins);
        let is_tc = |item: &DeviceAttachment| !item.point.is_early() && wanted.contains_key(&item.key());
        remove(links.into_iter().filter(|item| is_clsact && is_tc(item) && goes(item)).collect(), &self.pins);
        problems.extend(failed);
        problems
    }

    fn attach_device(&mut self, ifindex: u32, name: &str, point: Point, is_clsact: bool) -> Result<()> {
        let pin = self.pins.link(&pin_name(ifindex, point));
        let program = program(&mut self.ebpf, point.program())?;
        if is_clsact && !point.is_early() {
            let fd = program.fd()?;
            return clsact::attach(ifindex, point, fd.as_fd()).context("no filter at clsact");
        }
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

/// Whether there is no such device, by now.
fn is_gone(ifindex: u32) -> bool {
    devices::links().is_ok_and(|links| links.iter().all(|link| link.index != ifindex))
}

/// Attaches by a new link. At tc outermost: programs of others see packets as the node's stack does.
fn link(program: &mut Program, name: &str, point: Point) -> Result<FdLink> {
    let (direction, order) = match point {
        Point::FromNetwork | Point::FromPod => (TcAttachType::Ingress, LinkOrder::first()),
        Point::ToNetwork | Point::ToPod => (TcAttachType::Egress, LinkOrder::last()),
        Point::EarlyNative | Point::EarlyGeneric => {
            let Program::Xdp(program) = program else { bail!("{EARLY} is no XDP program") };
            let native = point == Point::EarlyNative;
            let attached = program.attach(name, if native { XdpMode::Driver } else { XdpMode::Skb });
            let id = attached.map_err(anyhow::Error::from).map_err(|error| {
                let why = early_refusal(&error);
                error.context(why)
            })?;
            return Ok(program.take_link(id)?.try_into()?);
        }
    };
    let Program::SchedClassifier(program) = program else {
        bail!("{} is no tc program", point.program());
    };
    let id = program.attach_with_options(name, direction, TcAttachOptions::TcxOrder(order))?;
    Ok(program.take_link(id)?.try_into()?)
}

/// Why XDP is not at a device, as far as the kernel's number tells.
fn early_refusal(error: &anyhow::Error) -> &'static str {
    let cause = error.chain().find_map(|cause| cause.downcast_ref::<std::io::Error>());
    match cause.and_then(Errno::from_io_error) {
        // In the same mode, or in another one.
        Some(Errno::BUSY | Errno::EXIST) => "another XDP program is at the device already",
        Some(Errno::OPNOTSUPP) => "no XDP in its driver",
        _ => "XDP cannot be attached",
    }
}

/// Takes every program away from devices; returns the pins that are gone.
pub(super) fn detach_all(pins: &Pins) -> Result<Vec<std::path::PathBuf>> {
    let mut gone = Vec::new();
    for item in device_attachments(pins) {
        item.remove(pins).with_context(|| {
            format!("cannot take {} away from device {}", item.point.program(), item.ifindex)
        })?;
        if item.filter.is_none() {
            gone.push(pins.link(&pin_name(item.ifindex, item.point)));
        }
    }
    Ok(gone)
}

fn remove(pin: &Path) -> Result<()> {
    match std::fs::remove_file(pin) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error).with_context(|| format!("cannot remove {}", pin.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn why_xdp_is_not_at_a_device_is_told_by_the_number() {
        for (errno, want) in [
            (Errno::BUSY, "another XDP program is at the device already"),
            (Errno::EXIST, "another XDP program is at the device already"),
            (Errno::OPNOTSUPP, "no XDP in its driver"),
            (Errno::NOMEM, "XDP cannot be attached"),
        ] {
            let error = anyhow::Error::from(std::io::Error::from(errno)).context("bpf_link_create failed");
            assert_eq!(early_refusal(&error), want, "{errno}");
        }
        assert_eq!(early_refusal(&anyhow::anyhow!("no number")), "XDP cannot be attached");
    }
}
