//! Programs at devices that come and go: a thread hears of changes, the programmer acts on them.

use std::{collections::BTreeMap, net::IpAddr, sync::mpsc, time::Duration};

use anyhow::{Context as _, Result};
use sluice_common::{
    Addr,
    layout::{ANY_DEVICE, DeviceValue, OPTION_VIP_PING},
};

use super::Options;
use crate::{
    devices::{self, Link, NodeDevices, PodDevices, Role},
    health::Shared,
    loader::{Loaded, Point},
    maps::bpf::Devices as DeviceMap,
    model::{Change, Family},
};

/// Flags of the packet path.
#[derive(Clone, Debug)]
pub struct Packets {
    /// `--devices`.
    pub node_devices: NodeDevices,
    /// `--pod-devices`.
    pub pod_devices: PodDevices,
    /// `--vip-ping`.
    pub vip_ping: bool,
}

/// Keeps the programs at the devices where packets are balanced.
pub struct Devices {
    flags: Packets,
    map: DeviceMap,
    attached: Option<BTreeMap<(u32, Point), String>>,
}

impl Devices {
    /// Nothing is attached yet.
    pub fn new(loaded: &Loaded, options: &Options) -> Result<Self> {
        let mut map = DeviceMap::open(loaded.pins())?;
        map.set_options(if options.packets.vip_ping { OPTION_VIP_PING } else { 0 })?;
        Ok(Self { flags: options.packets.clone(), map, attached: None })
    }

    /// Makes what runs at devices what should. `node` are the addresses of the Node object.
    pub fn serve(&mut self, loaded: &mut Loaded, node: &[IpAddr], shared: &Shared) -> bool {
        let result = self.try_serve(loaded, node);
        let problems = result.unwrap_or_else(|error| BTreeMap::from([(String::new(), format!("{error:#}"))]));
        let topic = |device: &String| format!("devices/{device}");
        shared.keep_problems("devices/", problems.keys().map(topic));
        for (device, error) in &problems {
            let text = format!("packets are not balanced at every device: {device}: {error}");
            shared.problem(&topic(device), Some(text));
        }
        problems.is_empty()
    }

    fn try_serve(&mut self, loaded: &mut Loaded, node: &[IpAddr]) -> Result<BTreeMap<String, String>> {
        let links = devices::links().context("cannot list the network devices")?;
        self.map.set(&values(&links, node))?;
        let roles = devices::roles(&links, node, &self.flags.node_devices, &self.flags.pod_devices);
        let points = |role| match role {
            Role::Node => [Point::FromNetwork, Point::ToNetwork],
            Role::Pod => [Point::FromPod, Point::ToPod],
        };
        let named = links.iter().filter_map(|link| Some((link, *roles.get(&link.index)?)));
        let wanted: BTreeMap<(u32, Point), String> = named
            .flat_map(|(link, role)| points(role).map(|point| ((link.index, point), link.name.clone())))
            .collect();
        if self.attached.as_ref() == Some(&wanted) {
            return Ok(BTreeMap::new());
        }
        let problems = loaded.attach_devices(&wanted);
        self.attached = problems.is_empty().then_some(wanted);
        Ok(problems)
    }

    /// Looks at everything anew the next time.
    pub fn forget(&mut self) {
        self.attached = None;
    }
}

/// What programs must know of each device, and of the node where a device has no address of its own.
fn values(links: &[Link], node: &[IpAddr]) -> BTreeMap<u32, DeviceValue> {
    let address = |addresses: &[IpAddr], family| {
        let usable = addresses.iter().find(|address| Family::of(**address) == family && is_global(address));
        usable.map_or(Addr::UNSPECIFIED, |address| Addr::from(*address))
    };
    let value = |addresses: &[IpAddr], mac| DeviceValue {
        v4: address(addresses, Family::V4),
        v6: address(addresses, Family::V6),
        mac,
        pad: [0; 2],
    };
    let main = links.iter().find(|link| link.has_default_route).map_or(&[][..], |link| &link.addresses);
    let any = if node.is_empty() { main } else { node };
    let mut values: BTreeMap<u32, DeviceValue> = links
        .iter()
        .filter(|link| !link.is_loopback)
        .map(|link| (link.index, value(&link.addresses, link.mac)))
        .collect();
    values.insert(ANY_DEVICE, value(any, [0; 6]));
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
