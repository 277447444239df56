//! Who `--from` of `sluice explain` is.

use std::net::IpAddr;

use anyhow::{Result, bail};
use sluice_common::{Addr, layout::ADDRESS_NODE};

use crate::{
    devices,
    inspect::{self, Sender},
    loader::{self, Point},
    maps::{Pins, Tables},
};

/// Whose packets are led, if it is packets that are: of clients outside, of pods that are left alone, and of whoever
/// `by_packets` asks about.
///
/// # Errors
/// Packets of pods are led nowhere.
pub fn sender(
    tables: &Tables,
    pins: &Pins,
    from: &str,
    (left_alone, by_packets): (bool, bool),
) -> Result<Option<Sender>> {
    if let Some(address) = outside(tables, pins, from) {
        return Ok(Some(Sender::Outside(address)));
    }
    let address = from.parse::<IpAddr>().ok().map(|address| address.to_canonical());
    let kind = address.and_then(|address| tables.addresses.get(&Addr::from(address)));
    if from == "host" || kind.is_some_and(|kind| kind & ADDRESS_NODE != 0) {
        return Ok(by_packets.then_some(Sender::Node));
    }
    let at_pods = loader::device_attachments(pins).iter().any(|item| item.point == Point::FromPod);
    if by_packets && !at_pods {
        bail!(
            "no program runs at a pod's device, so that packets of pods are led nowhere here; see --pod-devices"
        );
    }
    Ok((by_packets || (left_alone && at_pods)).then_some(Sender::Pod(address)))
}

/// The address of a client that is not of this node; `None` for the node itself and its pods.
///
/// Pods that no Service has as an endpoint are in no map: they are told by the device that leads to them.
fn outside(tables: &Tables, pins: &Pins, from: &str) -> Option<IpAddr> {
    let address = from.parse::<IpAddr>().ok()?.to_canonical();
    if inspect::is_of_this_node(tables, address) {
        return None;
    }
    let attached = loader::device_attachments(pins);
    let mut of_node = attached.iter().filter(|item| item.point == Point::FromNetwork).peekable();
    // Where there is no way back, or nothing to compare with, it is not from here.
    let Ok(device) = devices::device_to(address) else { return Some(address) };
    (of_node.peek().is_none() || of_node.any(|item| item.ifindex == device)).then_some(address)
}
