//! Routes that make the addresses which the redirector serves local to the node (`ip route add local ADDRESS dev lo`),
//! so that connections to them reach sk_lookup. Ours are known by their protocol number.

use std::{collections::BTreeSet, io, net::IpAddr};

use bytemuck::{Pod, Zeroable};
use nix::sys::socket::SockProtocol;

use crate::netlink::{ACK, DUMP, Socket, attribute, find};

mod marked;

pub use marked::sync as sync_marked;

/// In `/etc/iproute2/rt_protos` nobody has this number.
const OURS: u8 = 201;
const NEW: u16 = 24;
const DELETE: u16 = 25;
const GET: u16 = 26;
/// Create, and fail if it is there: the kernel's own routes are not ours to replace.
const CREATE: u16 = 0x400 | 0x200;
const DESTINATION: u16 = 1;
const DEVICE: u16 = 4;
const PREFERRED_SOURCE: u16 = 7;
/// The loopback is the first device of every network namespace.
const LOOPBACK: u32 = 1;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// `struct rtmsg`, `include/uapi/linux/rtnetlink.h`.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Route {
    family: u8,
    destination_bits: u8,
    source_bits: u8,
    tos: u8,
    /// 255: local.
    table: u8,
    protocol: u8,
    /// 254: host.
    scope: u8,
    /// 2: local.
    kind: u8,
    flags: u32,
}

/// Makes the local routes of ours those to `wanted`. The node dials them from its first address of the family in `node`,
/// and not from the address itself.
///
/// # Errors
/// The kernel refuses; what was done stands, and calling again does the rest.
pub fn sync(wanted: &BTreeSet<IpAddr>, node: &[IpAddr]) -> io::Result<()> {
    let socket = Socket::open(SockProtocol::NetlinkRoute)?;
    let present = list(&socket)?;
    let mut first_error = None;
    for address in wanted.difference(&present) {
        let source = node.iter().find(|own| own.is_ipv4() == address.is_ipv4());
        // A source that is not usable yet is no reason to go without the route.
        let result = change(&socket, NEW, CREATE, address, source)
            .or_else(|_| change(&socket, NEW, CREATE, address, None));
        first_error = first_error.or(result.err());
    }
    for address in present.difference(wanted) {
        first_error = first_error.or(change(&socket, DELETE, 0, address, None).err());
    }
    first_error.map_or(Ok(()), Err)
}

fn list(socket: &Socket) -> io::Result<BTreeSet<IpAddr>> {
    let mut found = BTreeSet::new();
    for family in [AF_INET, AF_INET6] {
        let route = Route { family, ..Route::zeroed() };
        socket.send(GET, DUMP, bytemuck::bytes_of(&route), &[])?;
        while socket.receive(|body| found.extend(parse(body)))? {}
    }
    Ok(found)
}

fn change(
    socket: &Socket,
    kind: u16,
    flags: u16,
    address: &IpAddr,
    source: Option<&IpAddr>,
) -> io::Result<()> {
    let octets = octets(address);
    let route = Route {
        family: if address.is_ipv4() { AF_INET } else { AF_INET6 },
        destination_bits: octets.len() as u8 * 8,
        source_bits: 0,
        tos: 0,
        table: 255,
        protocol: OURS,
        scope: if address.is_ipv4() { 254 } else { 0 },
        kind: 2,
        flags: 0,
    };
    let mut attributes = attribute(DESTINATION, &octets);
    attributes.extend(attribute(DEVICE, &LOOPBACK.to_ne_bytes()));
    attributes
        .extend(source.map(|source| attribute(PREFERRED_SOURCE, &self::octets(source))).unwrap_or_default());
    socket.send(kind, flags | ACK, bytemuck::bytes_of(&route), &attributes)?;
    socket.receive(|_| {}).map(drop)
}

fn octets(address: &IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

/// The address of a route of ours.
fn parse(body: &[u8]) -> Option<IpAddr> {
    let route: Route = bytemuck::pod_read_unaligned(body.get(..size_of::<Route>())?);
    if route.protocol != OURS || route.kind != 2 {
        return None;
    }
    let octets = find(&body[size_of::<Route>()..], DESTINATION)?;
    let v4 = <[u8; 4]>::try_from(octets).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(octets).map(IpAddr::from)).ok()
}
