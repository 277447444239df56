//! Direct server return: packets go to a pod's node inside of another IP packet, whose destination is the pod. The pod's node
//! takes them out, and answers the client itself in the name of the address that was dialled.

use bytemuck::Zeroable as _;
use sluice_common::{
    Reason,
    layout::{
        ADDRESS_LOCAL_ENDPOINT, CONFIG_OPTIONS, FlowKey, FrontendKey, HOOK_FROM_NETWORK, OPTION_DSR_TCP,
        OPTION_DSR_UDP, SlotValue, TCP, UDP,
    },
    packet::{Kind, Packet, checksum::Difference, reply},
};

use super::{
    Frame, Stage, Step, Verdict, Work, cut, give_ports, known, narrow, read_inner, remember::take_own_address,
};
use crate::{
    maps::{ADDRESSES, CONFIG},
    raw::{
        self,
        fib::{self, Unroutable},
        flows,
    },
    socket,
};

/// Whether a connection with this first packet goes to other nodes in a tunnel. Not TCP whose sender lets routers cut up what
/// is too big: it would not send less when told so, and a tunnel has no room for pieces.
#[inline(always)]
pub fn is_wanted(first: &Packet) -> bool {
    let options = CONFIG.get(CONFIG_OPTIONS).copied().unwrap_or(0);
    match first.key.protocol {
        TCP => options & OPTION_DSR_TCP != 0 && first.is_whole_only,
        UDP => options & OPTION_DSR_UDP != 0,
        _ => false,
    }
}

/// Bytes that a tunnel takes.
#[inline(always)]
pub const fn overhead(is_v6: bool) -> u32 {
    if is_v6 { 40 } else { 20 }
}

/// Where the outer header has the pod's port: in the identification, which nobody needs where fragments are forbidden
/// (RFC 6864), or in the flow label.
#[inline(always)]
const fn port_at(is_v6: bool) -> u32 {
    if is_v6 { 2 } else { 4 }
}

/// Whether the packet to the pod `work.flow.dst` is a datagram that fits only in pieces, and may be cut up: without a tunnel the
/// stack can do that, and the pod takes a datagram in the node's name as well.
#[inline(always)]
pub fn is_too_narrow<F: Frame>(frame: F, work: &mut Work) -> bool {
    work.packet.key.protocol == UDP && cut::may_be_cut(work) && !fits(frame, work)
}

#[inline(never)]
fn fits<F: Frame>(frame: F, work: &mut Work) -> bool {
    !matches!(route(frame, work), Err(Unroutable::TooBig(_)))
}

/// The way of the packet in its tunnel, into `work.route`.
#[inline(always)]
fn route<F: Frame>(frame: F, work: &mut Work) -> Result<(), Unroutable> {
    let more = overhead(work.packet.is_v6);
    work.overhead = more as u16;
    let found = fib::route(frame, work);
    work.overhead = 0;
    found?;
    let mtu = narrow::mtu(work);
    if frame.segment_length(&work.packet) + more > mtu { Err(Unroutable::TooBig(mtu)) } else { Ok(()) }
}

/// Sends the packet, as it is, to the node of the pod `work.flow.dst`.
#[inline(never)]
pub fn wrap<F: Frame>(frame: F, work: &mut Work) -> Result<(), Reason> {
    work.verdict = Verdict::Pass;
    if work.packet.ttl <= 1 {
        return if F::ANSWERS { frame.enter(work, Step::HopsExceeded).map(drop) } else { Ok(()) };
    }
    match route(frame, work) {
        Ok(()) => {}
        Err(Unroutable::NoRoute) => return Err(Reason::NoRoute),
        Err(Unroutable::TooBig(_)) if !F::ANSWERS => return Ok(()),
        Err(Unroutable::TooBig(mtu)) => {
            work.told_mtu = mtu.saturating_sub(overhead(work.packet.is_v6));
            return frame.enter(work, Step::TooBig).map(drop);
        }
    }
    if !frame.can_forward(&work.route) {
        return Ok(());
    }
    take_own_address(work)?;
    put_header(frame, work).ok_or(Reason::Malformed)?;
    known::dress(frame, work)?;
    work.count_besides(Reason::TunnelSent);
    work.verdict = frame.forward(&work.route, false);
    Ok(())
}

#[inline(never)]
fn put_header<F: Frame>(frame: F, work: &Work) -> Option<()> {
    let (packet, flow) = (&work.packet, &work.flow);
    let length = overhead(packet.is_v6);
    lose_a_hop(frame, work)?;
    frame.insert_tunnel(length, packet.is_v6)?;
    let at = packet.ip_at;
    if packet.is_v6 {
        frame.store(at, &reply::ipv6_head(reply::TUNNEL_V6, packet.length as u16, flow.dst_port_be))?;
        frame.store::<16>(at + 8, &bytemuck::must_cast(flow.src.words_be))?;
        frame.store::<16>(at + 24, &bytemuck::must_cast(flow.dst.words_be))
    } else {
        let whole = (packet.length + length) as u16;
        frame
            .store(at, &reply::ipv4_header((&flow.src, &flow.dst), reply::TUNNEL_V4, whole, flow.dst_port_be))
    }
}

#[inline(always)]
fn lose_a_hop<F: Frame>(frame: F, work: &Work) -> Option<()> {
    let (packet, at) = (&work.packet, work.packet.ip_at);
    let left = packet.ttl - 1;
    if packet.is_v6 {
        let [next, _]: [u8; 2] = frame.load(at + 6)?;
        return frame.store(at + 6, &[next, left]);
    }
    let protocol = packet.key.protocol;
    let word = |ttl: u8| u32::from(u16::from_ne_bytes([ttl, protocol]));
    frame.store(at + 8, &[left, protocol])?;
    frame.fix_header(at + 10, Difference::NONE.word(word(packet.ttl), word(left)))
}

/// Takes a packet of one of our tunnels out of it and leads it on. Other tunnels are [`Reason::NotOurs`]. Its parts are called one
/// after the other, not one by the other: the stack has no room for that on Linux 6.1 ("combined stack size of 7 calls is 544").
#[inline(always)]
pub fn unwrap<F: Frame>(frame: F, work: &mut Work) -> Result<Reason, Reason> {
    open(frame, work)?;
    if matches!(work.packet.kind, Kind::Error) {
        return frame.enter(work, Step::Error);
    }
    if !matches!(work.stage, Stage::Chosen) {
        match known_again(frame, work) {
            Err(Reason::NotOurs) => find(work)?,
            done => return done,
        }
    }
    frame.enter(work, Step::Remember)?;
    frame.enter(work, Step::Lead).map(|_| Reason::PacketTranslated)
}

/// Takes it out. From here on `packet` is what was inside, and `backend` what it is for; the frontend is found unless its
/// connection is known.
#[inline(never)]
fn open<F: Frame>(frame: F, work: &mut Work) -> Result<(), Reason> {
    if work.hook != HOOK_FROM_NETWORK || !F::ANSWERS {
        return Err(Reason::NotOurs);
    }
    let outer_length = overhead(work.packet.is_v6);
    if work.packet.l4_at != work.packet.ip_at + outer_length {
        return Err(Reason::NotOurs);
    }
    read_inner(frame, work, work.packet.l4_at, false).map_err(|_| Reason::NotOurs)?;
    work.backend.addr = work.packet.key.dst;
    let port: [u8; 2] = frame.load(work.packet.ip_at + port_at(work.packet.is_v6)).ok_or(Reason::NotOurs)?;
    work.backend.port_be = u16::from_ne_bytes(port);
    work.packet = work.quoted;
    give_ports(&mut work.packet)?;
    match work.packet.kind {
        // No node sends others, and SCTP has its ports left as they are.
        Kind::Ports if matches!(work.packet.key.protocol, TCP | UDP) => {}
        Kind::Error => return open_error(frame, work, outer_length),
        _ => return Err(Reason::NotOurs),
    }
    work.now_ns = raw::now_ns();
    // One to an endpoint of this node: others begin with flags, and nothing that comes in a tunnel is for them.
    let is_known = flows::flow(&work.packet.key)
        .is_some_and(|flow| flow.dst == work.backend.addr && flow.flags == 0 && flow.hooks & work.hook != 0);
    if !is_known {
        find(work)?;
    }
    take_out(frame, work, outer_length)?;
    work.count_besides(Reason::TunnelReceived);
    Ok(())
}

#[inline(never)]
fn known_again<F: Frame>(frame: F, work: &mut Work) -> Result<Reason, Reason> {
    known::known(frame, work)
}

/// The same with an ICMP error about what the pod sent, on its way to the pod's node.
#[inline(always)]
fn open_error<F: Frame>(frame: F, work: &mut Work, outer_length: u32) -> Result<(), Reason> {
    read_inner(frame, work, work.packet.l4_at + 8, true).map_err(|_| Reason::NotOurs)?;
    if !is_known_here(work, &work.quoted.key.reversed()) {
        return Err(Reason::NotOurs);
    }
    take_out(frame, work, outer_length)
}

/// Whether packets with these ends belong to a connection to that endpoint of this node. Those that lead elsewhere have flags,
/// and nothing that comes in a tunnel is for them.
#[inline(always)]
fn is_known_here(work: &Work, key: &FlowKey) -> bool {
    flows::flow(key)
        .is_some_and(|flow| flow.dst == work.backend.addr && flow.flags == 0 && flow.hooks & work.hook != 0)
}

#[inline(always)]
fn take_out<F: Frame>(frame: F, work: &mut Work, outer_length: u32) -> Result<(), Reason> {
    frame.remove(outer_length).ok_or(Reason::Malformed)?;
    work.packet.l4_at -= outer_length;
    work.packet.ip_at -= outer_length;
    Ok(())
}

/// Finds the frontend that the client dialled. Which endpoint of this node, and which port of it, says the tunnel: its sender
/// chose, and could as well have sent the packet there itself. Nobody else is sent anything for whoever puts it in a tunnel.
#[inline(never)]
fn find(work: &mut Work) -> Result<(), Reason> {
    let packet = &work.packet.key;
    let key =
        FrontendKey { addr: packet.dst, port_be: packet.dst_port_be, protocol: packet.protocol, scope: 0 };
    let found = socket::entry(&key).or_else(|| socket::entry(&key.on_any_node_address()));
    work.frontend = found.ok_or(Reason::NotOurs)?;
    let kind = raw::get(&ADDRESSES, &work.backend.addr).unwrap_or(0);
    if kind & ADDRESS_LOCAL_ENDPOINT == 0 {
        return Err(Reason::NotOurs);
    }
    work.slot = SlotValue { local: 1, service_id: work.frontend.service_id, ..SlotValue::zeroed() };
    if work.backend.port_be == 0 {
        return Err(Reason::NotOurs);
    }
    work.stage = Stage::Chosen;
    Ok(())
}
