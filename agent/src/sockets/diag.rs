//! sock_diag(7): listing and destroying the sockets of a network namespace. Messages as in
//! `include/uapi/linux/inet_diag.h` and `sock_diag.h`; numbers in host byte order unless said otherwise.

use std::{
    io,
    os::fd::{AsRawFd as _, BorrowedFd},
};

use bytemuck::{Pod, Zeroable};
use nix::sys::socket::SockProtocol;
use sluice_common::layout::SocketValue;

use crate::netlink::{self, ACK, DUMP, NESTED, attribute, find};

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const SOCK_DESTROY: u16 = 21;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
/// All states but LISTEN (10) and TIME_WAIT (6), whose sockets hold no backend.
const STATES: u32 = 0xfff & !(1 << 10) & !(1 << 6);
const REQ_SK_BPF_STORAGES: u16 = 2;
const REQ_MAP_FD: u16 = 1;
const SK_BPF_STORAGES: u16 = 20;
const STORAGE: u16 = 1;
const MAP_VALUE: u16 = 3;

/// `struct inet_diag_sockid`: ports and addresses in network byte order.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Pod, Zeroable)]
struct SockId {
    source_port_be: u16,
    target_port_be: u16,
    source: [u32; 4],
    target: [u32; 4],
    interface: u32,
    cookie: [u32; 2],
}

/// `struct inet_diag_req_v2`.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Request {
    family: u8,
    protocol: u8,
    extensions: u8,
    pad: u8,
    states: u32,
    id: SockId,
}

/// `struct inet_diag_msg`.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Message {
    family: u8,
    state: u8,
    timer: u8,
    retransmits: u8,
    id: SockId,
    rest: [u32; 5],
}
const _: () = assert!(size_of::<Request>() == 56 && size_of::<Message>() == 72);

/// A socket, as it was listed.
#[derive(Clone, Copy, Debug)]
pub struct Found {
    family: u8,
    protocol: u8,
    id: SockId,
    /// As `bpf_get_socket_cookie` gives it.
    pub cookie: u64,
    /// What the socket remembers of its translation.
    pub remembers: Option<SocketValue>,
}

/// A sock_diag socket of the namespace in which it was opened.
pub struct Socket(netlink::Socket);

impl Socket {
    /// Opens one.
    pub fn open() -> io::Result<Self> {
        netlink::Socket::open(SockProtocol::NetlinkSockDiag).map(Self)
    }

    /// The sockets of `protocol`, both families, with what they store in `storage`.
    pub fn list(&self, protocol: u8, storage: Option<BorrowedFd<'_>>) -> io::Result<Vec<Found>> {
        let mut found = Vec::new();
        for family in [AF_INET, AF_INET6] {
            let request = Request { family, protocol, states: STATES, ..Request::zeroed() };
            let wanted = storage.map_or_else(Vec::new, |map| {
                let map = attribute(REQ_MAP_FD, &map.as_raw_fd().to_ne_bytes());
                attribute(REQ_SK_BPF_STORAGES | NESTED, &map)
            });
            self.0.send(SOCK_DIAG_BY_FAMILY, DUMP, bytemuck::bytes_of(&request), &wanted)?;
            while self.0.receive(|body| found.extend(parse(protocol, body)))? {}
        }
        Ok(found)
    }

    /// Ends a socket: whoever waits on it gets ECONNABORTED.
    pub fn destroy(&self, found: &Found) -> io::Result<()> {
        let request = Request {
            family: found.family,
            protocol: found.protocol,
            states: !0,
            id: found.id,
            ..Request::zeroed()
        };
        self.0.send(SOCK_DESTROY, ACK, bytemuck::bytes_of(&request), &[])?;
        self.0.receive(|_| {}).map(drop)
    }
}

fn parse(protocol: u8, body: &[u8]) -> Option<Found> {
    let message: Message = bytemuck::pod_read_unaligned(body.get(..size_of::<Message>())?);
    let cookie = u64::from(message.id.cookie[0]) | u64::from(message.id.cookie[1]) << 32;
    let storages = find(&body[size_of::<Message>()..], SK_BPF_STORAGES);
    let value = storages.and_then(|storages| find(find(storages, STORAGE)?, MAP_VALUE));
    let value = value.and_then(|value| value.get(..size_of::<SocketValue>()));
    Some(Found {
        family: message.family,
        protocol,
        id: message.id,
        cookie,
        remembers: value.map(bytemuck::pod_read_unaligned),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_that_is_cut_short_is_no_socket() {
        let bytes = [0_u8; size_of::<Message>()];
        assert!(parse(6, &bytes).is_some());
        for end in 0..bytes.len() {
            assert!(parse(6, &bytes[..end]).is_none(), "{end}");
        }
    }
}
