//! The node's devices, by rtnetlink, and word of changes to them.

use std::{collections::BTreeSet, io, net::IpAddr};

use bytemuck::{Pod, Zeroable};
use nix::sys::socket::SockProtocol;

use super::Link;
use crate::netlink::{DUMP, Socket, attribute, find};

const GET_LINK: u16 = 18;
const GET_ROUTE: u16 = 26;
const ETHERNET: u16 = 1;
/// Types of devices whose packets begin with their IP header, `include/uapi/linux/if_arp.h`: IPIP, IP in IPv6, SIT, raw IP of
/// modems, none at all (WireGuard, tun). Not those of GRE, which show tc programs the tunnel's own header when packets come in
///, nor PPP.
const BARE: [u16; 5] = [768, 769, 776, 519, 0xfffe];
const FLAG_UP: u32 = 1;
const FLAG_LOOPBACK: u32 = 8;
const LINK_ADDRESS: u16 = 1;
const LINK_NAME: u16 = 3;
const LINK_MASTER: u16 = 10;
const LINK_INFO: u16 = 18;
const LINK_NETNS: u16 = 37;
const INFO_KIND: u16 = 1;
const ROUTE_TO: u16 = 1;
const ROUTE_DEVICE: u16 = 4;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const MAIN_TABLE: u8 = 254;
/// Links, IPv4 addresses, IPv6 addresses, routes of both.
const GROUPS: [u32; 5] = [1, 5, 9, 7, 11];

/// `struct ifinfomsg`, `include/uapi/linux/rtnetlink.h`.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Interface {
    family: u8,
    pad: u8,
    kind: u16,
    index: u32,
    flags: u32,
    change: u32,
}

/// `struct rtmsg`, the head of it.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Route {
    family: u8,
    destination_bits: u8,
    source_bits: u8,
    tos: u8,
    table: u8,
    protocol: u8,
    scope: u8,
    kind: u8,
    flags: u32,
}

/// All devices of this network namespace.
///
/// # Errors
/// The kernel does not tell.
pub fn links() -> io::Result<Vec<Link>> {
    let socket = Socket::open(SockProtocol::NetlinkRoute)?;
    let defaults = default_devices(&socket)?;
    let addresses = addresses();
    let mut links = Vec::new();
    socket.send(GET_LINK, DUMP, bytemuck::bytes_of(&Interface::zeroed()), &[])?;
    while socket.receive(|body| links.extend(parse(body)))? {}
    for link in &mut links {
        link.has_default_route = defaults.contains(&link.index);
        let own = addresses.iter().filter(|(name, _)| *name == link.name);
        link.addresses = own.map(|(_, address)| *address).collect();
    }
    Ok(links)
}

fn parse(body: &[u8]) -> Option<Link> {
    let (head, attributes) = body.split_at_checked(size_of::<Interface>())?;
    let head: Interface = bytemuck::pod_read_unaligned(head);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end_matches('\0').to_owned();
    let number = |bytes: &[u8]| bytes.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes));
    let kind = find(attributes, LINK_INFO).and_then(|info| find(info, INFO_KIND)).map(text);
    let mac = find(attributes, LINK_ADDRESS).and_then(|bytes| <[u8; 6]>::try_from(bytes).ok());
    Some(Link {
        index: head.index,
        name: find(attributes, LINK_NAME).map(text)?,
        kind: kind.unwrap_or_default(),
        is_loopback: head.flags & FLAG_LOOPBACK != 0,
        is_ethernet: head.kind == ETHERNET,
        is_bare: BARE.contains(&head.kind),
        is_up: head.flags & FLAG_UP != 0,
        master: find(attributes, LINK_MASTER).and_then(number).unwrap_or(0),
        leads_elsewhere: find(attributes, LINK_NETNS).is_some(),
        has_default_route: false,
        mac: mac.unwrap_or_default(),
        addresses: Vec::new(),
    })
}

/// The device by which the node would send packets to `to`.
///
/// # Errors
/// There is no route, or the kernel does not tell.
pub fn device_to(to: IpAddr) -> io::Result<u32> {
    let socket = Socket::open(SockProtocol::NetlinkRoute)?;
    let (family, octets) = match to {
        IpAddr::V4(v4) => (AF_INET, v4.octets().to_vec()),
        IpAddr::V6(v6) => (AF_INET6, v6.octets().to_vec()),
    };
    let request = Route { family, destination_bits: octets.len() as u8 * 8, ..Route::zeroed() };
    socket.send(GET_ROUTE, 0, bytemuck::bytes_of(&request), &attribute(ROUTE_TO, &octets))?;
    let mut device = None;
    socket.receive(|body| {
        let value = body.get(size_of::<Route>()..).and_then(|attributes| find(attributes, ROUTE_DEVICE));
        device = value.and_then(|bytes| bytes.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes)));
    })?;
    device.ok_or_else(|| io::Error::other("a route without a device"))
}

/// Indices of the devices by which default routes go.
fn default_devices(socket: &Socket) -> io::Result<BTreeSet<u32>> {
    let mut found = BTreeSet::new();
    for family in [AF_INET, AF_INET6] {
        let request = Route { family, ..Route::zeroed() };
        socket.send(GET_ROUTE, DUMP, bytemuck::bytes_of(&request), &[])?;
        while socket.receive(|body| found.extend(default_device(body)))? {}
    }
    Ok(found)
}

fn default_device(body: &[u8]) -> Option<u32> {
    let (head, attributes) = body.split_at_checked(size_of::<Route>())?;
    let head: Route = bytemuck::pod_read_unaligned(head);
    let is_default = head.destination_bits == 0 && head.table == MAIN_TABLE && head.kind == 1;
    let device = find(attributes, ROUTE_DEVICE)?.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes));
    device.filter(|_| is_default)
}

fn addresses() -> Vec<(String, IpAddr)> {
    let found = nix::ifaddrs::getifaddrs().into_iter().flatten();
    let address = |interface: nix::ifaddrs::InterfaceAddress| {
        let storage = interface.address?;
        let v4 = storage.as_sockaddr_in().map(|address| IpAddr::V4(address.ip()));
        let ip = v4.or_else(|| storage.as_sockaddr_in6().map(|address| IpAddr::V6(address.ip())))?;
        Some((interface.interface_name, ip))
    };
    found.filter_map(address).collect()
}

/// Hears of changes to devices, addresses and routes.
pub struct Watch(Socket);

impl Watch {
    /// Begins to listen.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn open() -> io::Result<Self> {
        Ok(Self(Socket::subscribe(SockProtocol::NetlinkRoute, &GROUPS)?))
    }

    /// Waits for the next change.
    ///
    /// # Errors
    /// The kernel's error; with `ENOBUFS` changes were missed, and more will come.
    pub fn wait(&self) -> io::Result<()> {
        self.0.receive(|_| {}).map(drop)
    }
}
