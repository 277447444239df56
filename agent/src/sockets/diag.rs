//! sock_diag(7): listing and destroying the sockets of a network namespace. Messages as in
//! `include/uapi/linux/inet_diag.h` and `sock_diag.h`; numbers in host byte order unless said otherwise.

use std::{
    io,
    os::fd::{AsRawFd as _, BorrowedFd, OwnedFd},
};

use bytemuck::{Pod, Zeroable};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket};
use sluice_common::layout::SocketValue;

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const SOCK_DESTROY: u16 = 21;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const REQUEST: u16 = 0x1;
const ACK: u16 = 0x4;
const DUMP: u16 = 0x300;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
/// All states but LISTEN (10) and TIME_WAIT (6), whose sockets hold no backend.
const STATES: u32 = 0xfff & !(1 << 10) & !(1 << 6);
const REQ_SK_BPF_STORAGES: u16 = 2;
const REQ_MAP_FD: u16 = 1;
const SK_BPF_STORAGES: u16 = 20;
const STORAGE: u16 = 1;
const MAP_VALUE: u16 = 3;
const NESTED: u16 = 0x8000;

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Header {
    length: u32,
    kind: u16,
    flags: u16,
    sequence: u32,
    port: u32,
}

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
const _: () = assert!(size_of::<Header>() == 16 && size_of::<Request>() == 56 && size_of::<Message>() == 72);

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

/// A netlink socket of the namespace in which it was opened.
pub struct Socket(OwnedFd);

impl Socket {
    /// Opens one.
    pub fn open() -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC;
        Ok(Self(socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkSockDiag)?))
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
            self.send(SOCK_DIAG_BY_FAMILY, REQUEST | DUMP, &request, &wanted)?;
            while self.receive(|body| found.extend(parse(protocol, body)))? {}
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
        self.send(SOCK_DESTROY, REQUEST | ACK, &request, &[])?;
        self.receive(|_| {}).map(drop)
    }

    fn send(&self, kind: u16, flags: u16, request: &Request, attributes: &[u8]) -> io::Result<()> {
        let length = (size_of::<Header>() + size_of::<Request>() + attributes.len()) as u32;
        let header = Header { length, kind, flags, sequence: 0, port: 0 };
        let message = [bytemuck::bytes_of(&header), bytemuck::bytes_of(request), attributes].concat();
        send(self.0.as_raw_fd(), &message, MsgFlags::empty())?;
        Ok(())
    }

    /// Takes one buffer of messages; false when the answer is complete.
    fn receive(&self, mut each: impl FnMut(&[u8])) -> io::Result<bool> {
        let mut buffer = vec![0; 1 << 18];
        let length = recv(self.0.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
        let mut rest = &buffer[..length];
        while let Some((kind, body, after)) = next_message(rest) {
            match kind {
                NLMSG_DONE => return Ok(false),
                NLMSG_ERROR => {
                    let code = body.first_chunk().map_or(0, |bytes| i32::from_ne_bytes(*bytes));
                    return if code == 0 { Ok(false) } else { Err(io::Error::from_raw_os_error(-code)) };
                }
                _ => each(body),
            }
            rest = after;
        }
        Ok(true)
    }
}

/// The first message: its type, its body, what follows it.
fn next_message(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let header: Header = bytemuck::pod_read_unaligned(bytes.get(..size_of::<Header>())?);
    let length = header.length as usize;
    let body = bytes.get(size_of::<Header>()..length)?;
    Some((header.kind, body, bytes.get(length.next_multiple_of(4)..).unwrap_or_default()))
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

/// An attribute: length, type, value, padding to 4.
fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut bytes = [((value.len() + 4) as u16).to_ne_bytes(), kind.to_ne_bytes()].concat();
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// The value of the first attribute of that type.
fn find(mut bytes: &[u8], kind: u16) -> Option<&[u8]> {
    loop {
        let length = usize::from(u16::from_ne_bytes(*bytes.first_chunk()?));
        let found = u16::from_ne_bytes(*bytes.get(2..)?.first_chunk()?) & !NESTED;
        let value = bytes.get(4..length)?;
        if found == kind {
            return Some(value);
        }
        bytes = bytes.get(length.next_multiple_of(4)..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_found_behind_others_and_damaged_ones_end_the_search() {
        let mut bytes = attribute(7, b"odd");
        bytes.extend(attribute(9 | NESTED, &attribute(3, b"deep")));
        assert_eq!(find(&bytes, 7), Some(b"odd".as_slice()));
        assert_eq!(find(find(&bytes, 9).unwrap(), 3), Some(b"deep".as_slice()));
        assert_eq!(find(&bytes, 8), None);
        for end in 0..bytes.len() {
            let _never_panics = find(&bytes[..end], 9);
            let _never_panics = next_message(&bytes[..end]);
            let _never_panics = parse(6, &bytes[..end]);
        }
        assert_eq!(find(&[0, 0, 9, 0], 8), None, "a length of zero does not hang");
    }
}
