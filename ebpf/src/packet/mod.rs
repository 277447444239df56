//! Packet load balancing: one path for every hook that sees packets. What it decides is in `sluice-common`.

use core::ffi::c_void;

use sluice_common::{
    Addr, Reason,
    layout::{
        ADDRESS_CLUSTER_IP, ADDRESS_LOCAL_ENDPOINT, ADDRESS_REDIRECTED, BackendValue, EventHook, FlowKey,
        FlowValue, FragmentKey, FragmentValue, FrontendValue, HOOK_FROM_NETWORK, HOOK_FROM_POD,
        HOOK_TO_NETWORK, HOOK_TO_POD, SlotValue,
    },
    packet::{
        Bytes, ETHERTYPE_IPV4, ETHERTYPE_IPV6, Fragment, ICMPV6, Kind, Packet, checksum::Difference, flow,
        parse,
    },
};

use crate::{
    events,
    maps::{ADDRESSES, FRAGMENTS},
    raw::{self, fib::Route},
};

mod answer;
mod begin;
mod borrowed;
mod cut;
mod early;
mod error;
mod known;
mod narrow;
mod pods;
mod remember;
mod rewrite;
pub mod steps;
mod tunnel;

pub use early::handle_early;
pub use steps::Step;

/// What becomes of a packet.
#[derive(Clone, Copy)]
pub enum Verdict {
    /// It goes on as it is now.
    Pass,
    /// It ends here.
    Drop,
    /// It was handed over; what the program must return.
    Sent(i32),
}

/// How far a packet has come: what of [`Work`] is its own.
#[derive(Clone, Copy)]
pub enum Stage {
    /// Nothing: its headers could not be read.
    Unread,
    /// `packet`.
    Read,
    /// `frontend` too.
    Found,
    /// `slot` and `backend` too.
    Chosen,
    /// And `flow`, which it began.
    Remembered,
    /// `packet`, and `flow`, which is its connection's.
    Known,
    /// `flow` is the connection's that an ICMP error is about, `reply` its key, and `back.src` the flow's first source.
    Error,
}

/// Which part of a transport checksum changes.
#[derive(Clone, Copy)]
pub enum Sum {
    /// The addresses of the pseudo header.
    Addresses,
    /// The transport's own header.
    Header,
}

/// A packet that can be changed and sent.
pub trait Frame: Bytes + Copy {
    /// Whether packets can be answered, or turned to the node; else they are left to a later hook.
    const ANSWERS: bool;
    /// Behind this offset no transport header may begin.
    const LAST_HEADER: u32;
    /// Takes the step by a call that the verifier does not follow.
    fn enter(&self, work: &mut Work, step: Step) -> Result<Reason, Reason>;
    /// The device at which it is met.
    fn ifindex(&self) -> u32;
    /// Where its IP header begins: behind an Ethernet header, or at 0 ([`Packet::is_bare`]).
    fn ip_at(&self) -> u32;
    /// The program's context, for helpers.
    fn context(&self) -> *mut c_void;
    /// Replaces `N` bytes.
    fn store<const N: usize>(&self, at: u32, bytes: &[u8; N]) -> Option<()>;
    /// Brings the IPv4 header's checksum up to date.
    fn fix_header(&self, at: u32, by: Difference) -> Option<()>;
    /// Brings a transport checksum up to date. A UDP checksum of zero, which is none, stays.
    fn fix_transport(&self, at: u32, by: Difference, kind: Sum, protocol: u8, is_v6: bool) -> Option<()>;
    /// Makes it this long, Ethernet header included.
    fn resize(&self, length: u32) -> Option<()>;
    /// Makes room between Ethernet and IP header.
    fn insert(&self, length: u32) -> Option<()>;
    /// Whether [`Self::send_out`] can go that way.
    fn can_send_out(&self, ifindex: u32) -> bool;
    /// Whether [`Self::forward`] can go that way.
    fn can_forward(&self, route: &Route) -> bool;
    /// Length of the longest IP packet that it is cut into, if it is many in one; its own length else.
    fn segment_length(&self, packet: &Packet) -> u32;
    /// Makes room for a tunnel's header.
    fn insert_tunnel(&self, length: u32, is_v6: bool) -> Option<()>;
    /// Takes bytes from between Ethernet and IP header.
    fn remove(&self, length: u32) -> Option<()>;
    /// Puts an Ethernet header before an IP packet without one, for what follows here takes none else. Where it is sent by a
    /// device that has none either, the kernel takes it away again.
    fn dress(&self, is_v6: bool) -> Option<()>;
    /// Sends it on its way to the route's next hop; `is_routed`: the node has routed it elsewhere before.
    fn forward(&self, route: &Route, is_routed: bool) -> Verdict;
    /// Sends it out by the device, with these hardware addresses.
    fn send_out(&self, ifindex: u32, macs: &[u8; 12]) -> Verdict;
    /// Sends it back to where it came from; `to_node`: to the node itself, if it was on its way out.
    fn send_back(&self, to_node: bool) -> Verdict;
    /// Marks it as the node's; one that is addressed to another device than the one where it is met gets this one's `mac`.
    fn take_in(&self, mac: &[u8; 6]) -> Option<()>;
    /// Sends it out by a device; `to_node`: hands it to the node as if it had come in there.
    fn hand_over(&self, ifindex: u32, to_node: bool) -> Verdict;
}

/// A packet under way through our hands, and what is found out about it. One for each CPU, for a stack of 512 bytes has no
/// room for it; nothing in it outlives the packet.
#[repr(C)]
pub struct Work {
    /// What the headers say.
    pub packet: Packet,
    /// What the headers say that an ICMP error quotes.
    pub quoted: Packet,
    /// What becomes of the packet.
    pub flow: FlowValue,
    /// What will become of the replies.
    pub back: FlowValue,
    /// Key of `back`.
    pub reply: FlowKey,
    /// What the client dials.
    pub frontend: FrontendValue,
    /// Who serves it.
    pub slot: SlotValue,
    /// Where that is.
    pub backend: BackendValue,
    /// Where packets to it go.
    pub route: Route,
    /// What the destination is: `ADDRESS_*`.
    pub address_kind: u32,
    /// Its way is asked for, whether it fits there or not.
    pub fits_anyway: bool,
    /// Bytes that will stand before the packet when it is sent.
    pub overhead: u16,
    /// From whom an answer comes.
    pub speaker: Addr,
    /// What becomes of the packet, once that is decided. Here and not in return values, parts of which LLVM leaves unset when
    /// nobody reads them, which the verifier does not take ("R3 !read_ok").
    pub verdict: Verdict,
    /// What the last step came to.
    pub outcome: Result<Reason, Reason>,
    /// Where the packet in this one begins that is to be read.
    pub inner_at: u32,
    /// Whether an ICMP error quotes it.
    pub is_quoted: bool,
    /// The longest IP packet that whoever sent this one will be told of.
    pub told_mtu: u32,
    /// Ns of `CLOCK_MONOTONIC`.
    pub now_ns: u64,
    /// One of `HOOK_*`.
    pub hook: u8,
    /// How far it has come.
    pub stage: Stage,
    /// Reasons counted besides, a bit for each.
    pub besides: u64,
    /// Nothing but a connected socket is being looked up, so that `sk_lookup` has nothing to decide.
    pub asks: bool,
}

impl Work {
    /// Whether whoever sent the packet is on this node.
    #[inline(always)]
    pub const fn is_inside(&self) -> bool {
        self.hook != HOOK_FROM_NETWORK
    }

    /// Makes room for the next packet, at this hook.
    #[inline(always)]
    const fn start(&mut self, hook: u8) {
        self.hook = hook;
        self.stage = Stage::Unread;
        self.besides = 0;
    }

    /// Counts a reason that is not the outcome.
    #[inline(always)]
    pub fn count_besides(&mut self, reason: Reason) {
        raw::count(reason);
        self.besides |= reason.bit();
    }
}

/// Everything that a hook does.
#[inline(always)]
pub fn handle<F: Frame>(frame: F, ethertype: u16, hook: u8) -> Verdict {
    let is_v6 = match ethertype {
        ETHERTYPE_IPV4 => false,
        ETHERTYPE_IPV6 => true,
        _ => return Verdict::Pass,
    };
    let Some(work) = raw::flows::work() else {
        return Verdict::Pass;
    };
    work.start(hook);
    let reason = match decide(frame, is_v6, work) {
        Ok(reason) => reason,
        Err(reason) => {
            work.verdict = of_failure(reason);
            reason
        }
    };
    raw::count(reason);
    events::of_packet(work, event_hook(hook), frame.ifindex(), reason);
    work.verdict
}

#[inline(always)]
const fn event_hook(hook: u8) -> EventHook {
    match hook {
        HOOK_TO_NETWORK => EventHook::ToNetwork,
        HOOK_FROM_POD => EventHook::FromPod,
        HOOK_TO_POD => EventHook::ToPod,
        _ => EventHook::FromNetwork,
    }
}

/// What becomes of a packet for which something failed.
#[inline(always)]
const fn of_failure(reason: Reason) -> Verdict {
    match reason {
        Reason::NotOurs
        | Reason::Redirected
        | Reason::Malformed
        | Reason::FragmentUnknown
        | Reason::BegunElsewhere => Verdict::Pass,
        _ => Verdict::Drop,
    }
}

#[inline(always)]
fn decide<F: Frame>(frame: F, is_v6: bool, work: &mut Work) -> Result<Reason, Reason> {
    let begins_here = work.hook != HOOK_TO_POD;
    if !begins_here && !pods::may_know(work.hook) {
        return Err(Reason::NotOurs);
    }
    read(frame, is_v6, work)?;
    work.address_kind = if begins_here { dialled_kind(&work.packet.key.dst) } else { 0 };
    if let Err(reason) = give_ports(&mut work.packet) {
        return Err(unserved(frame, work, reason));
    }
    if matches!(work.packet.kind, Kind::Ports) && borrowed::may_be(&work.packet.key, work.hook) {
        work.reply = work.packet.key;
        if let Ok(reason) = borrowed::steer(frame, work) {
            return Ok(reason);
        }
    }
    match work.packet.kind {
        Kind::Ports => match known::known(frame, work) {
            Err(Reason::NotOurs) if work.hook == HOOK_TO_POD => Err(Reason::NotOurs),
            // Most of what a node routes: nobody's, and done with before anything else is asked.
            Err(Reason::NotOurs) if work.address_kind == 0 => Err(begin::unallocated(&work.packet.key.dst)),
            Err(Reason::NotOurs) => frame.enter(work, Step::Begin),
            done => done,
        },
        Kind::Error => {
            let done = frame.enter(work, Step::Error);
            or_unserved(frame, work, done)
        }
        Kind::Tunnel => {
            let done = frame.enter(work, Step::Unwrap);
            or_unserved(frame, work, done)
        }
        Kind::Echo if work.hook != HOOK_TO_POD => {
            let done = answer::echo(frame, work);
            or_unserved(frame, work, done)
        }
        Kind::Echo | Kind::Other => Err(unserved(frame, work, Reason::NotOurs)),
    }
}

#[inline(always)]
fn or_unserved<F: Frame>(frame: F, work: &Work, done: Result<Reason, Reason>) -> Result<Reason, Reason> {
    if matches!(done, Err(Reason::NotOurs)) { Err(unserved(frame, work, Reason::NotOurs)) } else { done }
}

/// Why a packet ends or goes on that belongs to no connection: one for a cluster IP, which no machine has, would leave the node
/// by whatever route fits, and perhaps come back. Where the redirector serves the address it is the node's.
#[inline(never)]
fn unserved<F: Frame>(frame: F, work: &Work, otherwise: Reason) -> Reason {
    let (kind, packet) = (work.address_kind, &work.packet);
    if kind & ADDRESS_CLUSTER_IP == 0 || kind & ADDRESS_REDIRECTED != 0 {
        return otherwise;
    }
    // Neighbours that ask each other never ask beyond the link.
    let is_of_link = packet.key.protocol == ICMPV6
        && frame.load::<2>(packet.l4_at).is_some_and(|head| matches!(head[0], 133..=137));
    if is_of_link { otherwise } else { Reason::Unserved }
}

/// What the address is to those who dial it.
#[inline(always)]
fn dialled_kind(addr: &Addr) -> u32 {
    raw::get(&ADDRESSES, addr).unwrap_or(0) & !ADDRESS_LOCAL_ENDPOINT
}

// Functions of their own give their stack back: 512 bytes must do for a whole chain of calls.
#[inline(never)]
fn read<F: Frame>(frame: F, is_v6: bool, work: &mut Work) -> Result<(), Reason> {
    parse(&frame, frame.ip_at(), is_v6, &mut work.packet)?;
    work.stage = Stage::Read;
    if work.packet.l4_at > F::LAST_HEADER { Err(Reason::Malformed) } else { Ok(()) }
}

/// Reads a packet in this one, from `at` on, into `work.quoted`.
#[inline(always)]
fn read_inner<F: Frame>(frame: F, work: &mut Work, at: u32, is_quoted: bool) -> Result<(), Reason> {
    (work.inner_at, work.is_quoted) = (at, is_quoted);
    frame.enter(work, Step::ReadInner).map(drop)
}

#[inline(always)]
fn fragment_key(packet: &Packet) -> FragmentKey {
    FragmentKey {
        src: packet.key.src,
        dst: packet.key.dst,
        id_be: packet.fragment_id_be,
        protocol: packet.key.protocol,
        pad: [0; 3],
    }
}

/// Ports to pieces of datagrams: the first one has them, and the others get them from it.
#[inline(always)]
pub fn give_ports(packet: &mut Packet) -> Result<(), Reason> {
    match packet.fragment {
        Fragment::First if matches!(packet.kind, Kind::Ports) => remember_fragment(packet),
        Fragment::Whole => {}
        // The other pieces, which do not show what they belong to, would stay behind.
        Fragment::First => return Err(Reason::NotOurs),
        Fragment::Later => return recall_fragment(packet),
    }
    Ok(())
}

#[inline(never)]
fn remember_fragment(packet: &Packet) {
    let FlowKey { src_port_be, dst_port_be, .. } = packet.key;
    let ports = FragmentValue { src_port_be, dst_port_be, pad: 0, seen_ns: raw::now_ns() };
    // An LRU map always finds room; should it not, the other pieces are left alone.
    let _pieces_left_alone = FRAGMENTS.insert(fragment_key(packet), ports, 0);
}

/// Gives a later piece the ports of the first.
#[inline(never)]
fn recall_fragment(packet: &mut Packet) -> Result<(), Reason> {
    let ports = raw::get_lru(&FRAGMENTS, &fragment_key(packet)).ok_or(Reason::FragmentUnknown)?;
    if !flow::is_of_datagram(ports.seen_ns, raw::now_ns()) {
        return Err(Reason::FragmentUnknown);
    }
    packet.key.src_port_be = ports.src_port_be;
    packet.key.dst_port_be = ports.dst_port_be;
    packet.kind = Kind::Ports;
    Ok(())
}
