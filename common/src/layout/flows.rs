//! Connections of the packet path: keys and values of `FLOWS`, `FRAGMENTS`, `DEVICES` and `SOURCE_RANGES`.

use bytemuck::{Pod, Zeroable};

use crate::Addr;

/// A packet's ends, as it comes by. Key of `FLOWS`: each connection has one entry for each direction.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Pod, Zeroable)]
pub struct FlowKey {
    /// Where it comes from.
    pub src: Addr,
    /// Where it goes.
    pub dst: Addr,
    /// Network byte order.
    pub src_port_be: u16,
    /// Network byte order.
    pub dst_port_be: u16,
    /// IANA number.
    pub protocol: u8,
    /// Zero.
    pub pad: [u8; 3],
}
const _: () = assert!(size_of::<FlowKey>() == 40);

impl FlowKey {
    /// The same ends, the other way round.
    #[inline(always)]
    pub const fn reversed(&self) -> Self {
        Self {
            src: self.dst,
            dst: self.src,
            src_port_be: self.dst_port_be,
            dst_port_be: self.src_port_be,
            protocol: self.protocol,
            pad: [0; 3],
        }
    }
}

/// Bit of `FlowValue::hooks`: counts where packets come in from the network.
pub const HOOK_FROM_NETWORK: u8 = 1;
/// Bit of `FlowValue::hooks`: counts where packets go out to the network.
pub const HOOK_TO_NETWORK: u8 = 2;
/// Bit of `FlowValue::hooks`: counts where packets come from a pod.
pub const HOOK_FROM_POD: u8 = 4;
/// Bit of `FlowValue::hooks`: counts where packets go to a pod.
pub const HOOK_TO_POD: u8 = 8;

/// The hooks at pods' devices.
pub const HOOKS_OF_PODS: u8 = HOOK_FROM_POD | HOOK_TO_POD;

/// Bit of `FlowValue::flags`: the entry of replies.
pub const FLOW_REPLY: u8 = 1;
/// Bit of `FlowValue::flags`: the client's address is not the one that the backend sees.
pub const FLOW_SNAT: u8 = 2;
/// Bit of `FlowValue::flags`: goes on by our own route lookup, past the rest of the stack.
pub const FLOW_REDIRECT: u8 = 4;
/// Bit of `FlowValue::flags`: is handed to the node as if it had come in by the device `ifindex`.
pub const FLOW_TO_NODE: u8 = 8;
/// Bit of `FlowValue::flags`: is sent to the backend's node in an IP tunnel; the backend's node answers the client.
pub const FLOW_TUNNEL: u8 = 16;
/// Bit of `FlowValue::flags`: the second half of a translation that began where packets come in: these the node's stack cuts
/// up in between.
pub const FLOW_CUT: u8 = 32;

/// Bit of `FlowValue::state`: the backend has answered.
pub const STATE_REPLIED: u8 = 1;
/// Bit of `FlowValue::state`: the client has sent FIN.
pub const STATE_CLIENT_DONE: u8 = 2;
/// Bit of `FlowValue::state`: the backend has sent FIN.
pub const STATE_BACKEND_DONE: u8 = 4;
/// Bit of `FlowValue::state`: either has sent RST.
pub const STATE_RESET: u8 = 8;
/// Bit of `FlowValue::state`: the client has sent something else since then.
pub const STATE_CLIENT_GOES_ON: u8 = 16;
/// Bit of `FlowValue::state`: so has the backend.
pub const STATE_BACKEND_GOES_ON: u8 = 32;

/// What a packet of a known connection becomes. Value of `FLOWS`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Pod, Zeroable)]
pub struct FlowValue {
    /// New source.
    pub src: Addr,
    /// New destination.
    pub dst: Addr,
    /// New source port, network byte order.
    pub src_port_be: u16,
    /// New destination port, network byte order.
    pub dst_port_be: u16,
    /// `HOOK_*`: where the entry counts.
    pub hooks: u8,
    /// `FLOW_*`.
    pub flags: u8,
    /// `STATE_*`; the same in both entries, brought up to date at least each second.
    pub state: u8,
    /// Zero.
    pub pad: u8,
    /// Last packet of either direction, ns of `CLOCK_MONOTONIC`, to the second.
    pub last_seen_ns: u64,
    /// The service.
    pub service_id: u32,
    /// Key into `BACKENDS`.
    pub backend_id: u32,
    /// Where the client's first packet was met.
    pub ifindex: u32,
    /// Where packets go out, looked up anew each second; 0 when it must be.
    pub route_ifindex: u32,
    /// Hardware addresses with which they do: destination, source.
    pub route_macs: [u8; 12],
    /// The longest IP packet that goes that way, in bytes.
    pub route_mtu: u16,
    /// Zero.
    pub pad2: u16,
}
const _: () = assert!(size_of::<FlowValue>() == 80);

impl FlowValue {
    /// The key of the connection's other entry.
    #[inline(always)]
    pub const fn peer(&self, protocol: u8) -> FlowKey {
        FlowKey {
            src: self.dst,
            dst: self.src,
            src_port_be: self.dst_port_be,
            dst_port_be: self.src_port_be,
            protocol,
            pad: [0; 3],
        }
    }
}

/// A datagram in pieces. Key of `FRAGMENTS`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Pod, Zeroable)]
pub struct FragmentKey {
    /// Where it comes from.
    pub src: Addr,
    /// Where it goes.
    pub dst: Addr,
    /// The datagram's identification, as in the header.
    pub id_be: u32,
    /// IANA number.
    pub protocol: u8,
    /// Zero.
    pub pad: [u8; 3],
}
const _: () = assert!(size_of::<FragmentKey>() == 40);

/// The ports, which only the first piece has. Value of `FRAGMENTS`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Pod, Zeroable)]
pub struct FragmentValue {
    /// Network byte order.
    pub src_port_be: u16,
    /// Network byte order.
    pub dst_port_be: u16,
    /// Zero.
    pub pad: u32,
    /// When the first piece came by, ns of `CLOCK_MONOTONIC`.
    pub seen_ns: u64,
}
const _: () = assert!(size_of::<FragmentValue>() == 16);

/// A path through tunnels, to the pod that is the key, that is narrower than its first link. Value of `PATHS`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Pod, Zeroable)]
pub struct PathValue {
    /// Until when that is believed, ns of `CLOCK_MONOTONIC`.
    pub until_ns: u64,
    /// The longest IP packet that goes that way, tunnel included, in bytes.
    pub mtu: u32,
    /// Zero.
    pub pad: u32,
}
const _: () = assert!(size_of::<PathValue>() == 16);

/// Key into `DEVICES` of what counts where a device has nothing of its own.
pub const ANY_DEVICE: u32 = 0;

/// Bit of `DeviceValue::flags`: takes packets from XDP programs at other devices.
pub const DEVICE_TAKES_RAW: u8 = 1;
/// Bit of `DeviceValue::flags`: what an XDP program sends back by it (`XDP_TX`) may lie there; it must be handed to it as if by
/// another device. A veth wakes its other end up only if that has an XDP program too (`veth_xdp_flush`).
pub const DEVICE_NO_TX: u8 = 2;
/// Bit of `DeviceValue::flags`: its packets begin with their IP header.
pub const DEVICE_BARE: u8 = 4;

/// A device of the node. Value of `DEVICES`, whose key is the interface index.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Pod, Zeroable)]
pub struct DeviceValue {
    /// Its first IPv4 address, for connections that leave by it in the node's name; unspecified if it has none.
    pub v4: Addr,
    /// Its first global IPv6 address.
    pub v6: Addr,
    /// Its own hardware address.
    pub mac: [u8; 6],
    /// `DEVICE_*`.
    pub flags: u8,
    /// Zero.
    pub pad: u8,
}
const _: () = assert!(size_of::<DeviceValue>() == 40);

/// `SourceRangeKey::service_id` of the networks from which cluster IPs are taken.
pub const SERVICE_CIDRS: u32 = u32::MAX;

/// Clients of a service, as a network. Key of `SOURCE_RANGES`, behind the prefix length, which counts the service id too.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Pod, Zeroable)]
pub struct SourceRangeKey {
    /// The service, or [`SERVICE_CIDRS`].
    pub service_id: u32,
    /// The network's address.
    pub addr: Addr,
}
const _: () = assert!(size_of::<SourceRangeKey>() == 20);

impl SourceRangeKey {
    /// Prefix length, in bits, of one address.
    pub const BITS: u32 = 32 + 128;
}

/// Index into `ANSWERS`: packets that nobody serves.
pub const ANSWERS_REFUSED: u32 = 0;
/// Index into `ANSWERS`: packets that do not fit. A store of its own, for who is not told goes on to send what is lost.
pub const ANSWERS_TOO_BIG: u32 = 1;
/// Index into `ANSWERS`: packets without hops left.
pub const ANSWERS_HOPS: u32 = 2;
/// Size of `ANSWERS`.
pub const ANSWERS_CAPACITY: u32 = 3;

/// A CPU's store of answers that it may still give to packets of one kind. Value of `ANSWERS`, at the indices `ANSWERS_*`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Pod, Zeroable)]
pub struct AnswersValue {
    /// When it was last filled, ns of `CLOCK_MONOTONIC`.
    pub filled_ns: u64,
    /// How many are left.
    pub left: u64,
}
const _: () = assert!(size_of::<AnswersValue>() == 16);
