//! tc on kernels without TCX (before Linux 6.6): a filter at a device's clsact queueing discipline, by rtnetlink.
//!
//! A filter lives as long as its device and needs no pin. Ours are known by priority and handle, one for each direction, so
//! that a new program takes the old one's place in one step. Whether the discipline is ours too is noted in the filter's
//! name, for the kernel keeps no other note with it.

use std::{
    collections::BTreeSet,
    io,
    os::fd::{AsRawFd as _, BorrowedFd},
};

use bytemuck::{Pod, Zeroable};
use nix::sys::socket::SockProtocol;

use super::Point;
use crate::netlink::{ACK, DUMP, NESTED, Socket, attribute, find};

const NEW_QDISC: u16 = 36;
const DELETE_QDISC: u16 = 37;
const GET_QDISC: u16 = 38;
const NEW_FILTER: u16 = 44;
const DELETE_FILTER: u16 = 45;
const GET_FILTER: u16 = 46;
const CREATE: u16 = 0x400;
const EXCLUSIVE: u16 = 0x200;
/// Attributes, `include/uapi/linux/rtnetlink.h`: which kind, and what the kind alone knows.
const KIND: u16 = 1;
const OPTIONS: u16 = 2;
/// Attributes of a filter that is a program, `include/uapi/linux/pkt_cls.h`.
const BPF_FD: u16 = 6;
const BPF_NAME: u16 = 7;
const BPF_FLAGS: u16 = 8;
/// The program's verdict is the filter's.
const DIRECT_ACTION: u32 = 1;
const CLSACT: &[u8] = b"clsact\0";
/// Where that discipline is, its own number, and the two places where it has filters.
const PLACE: u32 = 0xffff_fff1;
const HANDLE: u32 = 0xffff_0000;
const INGRESS: u32 = 0xffff_fff2;
const EGRESS: u32 = 0xffff_fff3;
/// Of all protocols.
const EVERY_PROTOCOL: u16 = 3;
/// Before the filters of those who name no priority: what they let pass goes past all behind them, us too. On its way out a
/// packet is therefore seen by them as it is on the wire.
const PRIORITY: u16 = 3;
/// The number of our filters.
const OURS: u32 = 0x51ce;
const PREFIX: &str = "sluice/";
const WITH_QDISC: &str = "+clsact";

/// `struct tcmsg`, `include/uapi/linux/rtnetlink.h`.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Message {
    family: u8,
    pad: [u8; 3],
    ifindex: u32,
    handle: u32,
    parent: u32,
    /// Of a filter: priority, then protocol in network byte order.
    info: u32,
}

/// A filter of ours.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Filter {
    /// Interface index.
    pub ifindex: u32,
    /// The program.
    pub point: Point,
    /// Whether we made the discipline.
    owns_qdisc: bool,
}

const fn parent(point: Point) -> u32 {
    match point {
        Point::ToNetwork | Point::ToPod => EGRESS,
        Point::FromNetwork | Point::FromPod | Point::EarlyNative | Point::EarlyGeneric => INGRESS,
    }
}

/// Whether both have the same place at a device, where there is room for one.
pub const fn is_same_place(one: Point, other: Point) -> bool {
    parent(one) == parent(other)
}

const fn message(ifindex: u32, point: Point) -> Message {
    let info = (PRIORITY as u32) << 16 | EVERY_PROTOCOL.to_be() as u32;
    Message { family: 0, pad: [0; 3], ifindex, handle: OURS, parent: parent(point), info }
}

const fn qdisc(ifindex: u32) -> Message {
    Message { family: 0, pad: [0; 3], ifindex, handle: HANDLE, parent: PLACE, info: 0 }
}

/// Makes the device run the program: in place if a filter of ours is there.
///
/// # Errors
/// The kernel refuses.
pub fn attach(ifindex: u32, point: Point, program: BorrowedFd<'_>) -> io::Result<()> {
    let socket = Socket::open(SockProtocol::NetlinkRoute)?;
    let made = ask(&socket, NEW_QDISC, CREATE | EXCLUSIVE, &qdisc(ifindex), &attribute(KIND, CLSACT));
    let owns_qdisc = match made {
        Ok(()) => true,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            if !with_clsact(&socket)?.contains(&ifindex) {
                return Err(io::Error::other(
                    "an ingress queueing discipline has clsact's place; remove it (tc qdisc del dev DEVICE ingress)",
                ));
            }
            at_device(&socket, ifindex)?.0.iter().any(|filter| filter.owns_qdisc)
        }
        Err(error) => return Err(error),
    };
    let name = format!("{PREFIX}{}{}\0", point.program(), if owns_qdisc { WITH_QDISC } else { "" });
    let mut options = attribute(BPF_FD, &program.as_raw_fd().to_ne_bytes());
    options.extend(attribute(BPF_NAME, name.as_bytes()));
    options.extend(attribute(BPF_FLAGS, &DIRECT_ACTION.to_ne_bytes()));
    let attributes = [attribute(KIND, b"bpf\0"), attribute(OPTIONS | NESTED, &options)].concat();
    let result = ask(&socket, NEW_FILTER, CREATE, &message(ifindex, point), &attributes);
    if result.is_err() && owns_qdisc {
        let _stays_until_cleanup = remove_qdisc(&socket, ifindex);
    }
    result
}

/// Removes a filter, and the discipline if it is ours and nobody uses it.
///
/// # Errors
/// The kernel refuses. What is gone already is no error.
pub fn detach(filter: &Filter) -> io::Result<()> {
    let socket = Socket::open(SockProtocol::NetlinkRoute)?;
    let owns_qdisc = at_device(&socket, filter.ifindex)?.0.iter().any(|filter| filter.owns_qdisc);
    match ask(&socket, DELETE_FILTER, 0, &message(filter.ifindex, filter.point), &[]) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    if owns_qdisc { remove_qdisc(&socket, filter.ifindex) } else { Ok(()) }
}

/// Only if it has no filter.
fn remove_qdisc(socket: &Socket, ifindex: u32) -> io::Result<()> {
    let (_, count) = at_device(socket, ifindex)?;
    if count > 0 { Ok(()) } else { ask(socket, DELETE_QDISC, 0, &qdisc(ifindex), &[]) }
}

/// Our filters at all devices of this network namespace.
///
/// # Errors
/// The kernel does not tell.
pub fn filters() -> io::Result<Vec<Filter>> {
    let socket = Socket::open(SockProtocol::NetlinkRoute)?;
    let mut found = Vec::new();
    for ifindex in with_clsact(&socket)? {
        found.extend(at_device(&socket, ifindex)?.0);
    }
    Ok(found)
}

/// The devices with that discipline.
fn with_clsact(socket: &Socket) -> io::Result<BTreeSet<u32>> {
    let mut found = BTreeSet::new();
    socket.send(GET_QDISC, DUMP, bytemuck::bytes_of(&Message::zeroed()), &[])?;
    let device = |body: &[u8]| {
        let (message, attributes) = parse(body)?;
        (find(attributes, KIND)? == CLSACT).then_some(message.ifindex)
    };
    while socket.receive(|body| found.extend(device(body)))? {}
    Ok(found)
}

/// Our filters at the device, and how many there are of anybody.
fn at_device(socket: &Socket, ifindex: u32) -> io::Result<(Vec<Filter>, usize)> {
    let (mut found, mut count) = (Vec::new(), 0);
    for parent in [INGRESS, EGRESS] {
        let request = Message { ifindex, parent, ..Message::zeroed() };
        socket.send(GET_FILTER, DUMP, bytemuck::bytes_of(&request), &[])?;
        while socket.receive(|body| {
            count += 1;
            found.extend(own(body));
        })? {}
    }
    Ok((found, count))
}

fn parse(body: &[u8]) -> Option<(Message, &[u8])> {
    let (head, attributes) = body.split_at_checked(size_of::<Message>())?;
    Some((bytemuck::pod_read_unaligned(head), attributes))
}

/// The filter in a message, if it is ours.
fn own(body: &[u8]) -> Option<Filter> {
    let (message, attributes) = parse(body)?;
    let name = find(find(attributes, OPTIONS)?, BPF_NAME)?;
    let name = std::str::from_utf8(name).ok()?.trim_end_matches('\0').strip_prefix(PREFIX)?;
    let (program, owns_qdisc) = match name.strip_suffix(WITH_QDISC) {
        Some(program) => (program, true),
        None => (name, false),
    };
    let point = Point::ALL.into_iter().find(|point| point.program() == program)?;
    let (own, priority) = (message.handle == OURS, (message.info >> 16) as u16);
    (own && priority == PRIORITY).then_some(Filter { ifindex: message.ifindex, point, owns_qdisc })
}

fn ask(socket: &Socket, kind: u16, flags: u16, message: &Message, attributes: &[u8]) -> io::Result<()> {
    socket.send(kind, flags | ACK, bytemuck::bytes_of(message), attributes)?;
    socket.receive(|_| {}).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_of_ours_are_known_by_number_priority_and_name() {
        let ours = message(7, Point::ToPod);
        let bytes = |message: Message, name: &str| {
            let options = attribute(BPF_NAME, format!("{name}\0").as_bytes());
            [bytemuck::bytes_of(&message), &attribute(KIND, b"bpf\0"), &attribute(OPTIONS, &options)].concat()
        };
        let filter = |owns_qdisc| Some(Filter { ifindex: 7, point: Point::ToPod, owns_qdisc });
        for (case, message, name, want) in [
            ("ours", ours, "sluice/to_pod", filter(false)),
            ("the discipline too", ours, "sluice/to_pod+clsact", filter(true)),
            ("another's number", Message { handle: 1, ..ours }, "sluice/to_pod", None),
            ("another's priority", Message { info: 1 << 16, ..ours }, "sluice/to_pod", None),
            ("another's name", ours, "cil_to_container", None),
            ("a program of another version", ours, "sluice/sideways", None),
        ] {
            assert_eq!(own(&bytes(message, name)), want, "{case}");
        }
        assert_eq!(own(bytemuck::bytes_of(&ours)), None, "without attributes");
    }
}
