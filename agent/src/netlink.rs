//! Netlink messages: framing, attributes, one socket. What they say is for those who send them.

use std::{
    io,
    os::fd::{AsRawFd as _, OwnedFd},
};

use bytemuck::{Pod, Zeroable};
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, send, socket,
};

const ERROR: u16 = 2;
const DONE: u16 = 3;
/// Flag of every request.
pub const REQUEST: u16 = 0x1;
/// Flag: answer with an error number, 0 for success.
pub const ACK: u16 = 0x4;
/// Flags: answer with everything there is.
pub const DUMP: u16 = 0x300;
/// Bit of an attribute's type: it holds attributes.
pub const NESTED: u16 = 0x8000;

/// `struct nlmsghdr`, host byte order.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Header {
    length: u32,
    kind: u16,
    flags: u16,
    sequence: u32,
    port: u32,
}

/// A netlink socket of the network namespace in which it was opened.
pub struct Socket(OwnedFd);

impl Socket {
    /// Opens one.
    pub fn open(protocol: SockProtocol) -> io::Result<Self> {
        Ok(Self(socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)?))
    }

    /// Opens one that hears of changes, by the numbers of their multicast groups.
    pub fn subscribe(protocol: SockProtocol, groups: &[u32]) -> io::Result<Self> {
        let opened = Self::open(protocol)?;
        let mask = groups.iter().fold(0, |mask, group| mask | 1 << (group - 1));
        bind(opened.0.as_raw_fd(), &NetlinkAddr::new(0, mask))?;
        Ok(opened)
    }

    /// Sends one request: its fixed part and its attributes.
    pub fn send(&self, kind: u16, flags: u16, body: &[u8], attributes: &[u8]) -> io::Result<()> {
        let length = (size_of::<Header>() + body.len() + attributes.len()) as u32;
        let header = Header { length, kind, flags: flags | REQUEST, sequence: 0, port: 0 };
        let message = [bytemuck::bytes_of(&header), body, attributes].concat();
        send(self.0.as_raw_fd(), &message, MsgFlags::empty())?;
        Ok(())
    }

    /// Takes one buffer of messages; false when the answer is complete.
    pub fn receive(&self, mut each: impl FnMut(&[u8])) -> io::Result<bool> {
        let mut buffer = vec![0; 1 << 18];
        let length = recv(self.0.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
        let mut rest = &buffer[..length];
        while let Some((kind, body, after)) = next_message(rest) {
            match kind {
                DONE => return Ok(false),
                ERROR => {
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
pub fn next_message(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let header: Header = bytemuck::pod_read_unaligned(bytes.get(..size_of::<Header>())?);
    let length = header.length as usize;
    let body = bytes.get(size_of::<Header>()..length)?;
    Some((header.kind, body, bytes.get(length.next_multiple_of(4)..).unwrap_or_default()))
}

/// An attribute: length, type, value, padding to 4.
pub fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut bytes = [((value.len() + 4) as u16).to_ne_bytes(), kind.to_ne_bytes()].concat();
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// The value of the first attribute of that type.
pub fn find(mut bytes: &[u8], kind: u16) -> Option<&[u8]> {
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
        }
        assert_eq!(find(&[0, 0, 9, 0], 8), None, "a length of zero does not hang");
    }
}
