//! The way of marked packets to the node itself, whatever their address:
//! `ip rule add pref 100 fwmark 0x51000000/0xff000000 lookup 20753` and `ip route add local default dev lo table 20753`,
//! for both families.

use std::io;

use bytemuck::Zeroable as _;
use nix::sys::socket::SockProtocol;
use sluice_common::layout::{REPLY_MARK, REPLY_MARK_MASK};

use super::{AF_INET, AF_INET6, CREATE, DELETE, DEVICE, LOOPBACK, NEW, OURS, Route};
use crate::netlink::{ACK, Socket, attribute};

const NEW_RULE: u16 = 32;
const DELETE_RULE: u16 = 33;
const RULE_PRIORITY: u16 = 6;
const RULE_MARK: u16 = 10;
const RULE_TABLE: u16 = 15;
const RULE_MASK: u16 = 16;
const RULE_PROTOCOL: u16 = 21;
/// `FR_ACT_TO_TBL`; stands in the place of a route's kind.
const TO_TABLE: u8 = 1;
const ROUTE_TABLE: u16 = 15;
/// Nobody else's, for all we know.
const TABLE: u32 = 20_753;
/// Behind the table of local addresses, before all others.
const PRIORITY: u32 = 100;

/// Makes rules and routes be there, or not. Calling again does what is missing.
///
/// # Errors
/// The kernel refuses. A node without IPv6 is none.
pub fn sync(wanted: bool) -> io::Result<()> {
    let socket = Socket::open(SockProtocol::NetlinkRoute)?;
    for family in [AF_INET, AF_INET6] {
        let done = if wanted { add(&socket, family) } else { remove(&socket, family) };
        match done {
            Err(error) if family == AF_INET || !lacks_family(&error) => return Err(error),
            Ok(()) | Err(_) => {}
        }
    }
    Ok(())
}

fn lacks_family(error: &io::Error) -> bool {
    use nix::errno::Errno;
    let codes = [Errno::EAFNOSUPPORT, Errno::EOPNOTSUPP, Errno::ENODEV, Errno::EACCES, Errno::EPERM];
    error.raw_os_error().is_some_and(|code| codes.contains(&Errno::from_raw(code)))
}

fn add(socket: &Socket, family: u8) -> io::Result<()> {
    // The route first: a rule without it would do nothing, and a route without the rule is asked by nobody.
    for result in [route(socket, family, NEW, CREATE), rule(socket, family, NEW_RULE, CREATE)] {
        match result {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            Ok(()) | Err(_) => {}
        }
    }
    Ok(())
}

fn remove(socket: &Socket, family: u8) -> io::Result<()> {
    use nix::errno::Errno;
    for result in [rule(socket, family, DELETE_RULE, 0), route(socket, family, DELETE, 0)] {
        let gone = |error: &io::Error| {
            let code = error.raw_os_error().map(Errno::from_raw);
            matches!(code, Some(Errno::ENOENT | Errno::ESRCH))
        };
        match result {
            Err(error) if !gone(&error) => return Err(error),
            Ok(()) | Err(_) => {}
        }
    }
    Ok(())
}

fn route(socket: &Socket, family: u8, kind: u16, flags: u16) -> io::Result<()> {
    let scope = if family == AF_INET { 254 } else { 0 };
    let route = Route { family, protocol: OURS, scope, kind: 2, ..Route::zeroed() };
    let attributes =
        [attribute(ROUTE_TABLE, &TABLE.to_ne_bytes()), attribute(DEVICE, &LOOPBACK.to_ne_bytes())];
    send(socket, kind, flags, &route, &attributes.concat())
}

fn rule(socket: &Socket, family: u8, kind: u16, flags: u16) -> io::Result<()> {
    // `struct fib_rule_hdr` has the layout of `struct rtmsg`; two of its fields have no use.
    let rule = Route { family, kind: TO_TABLE, ..Route::zeroed() };
    let attributes = [
        attribute(RULE_PRIORITY, &PRIORITY.to_ne_bytes()),
        attribute(RULE_MARK, &REPLY_MARK.to_ne_bytes()),
        attribute(RULE_MASK, &REPLY_MARK_MASK.to_ne_bytes()),
        attribute(RULE_TABLE, &TABLE.to_ne_bytes()),
        attribute(RULE_PROTOCOL, &[OURS]),
    ];
    send(socket, kind, flags, &rule, &attributes.concat())
}

fn send(socket: &Socket, kind: u16, flags: u16, body: &Route, attributes: &[u8]) -> io::Result<()> {
    socket.send(kind, flags | ACK, bytemuck::bytes_of(body), attributes)?;
    socket.receive(|_| {}).map(drop)
}
