//! Which devices take packets from XDP programs at other devices, by the generic netlink family `netdev` (Linux 6.3).

use std::{collections::BTreeSet, io};

use nix::sys::socket::SockProtocol;

use crate::netlink::{DUMP, Socket, attribute, find};

const CONTROL: u16 = 0x10;
/// `struct genlmsghdr`: command, version, zero.
const GET_FAMILY: [u8; 4] = [3, 1, 0, 0];
const GET_DEVICE: [u8; 4] = [1, 1, 0, 0];
const FAMILY_ID: u16 = 1;
const FAMILY_NAME: u16 = 2;
const DEVICE_INDEX: u16 = 1;
const DEVICE_FEATURES: u16 = 3;
/// `NETDEV_XDP_ACT_NDO_XMIT`, `include/uapi/linux/netdev.h`.
const TAKES: u64 = 4;

/// Their interface indices; none where the kernel does not tell.
pub fn takers() -> BTreeSet<u32> {
    ask().unwrap_or_default()
}

/// Whether the kernel tells.
pub fn are_told() -> bool {
    Socket::open(SockProtocol::NetlinkGeneric).and_then(|socket| family(&socket)).is_ok_and(|id| id.is_some())
}

/// The family's number, which each kernel gives anew.
fn family(socket: &Socket) -> io::Result<Option<u16>> {
    let mut family = None;
    socket.send(CONTROL, 0, &GET_FAMILY, &attribute(FAMILY_NAME, b"netdev\0"))?;
    socket.receive(|body| {
        let id = body.get(4..).and_then(|attributes| find(attributes, FAMILY_ID));
        family = id.and_then(|id| id.first_chunk()).map(|id| u16::from_ne_bytes(*id));
    })?;
    Ok(family)
}

fn ask() -> io::Result<BTreeSet<u32>> {
    let socket = Socket::open(SockProtocol::NetlinkGeneric)?;
    let Some(family) = family(&socket)? else {
        return Ok(BTreeSet::new());
    };
    let mut found = BTreeSet::new();
    socket.send(family, DUMP, &GET_DEVICE, &[])?;
    while socket.receive(|body| found.extend(taker(body)))? {}
    Ok(found)
}

fn taker(body: &[u8]) -> Option<u32> {
    let attributes = body.get(4..)?;
    let index = u32::from_ne_bytes(*find(attributes, DEVICE_INDEX)?.first_chunk()?);
    let features = u64::from_ne_bytes(*find(attributes, DEVICE_FEATURES)?.first_chunk()?);
    (features & TAKES != 0).then_some(index)
}
