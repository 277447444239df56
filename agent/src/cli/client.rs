//! Who `--from` of `sluice explain` is.

use std::net::IpAddr;

use crate::{
    devices, inspect,
    loader::{self, Point},
    maps::{Pins, Tables},
};

/// The address of a client that is not of this node; `None` for the node itself and its pods.
///
/// Pods that no Service has as an endpoint are in no map: they are told by the device that leads to them.
pub fn outside(tables: &Tables, pins: &Pins, from: &str) -> Option<IpAddr> {
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
