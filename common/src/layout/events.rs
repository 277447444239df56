//! What programs tell whoever watches: records of the ring buffer `EVENTS`.

use bytemuck::{Pod, Zeroable};

use crate::Addr;

/// Size of `EVENTS`, in bytes: 2,520 records, each with a head of eight bytes.
pub const EVENTS_BYTES: u32 = 256 * 1024;

/// One outcome of a hook, as it is told. A record of another length is one of another version.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Pod, Zeroable)]
pub struct EventValue {
    /// When, ns of `CLOCK_MONOTONIC`.
    pub at_ns: u64,
    /// Cookie of the socket's network namespace; 0 for packets.
    pub netns: u64,
    /// Other reasons that were counted besides, [`Reason::bit`](crate::Reason::bit) of each.
    pub besides: u64,
    /// Who dials; unspecified for sockets, which have no address yet when they choose.
    pub client: Addr,
    /// What is dialled; unspecified where the headers could not be read.
    pub dialled: Addr,
    /// Where that leads; unspecified when it leads nowhere.
    pub backend: Addr,
    /// Key into `SERVICES`; 0 when no Service was found, and for the self-probe.
    pub service_id: u32,
    /// Key into `BACKENDS`; 0 when it is not known.
    pub backend_id: u32,
    /// The device at which the packet was met; 0 for sockets.
    pub ifindex: u32,
    /// Port of `client`, network byte order.
    pub client_port_be: u16,
    /// Port of `dialled`, network byte order.
    pub dialled_port_be: u16,
    /// Port of `backend`, network byte order.
    pub backend_port_be: u16,
    /// IANA number; 0 where the headers could not be read.
    pub protocol: u8,
    /// [`Reason`](crate::Reason) as a number.
    pub reason: u8,
    /// [`EventHook`] as a number.
    pub hook: u8,
    /// [`EventVerdict`] as a number.
    pub verdict: u8,
    /// Zero.
    pub pad: [u8; 2],
}
const _: () = assert!(size_of::<EventValue>() == 96);

stored_enum! {
/// The program that tells.
pub enum EventHook {
    /// connect(2) of an IPv4 socket.
    Connect4 = 1,
    /// connect(2) of an IPv6 socket.
    Connect6 = 2,
    /// sendmsg(2) of an IPv4 socket.
    Sendmsg4 = 3,
    /// sendmsg(2) of an IPv6 socket.
    Sendmsg6 = 4,
    /// recvmsg(2) of an IPv4 socket.
    Recvmsg4 = 5,
    /// recvmsg(2) of an IPv6 socket.
    Recvmsg6 = 6,
    /// bind(2) of an IPv4 socket.
    PostBind4 = 7,
    /// bind(2) of an IPv6 socket.
    PostBind6 = 8,
    /// The lookup of a socket for a packet.
    SteerLookup = 9,
    /// tc, what comes in by a device of the node.
    FromNetwork = 10,
    /// tc, what goes out by a device of the node.
    ToNetwork = 11,
    /// tc, what a pod sends.
    FromPod = 12,
    /// tc, what a pod gets.
    ToPod = 13,
    /// XDP at a device of the node.
    Early = 14,
}
}

impl EventHook {
    /// The program's name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Connect4 => "connect4",
            Self::Connect6 => "connect6",
            Self::Sendmsg4 => "sendmsg4",
            Self::Sendmsg6 => "sendmsg6",
            Self::Recvmsg4 => "recvmsg4",
            Self::Recvmsg6 => "recvmsg6",
            Self::PostBind4 => "post_bind4",
            Self::PostBind6 => "post_bind6",
            Self::SteerLookup => "steer_lookup",
            Self::FromNetwork => "from_network",
            Self::ToNetwork => "to_network",
            Self::FromPod => "from_pod",
            Self::ToPod => "to_pod",
            Self::Early => "early",
        }
    }
}

stored_enum! {
/// What the program did.
pub enum EventVerdict {
    /// The system call or the packet goes on, with the ends that it has now.
    Pass = 1,
    /// The system call fails.
    Refuse = 2,
    /// The packet ends.
    Drop = 3,
    /// The packet was handed over: to its next hop, to the node, or as an answer to whoever sent it.
    Send = 4,
}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn enums_decode_exactly_what_they_encode() {
        for number in 0..=u8::MAX {
            assert_eq!(EventHook::try_from(number).map_or_else(|n| n, |hook| hook as u8), number);
            assert_eq!(EventVerdict::try_from(number).map_or_else(|n| n, |verdict| verdict as u8), number);
        }
    }
}
