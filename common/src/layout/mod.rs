//! Keys and values of every map. Plain integers, no hidden padding, sizes asserted.
//!
//! A change here is a change of the pinned maps' layout: the loader compares sizes and rebuilds what differs.

use bytemuck::{Pod, Zeroable};

use crate::Addr;

/// An enum that maps store as its number: `as u8` on the way in, `TryFrom` on the way out.
macro_rules! stored_enum {
    ($(#[doc = $doc:literal])+ pub enum $name:ident { $($(#[doc = $about:literal])+ $variant:ident = $number:literal,)+ }) => {
        $(#[doc = $doc])+
        #[repr(u8)]
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        pub enum $name { $($(#[doc = $about])+ $variant = $number,)+ }

        impl TryFrom<u8> for $name {
            type Error = u8;

            fn try_from(number: u8) -> Result<Self, u8> {
                match number {
                    $($number => Ok(Self::$variant),)+
                    other => Err(other),
                }
            }
        }
    };
}

mod events;
mod flows;
mod names;

pub use events::*;
pub use flows::*;
pub use names::{NAME_MAX, Name, NodeValue, PodValue, ServiceKind, ServiceValue};

/// Reserved in `SLOTS`, `BACKENDS` and as a service id: the agent's self-probe, and "none" elsewhere.
pub const PROBE_ID: u32 = 0;

/// `FrontendKey::protocol`, IANA protocol numbers.
pub const TCP: u8 = 6;
/// See [`TCP`].
pub const UDP: u8 = 17;
/// See [`TCP`].
pub const SCTP: u8 = 132;

/// What a client dials. Key of `FRONTENDS`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Pod, Zeroable)]
pub struct FrontendKey {
    /// The address dialled.
    pub addr: Addr,
    /// The port dialled, network byte order.
    pub port_be: u16,
    /// [`TCP`], [`UDP`] or [`SCTP`].
    pub protocol: u8,
    /// 0: this very address. 1: every node address of the family that `addr`, an unspecified address, shows (NodePort).
    pub scope: u8,
}
const _: () = assert!(size_of::<FrontendKey>() == 20);

impl FrontendKey {
    /// A number that differs for keys that differ, but for one pair in four thousand million.
    #[inline(always)]
    pub const fn check(&self) -> u32 {
        let words = self.addr.words_be;
        let ends = (self.port_be as u32) | (self.protocol as u32) << 16 | (self.scope as u32) << 24;
        let mut check = ends.wrapping_mul(0x9e37_79b1);
        check = (check ^ words[0]).rotate_left(7).wrapping_mul(0x85eb_ca6b);
        check = (check ^ words[1]).rotate_left(7).wrapping_mul(0x85eb_ca6b);
        check = (check ^ words[2]).rotate_left(7).wrapping_mul(0x85eb_ca6b);
        (check ^ words[3]).rotate_left(7).wrapping_mul(0x85eb_ca6b)
    }

    /// The key under which a NodePort is found for whoever dials this key's port on a node address.
    pub const fn on_any_node_address(&self) -> Self {
        let addr = if self.addr.is_v4() { Addr::from_v4_be(0) } else { Addr::UNSPECIFIED };
        Self { addr, port_be: self.port_be, protocol: self.protocol, scope: 1 }
    }
}

/// Bit of a value of `ADDRESSES`: reached over the network.
pub const ADDRESS_NODE: u32 = 1;
/// Bit of a value of `ADDRESSES`: a loopback address, which means this node only to processes in its own network.
pub const ADDRESS_LOOPBACK: u32 = 2;
/// Bit of a value of `ADDRESSES`: some Service's cluster IP. A port of it that no Service has is refused.
pub const ADDRESS_CLUSTER_IP: u32 = 4;
/// Bit of a value of `ADDRESSES`: the redirector serves a port of it; the others end nowhere on this node.
pub const ADDRESS_REDIRECTED: u32 = 8;
/// Bit of a value of `ADDRESSES`: the node's own, but NodePorts are not served there.
pub const ADDRESS_OWN: u32 = 32;
/// Bit of a value of `ADDRESSES`: some Service's address that is not the node's own: a LoadBalancer's or external one.
pub const ADDRESS_VIP: u32 = 16;

/// Bit of a value of `ADDRESSES`: an endpoint's own, at which a headless Service's port is translated.
pub const ADDRESS_ENDPOINT: u32 = 64;
/// Bit of a value of `ADDRESSES`: an endpoint of this node has it, of whichever Service; what comes out of a tunnel goes nowhere
/// else. It makes no address one that is dialled.
pub const ADDRESS_LOCAL_ENDPOINT: u32 = 128;

/// Index into `CONFIG`: cookie of the node's own network namespace.
pub const CONFIG_HOST_NETNS: u32 = 0;
/// Index into `CONFIG`: how many entries `OPT_OUTS` has, so that nobody looks into an empty map.
pub const CONFIG_OPT_OUTS: u32 = 1;
/// Index into `CONFIG`: 1 when connections that need the redirector are refused while it is away, and not balanced
/// without it.
pub const CONFIG_FAIL_CLOSED: u32 = 2;
/// Index into `CONFIG`: how many workers the redirector has.
pub const CONFIG_WORKERS: u32 = 3;
/// Index into `CONFIG`: bits of `OPTION_*`.
pub const CONFIG_OPTIONS: u32 = 4;
/// Index into `CONFIG`: until when somebody watches `EVENTS`, ns of `CLOCK_MONOTONIC`; 0 when nobody does.
pub const CONFIG_WATCHED: u32 = 5;
/// Index into `CONFIG`: the same for somebody who wants to hear of each datagram and each reply of sockets too.
pub const CONFIG_WATCHED_EACH: u32 = 6;
/// Index into `CONFIG`: at which devices packets may begin with their IP header, [`bare_bit`] of each: `DEVICES` knows.
pub const CONFIG_BARE: u32 = 7;

/// Index into `CONFIG`: when a connection last began that programs at pods' devices must know, ns of `CLOCK_MONOTONIC`.
pub const CONFIG_POD_FLOWS: u32 = 8;
/// Index into `CONFIG`: none that began before this moment is remembered any more; 0 when nobody has looked.
pub const CONFIG_NO_POD_FLOWS: u32 = 9;

/// Index into `CONFIG`: until when something may be in `PATHS`, ns of `CLOCK_MONOTONIC`.
pub const CONFIG_PATHS_UNTIL: u32 = 10;

/// The bit of a device with that index in `CONFIG_BARE`: an array is read at next to no cost, and `DEVICES` is not.
#[inline(always)]
pub const fn bare_bit(ifindex: u32) -> u64 {
    1 << (ifindex & 63)
}

/// Bit of `CONFIG_OPTIONS`: addresses of Services answer ping.
pub const OPTION_VIP_PING: u64 = 1;
/// Bit of `CONFIG_OPTIONS`: `SOURCE_RANGES` has the networks of cluster IPs.
pub const OPTION_SERVICE_CIDRS: u64 = 2;
/// Bit of `CONFIG_OPTIONS`: TCP goes to other nodes in tunnels, and their replies straight to the client.
pub const OPTION_DSR_TCP: u64 = 4;
/// Bit of `CONFIG_OPTIONS`: the same for UDP.
pub const OPTION_DSR_UDP: u64 = 8;
/// Bit of `CONFIG_OPTIONS`: TCP connections that began without us go on without us, for kube-proxy translates them.
pub const OPTION_BESIDE_OTHERS: u64 = 16;
/// Bit of `CONFIG_OPTIONS`: the redirector makes connections under addresses of pods.
pub const OPTION_KEEP_CLIENTS: u64 = 256;
/// Connections that the redirector makes under a pod's address have this source port or a higher one: beyond those that
/// Linux gives to the pod's own connections by default (`net.ipv4.ip_local_port_range`).
pub const FIRST_BORROWED_PORT: u16 = 61_001;
/// Mark of replies to such connections, in the bits of [`REPLY_MARK_MASK`]: the node routes them to itself.
pub const REPLY_MARK: u32 = 0x5100_0000;
/// See [`REPLY_MARK`].
pub const REPLY_MARK_MASK: u32 = 0xff00_0000;
/// Size of `LISTENERS`: two for each worker.
pub const LISTENERS_CAPACITY: u32 = 128;

/// Devices of a node, those of its pods among them. Room is taken as it is needed.
pub const DEVICES_CAPACITY: u32 = 16_384;
/// How long the redirector's last word counts.
pub const HEARTBEAT_NS: u64 = 3_000_000_000;
/// Size of `CONFIG`: room for growth without a change of layout.
pub const CONFIG_CAPACITY: u32 = 16;

/// Entries of `SCHEMAS`: room for the maps of two generations.
pub const SCHEMAS_CAPACITY: u32 = 128;

/// `FrontendValue::flags`: internalTrafficPolicy is Local, so sockets use the local range.
pub const FLAG_INTERNAL_LOCAL: u16 = 1;
/// `FrontendValue::flags`: some endpoint is ready, or serves while it terminates, so an empty range means drop and not
/// reject.
/// Source: kube-proxy `CategorizeEndpoints`, `hasAnyEndpoints`.
pub const FLAG_HAS_ENDPOINTS: u16 = 2;
/// `FrontendValue::flags`: rules hold for it, so that the redirector serves it.
pub const FLAG_REDIRECTED: u16 = 4;
/// `FrontendValue::flags`: externalTrafficPolicy is Local, so clients outside the cluster use the local range.
pub const FLAG_EXTERNAL_LOCAL: u16 = 8;
/// `FrontendValue::flags`: only clients in the service's `SOURCE_RANGES` may use it.
pub const FLAG_SOURCE_RANGES: u16 = 16;
/// `FrontendValue::flags`: its ranges are Maglev tables, in which a hash of the client chooses; slots are not sorted then.
pub const FLAG_MAGLEV: u16 = 32;

/// What a frontend leads to. Value of `FRONTENDS`; one update of it is one atomic switch.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Pod, Zeroable)]
pub struct FrontendValue {
    /// Key into `SERVICES`; owner of the slots.
    pub service_id: u32,
    /// `FLAG_*`.
    pub flags: u16,
    /// [`FrontendKind`] as a number.
    pub kind: u8,
    /// Zero.
    pub pad: u8,
    /// Session affinity in seconds; 0 is none.
    pub affinity_timeout_s: u32,
    /// First slot of the endpoints usable cluster-wide.
    pub cluster_start: u32,
    /// How many slots that range has.
    pub cluster_count: u32,
    /// First slot of the endpoints on this node.
    pub local_start: u32,
    /// How many slots that range has.
    pub local_count: u32,
    /// [`FrontendKey::check`] of its own key. The kernel may reuse a hash element for another key while a hook reads
    /// it: a value whose check is another key's is looked up again.
    pub check: u32,
}
const _: () = assert!(size_of::<FrontendValue>() == 32);

stored_enum! {
/// Which of a Service's addresses a frontend is.
pub enum FrontendKind {
    /// `spec.clusterIPs`.
    ClusterIp = 1,
    /// `spec.ports[].nodePort` on a node address.
    NodePort = 2,
    /// `status.loadBalancer.ingress[].ip`.
    LoadBalancer = 3,
    /// `spec.externalIPs`.
    ExternalIp = 4,
    /// An endpoint's own address with the Service's port (port translation of headless Services).
    Headless = 5,
}
}

/// `SlotValue::backend_id` of a slot that leads nowhere: a connection that meets it is refused.
/// Greater than any key: slots are sorted, and key 0 is the self-probe's.
pub const NO_BACKEND: u32 = u32::MAX;

/// One place in a service's range. Value of `SLOTS`; a slot is never rewritten while a frontend names it.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Pod, Zeroable)]
pub struct SlotValue {
    /// Key into `BACKENDS`, or [`NO_BACKEND`].
    pub backend_id: u32,
    /// The service that owns this slot. A reader that finds another owner has a torn or stale frontend.
    pub service_id: u32,
    /// [`EndpointState`] as a number.
    pub state: u8,
    /// [`Excluded`] as a number; 0 for slots of the cluster and local ranges.
    pub excluded: u8,
    /// Bit 0: the endpoint is on this node.
    pub local: u8,
    /// Zero.
    pub pad: u8,
    /// Zero.
    pub pad2: u32,
}
const _: () = assert!(size_of::<SlotValue>() == 16);

stored_enum! {
/// An endpoint's conditions, as they count for selection.
pub enum EndpointState {
    /// `ready` is true or absent.
    Ready = 1,
    /// Not ready, but serving and terminating: the fallback when nothing is ready.
    Terminating = 2,
    /// Neither.
    NotReady = 3,
}
}

stored_enum! {
/// Why an endpoint is in neither range of its service.
pub enum Excluded {
    /// Its conditions say not ready, and not terminating either.
    NotReady = 1,
    /// Terminating, and ready endpoints exist.
    Terminating = 2,
    /// Hints lead this node's clients to other endpoints.
    Topology = 3,
    /// A rule leads the port's connections to others.
    Rule = 4,
}
}

/// A pod's address. Value of `BACKENDS`; all zero when the id is free.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Pod, Zeroable)]
pub struct BackendValue {
    /// The endpoint's address.
    pub addr: Addr,
    /// The endpoint's port, network byte order.
    pub port_be: u16,
    /// Zero.
    pub pad: u16,
    /// Key into `NODES`; 0 when the endpoint names no node.
    pub node_id: u32,
}
const _: () = assert!(size_of::<BackendValue>() == 24);

/// A datagram's way back. Key of `UDP_REVNAT`.
///
/// Not keyed by the socket alone: one socket may talk to several Services and to pods directly.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Pod, Zeroable)]
pub struct RevnatKey {
    /// `bpf_get_socket_cookie`.
    pub cookie: u64,
    /// The backend's address.
    pub addr: Addr,
    /// The backend's port, network byte order.
    pub port_be: u16,
    /// Zero.
    pub pad: [u8; 6],
}
const _: () = assert!(size_of::<RevnatKey>() == 32);

/// The frontend that a reply must seem to come from. Value of `UDP_REVNAT`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Pod, Zeroable)]
pub struct RevnatValue {
    /// What the client dialled.
    pub frontend: FrontendKey,
    /// The service it belonged to then; a reply is left alone when the frontend has another by now.
    pub service_id: u32,
}
const _: () = assert!(size_of::<RevnatValue>() == 24);

/// A client of a service with session affinity. Key of `AFFINITY`.
///
/// Keyed by service port, not by address: all of a Service's addresses share one choice, as in kube-proxy.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Pod, Zeroable)]
pub struct AffinityKey {
    /// The client: see [`client_of_netns`].
    pub client: Addr,
    /// The service.
    pub service_id: u32,
}
const _: () = assert!(size_of::<AffinityKey>() == 20);

/// The client that all sockets of one network namespace are: a pod, or the node itself. A pod is one address of each
/// family, so that this is kube-proxy's client address, known before a socket has one.
///
/// In the form of a multicast address, which no client has: real addresses are clients too, of the packet path.
pub const fn client_of_netns(cookie: u64) -> Addr {
    Addr { words_be: [u32::MAX, u32::MAX, (cookie >> 32) as u32, cookie as u32] }
}

/// A client's last choice. Value of `AFFINITY`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Pod, Zeroable)]
pub struct AffinityValue {
    /// Last new connection, ns of `CLOCK_MONOTONIC`.
    pub last_used_ns: u64,
    /// Key into `BACKENDS`; 0 is never used.
    pub backend_id: u32,
    /// Zero.
    pub pad: u32,
}
const _: () = assert!(size_of::<AffinityValue>() == 16);

/// What a connected socket's peer was before translation. Value of `SOCKETS` (socket storage).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Pod, Zeroable)]
pub struct SocketValue {
    /// What the client dialled; protocol 0 when the socket's connection is not translated.
    pub frontend: FrontendKey,
    /// The backend's address.
    pub backend_addr: Addr,
    /// The backend's port, network byte order.
    pub backend_port_be: u16,
    /// Zero.
    pub pad: u16,
}
const _: () = assert!(size_of::<SocketValue>() == 40);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn enums_decode_exactly_what_they_encode() {
        for number in 0..=u8::MAX {
            assert_eq!(FrontendKind::try_from(number).map_or_else(|n| n, |kind| kind as u8), number);
            assert_eq!(EndpointState::try_from(number).map_or_else(|n| n, |state| state as u8), number);
            assert_eq!(Excluded::try_from(number).map_or_else(|n| n, |excluded| excluded as u8), number);
            assert_eq!(ServiceKind::try_from(number).map_or_else(|n| n, |kind| kind as u8), number);
        }
    }
}
