//! Programs at devices that come and go: a thread hears of changes, the programmer acts on them.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::mpsc,
    time::{Duration, Instant},
};

/// How often settings are looked at that nobody tells of.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

use anyhow::{Context as _, Result};
use ipnet::IpNet;
use sluice_common::{
    Addr,
    layout::{
        ANY_DEVICE, DEVICE_BARE, DEVICE_NO_TX, DEVICE_TAKES_RAW, DeviceValue, OPTION_BESIDE_OTHERS,
        OPTION_DSR_TCP, OPTION_DSR_UDP, OPTION_KEEP_CLIENTS, OPTION_SERVICE_CIDRS, OPTION_VIP_PING,
    },
};

use super::{
    Options,
    lending::{Lending, src_valid_mark},
};
use crate::{
    devices::{self, Link, NodeDevices, PodDevices, Role, Xdp},
    health::{AtDevice, Shared},
    loader::{self, Loaded, Point, Tc},
    maps::{
        Pins,
        bpf::{BpfMaps, Devices as DeviceMap},
    },
    model::{Change, Family},
    reconcile::Reconciler,
};

/// `--forwarding`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum Forwarding {
    /// In this node's name, and back by it.
    Snat,
    /// In a tunnel; the reply goes straight to the client.
    Dsr,
    /// TCP as with `dsr`, the rest as with `snat`.
    Hybrid,
}

impl Packets {
    /// As `CONFIG` has them.
    const fn options(&self, has_cidrs: bool) -> u64 {
        let ping = if self.vip_ping { OPTION_VIP_PING } else { 0 };
        let tunnels = match self.forwarding {
            Forwarding::Snat => 0,
            Forwarding::Dsr => OPTION_DSR_TCP | OPTION_DSR_UDP,
            Forwarding::Hybrid => OPTION_DSR_TCP,
        };
        let clients = if self.keep_clients { OPTION_KEEP_CLIENTS } else { 0 };
        let others = if self.beside_others { OPTION_BESIDE_OTHERS } else { 0 };
        ping | tunnels | clients | others | if has_cidrs { OPTION_SERVICE_CIDRS } else { 0 }
    }
}

/// Flags of the packet path.
#[derive(Clone, Debug)]
pub struct Packets {
    /// `--devices`.
    pub node_devices: NodeDevices,
    /// `--pod-devices`.
    pub pod_devices: PodDevices,
    /// `--xdp`.
    pub xdp: Xdp,
    /// `--tc`.
    pub tc: Tc,
    /// `--forwarding`.
    pub forwarding: Forwarding,
    /// `--vip-ping`.
    pub vip_ping: bool,
    /// `--beside-kube-proxy`.
    pub beside_others: bool,
    /// `--upstream-source pod`.
    pub keep_clients: bool,
    /// `--service-cidr`.
    pub service_cidrs: BTreeSet<IpNet>,
}

/// Keeps the programs at the devices where packets are balanced.
pub struct Devices {
    flags: Packets,
    map: DeviceMap,
    attached: Option<BTreeMap<(u32, Point), String>>,
    notes: Vec<String>,
    /// What of `attached` could be attached.
    running: BTreeSet<(u32, Point)>,
    /// What of it could not, and should.
    missing: BTreeSet<(u32, Point)>,
    /// The networks of cluster IPs as they are in the maps.
    cidrs: Option<BTreeSet<IpNet>>,
    links: Vec<Link>,
    lending: (Lending, Option<Instant>),
}

impl Devices {
    /// Nothing is attached yet.
    pub fn new(loaded: &Loaded, options: &Options) -> Result<Self> {
        let mut map = DeviceMap::open(loaded.pins())?;
        map.set_options(options.packets.options(false))?;
        Ok(Self {
            flags: options.packets.clone(),
            map,
            attached: None,
            notes: Vec::new(),
            running: BTreeSet::new(),
            missing: BTreeSet::new(),
            cidrs: None,
            links: Vec::new(),
            lending: (Lending::default(), None),
        })
    }

    /// Has packets dropped that are for addresses which cluster IPs are taken from and which no Service has: by the flags'
    /// networks and `more`.
    pub fn guard_cluster_ips(
        &mut self,
        reconciler: &mut Reconciler,
        maps: &mut BpfMaps,
        more: &BTreeSet<IpNet>,
        shared: &Shared,
    ) -> bool {
        let networks = &self.flags.service_cidrs | more;
        if self.cidrs.as_ref() == Some(&networks) {
            return true;
        }
        let mut set = || -> Result<()> {
            // Programs look into the map only while something is in it.
            if networks.is_empty() {
                self.map.set_options(self.flags.options(false))?;
            }
            reconciler.set_service_cidrs(maps, &networks)?;
            self.map.set_options(self.flags.options(!networks.is_empty()))
        };
        let result = set();
        let problem = result.as_ref().err().map(|error| format!("unallocated cluster IPs: {error:#}"));
        shared.problem("service-cidrs", problem);
        self.cidrs = result.is_ok().then_some(networks);
        self.cidrs.is_some()
    }

    /// Makes what runs at devices what should. `node` are the addresses of the Node object.
    pub fn serve(&mut self, loaded: &mut Loaded, node: &[IpAddr], shared: &Shared) -> bool {
        let (problems, notes) = match self.try_serve(loaded, node, shared) {
            Ok(found) => found,
            Err(error) => (vec![format!("{error:#}")], Vec::new()),
        };
        let topic = |text: &String| format!("devices/{text}");
        shared.keep_problems("devices/", problems.iter().map(topic));
        for text in &problems {
            shared.problem(&topic(text), Some(format!("packets are not balanced at every device: {text}")));
        }
        shared.clear("devices/");
        for text in notes {
            shared.warn(&topic(&text), text.clone());
        }
        problems.is_empty()
    }

    /// Problems, and what is worth a note.
    fn try_serve(
        &mut self,
        loaded: &mut Loaded,
        node: &[IpAddr],
        shared: &Shared,
    ) -> Result<(Vec<String>, Vec<String>)> {
        let links = devices::links().context("cannot list the network devices")?;
        let takers = if self.flags.xdp == Xdp::Off { BTreeSet::new() } else { devices::takers() };
        self.map.set(&values(&links, node, &takers))?;
        if self.links != links {
            self.links.clone_from(&links);
            self.lending.1 = None;
        }
        let unmatched = devices::unmatched(&links, &self.flags.node_devices, &self.flags.pod_devices);
        let roles = devices::roles(&links, node, &self.flags.node_devices, &self.flags.pod_devices);
        let unmatched = [unmatched, devices::left_to_tc(&links, &roles, self.flags.xdp)].concat();
        let wanted = self.wanted(&links, &roles);
        if self.attached.as_ref() == Some(&wanted) {
            return Ok((Vec::new(), [unmatched, self.notes.clone()].concat()));
        }
        let failed = loaded.attach_devices(&wanted, self.flags.tc);
        if self.flags.xdp != Xdp::Off {
            // A device takes raw packets from when it has an XDP program itself, of which there is no word.
            self.map.set(&values(&links, node, &devices::takers()))?;
        }
        // Overlay ends and bridges have no such driver; but where none has, `native` is not what it says.
        let early = |keys: &mut dyn Iterator<Item = &(u32, Point)>| {
            keys.filter(|(_, point)| *point == Point::EarlyNative).count()
        };
        let somewhere = early(&mut failed.keys()) < early(&mut wanted.keys());
        let optional =
            |point: Point| point == Point::EarlyNative && (somewhere || self.flags.xdp == Xdp::Auto);
        let (optional, fatal): (BTreeMap<_, _>, BTreeMap<_, _>) =
            failed.into_iter().partition(|((_, point), _)| optional(*point));
        let name =
            |key: &(u32, Point)| wanted.get(key).cloned().unwrap_or_else(|| format!("device {}", key.0));
        let problems: Vec<String> =
            fatal.iter().map(|(key, error)| format!("{} ({}): {error}", name(key), key.1.hook())).collect();
        self.notes = optional
            .iter()
            .map(|(key, error)| format!("{}: packets are balanced by tc alone: {error}", name(key)))
            .collect();
        self.running = wanted.keys().filter(|key| !optional.contains_key(key)).copied().collect();
        self.missing = fatal.keys().copied().collect();
        self.lending.1 = None;
        let at_device = |(ifindex, point): &(u32, Point)| AtDevice {
            program: point.program().to_owned(),
            device: name(&(*ifindex, *point)),
            ifindex: *ifindex,
        };
        let at_devices = self.running.iter().map(at_device).collect();
        shared.update(|state| state.at_devices = at_devices);
        self.attached = problems.is_empty().then_some(wanted);
        Ok((problems, [unmatched, self.notes.clone()].concat()))
    }

    /// What should run where; with the name of the device.
    fn wanted(&self, links: &[Link], roles: &BTreeMap<u32, Role>) -> BTreeMap<(u32, Point), String> {
        let early = match self.flags.xdp {
            Xdp::Off => None,
            Xdp::Auto | Xdp::Native => Some(Point::EarlyNative),
            Xdp::Generic => Some(Point::EarlyGeneric),
        };
        let mut wanted = BTreeMap::new();
        for link in links {
            let points = match roles.get(&link.index) {
                Some(Role::Node) => {
                    let early = early.filter(|_| devices::why_not_early(link, self.flags.xdp).is_none());
                    [Some(Point::FromNetwork), Some(Point::ToNetwork), early]
                }
                Some(Role::Pod) => [Some(Point::FromPod), Some(Point::ToPod), None],
                None => continue,
            };
            wanted.extend(points.into_iter().flatten().map(|point| ((link.index, point), link.name.clone())));
        }
        wanted
    }

    /// Behind which devices endpoints may see pods' own addresses; `None` where none may.
    pub fn lending(&mut self) -> Option<&Lending> {
        if !self.flags.keep_clients {
            return None;
        }
        if self.lending.1.is_none_or(|at| at.elapsed() >= LOOK_AGAIN) {
            let running = &self.running - &self.missing;
            self.lending = (Lending::new(&self.links, &running, src_valid_mark), Some(Instant::now()));
        }
        Some(&self.lending.0)
    }

    /// Whether somebody took away what we attached.
    pub fn is_detached(&self, pins: &Pins) -> bool {
        let present = loader::device_attachments(pins);
        let runs = |(ifindex, point): &(u32, Point)| {
            present.iter().any(|item| item.attached && (item.ifindex, item.point) == (*ifindex, *point))
        };
        self.attached.is_some() && !self.running.iter().all(runs)
    }

    /// Looks at everything anew the next time.
    pub fn forget(&mut self) {
        self.attached = None;
    }
}

/// What programs must know of each device, and of the node where a device has no address of its own.
fn values(links: &[Link], node: &[IpAddr], takers: &BTreeSet<u32>) -> BTreeMap<u32, DeviceValue> {
    let address = |addresses: &[IpAddr], family| {
        let usable = addresses.iter().find(|address| Family::of(**address) == family && is_global(address));
        usable.map_or(Addr::UNSPECIFIED, |address| Addr::from(*address))
    };
    let value = |addresses: &[IpAddr], mac, flags| DeviceValue {
        v4: address(addresses, Family::V4),
        v6: address(addresses, Family::V6),
        mac,
        flags,
        pad: 0,
    };
    // What XDP hands to a tun it hands with its Ethernet header, which nobody there expects.
    let takes_raw = |link: &Link| takers.contains(&link.index) && !link.is_bare;
    let flags = |link: &Link| {
        let bits = [
            (takes_raw(link), DEVICE_TAKES_RAW),
            (link.kind == "veth", DEVICE_NO_TX),
            (link.is_bare, DEVICE_BARE),
        ];
        bits.into_iter().filter(|(is_on, _)| *is_on).map(|(_, bit)| bit).sum()
    };
    let main = links.iter().find(|link| link.has_default_route).map_or(&[][..], |link| &link.addresses);
    let any = if node.is_empty() { main } else { node };
    let mut values: BTreeMap<u32, DeviceValue> = links
        .iter()
        .filter(|link| !link.is_loopback)
        .map(|link| (link.index, value(&link.addresses, link.mac, flags(link))))
        .collect();
    values.insert(ANY_DEVICE, value(any, [0; 6], 0));
    values
}

const fn is_global(address: &IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => !v4.is_link_local() && !v4.is_loopback(),
        IpAddr::V6(v6) => !v6.is_unicast_link_local() && !v6.is_loopback(),
    }
}

/// Starts the thread that makes the programmer look at the devices when something about them changes.
pub fn watch(news: mpsc::Sender<Vec<Change>>) -> Result<()> {
    let watch = devices::Watch::open().context("cannot listen to changes of network devices")?;
    std::thread::Builder::new().name("devices".to_owned()).spawn(move || {
        loop {
            if watch.wait().is_err() {
                // Missed changes are made up for by the look that follows; anything else must not spin.
                std::thread::sleep(Duration::from_millis(100));
            }
            if news.send(Vec::new()).is_err() {
                return;
            }
        }
    })?;
    Ok(())
}
