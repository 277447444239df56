//! A new connection's two entries: what becomes of its packets, and of their replies.

use sluice_common::{
    Addr, Reason,
    layout::{
        ADDRESS_NODE, ADDRESS_OWN, ANY_DEVICE, FLOW_REDIRECT, FLOW_REPLY, FLOW_SNAT, FLOW_TO_NODE,
        FLOW_TUNNEL, FlowKey, FlowValue, FrontendKey, HOOK_FROM_NETWORK, HOOK_FROM_POD, HOOK_TO_NETWORK,
        HOOK_TO_POD, PROBE_ID, SCTP,
    },
    packet::flow,
};

use super::{Frame, Stage, Step, Work, pods, tunnel};
use crate::{
    maps::{ADDRESSES, DEVICES, FLOWS, FRONTENDS},
    raw::{self, fib, flows},
};

/// Only where there is none yet.
const BPF_NOEXIST: u64 = 1;

/// Where the connection's two entries count, and how their packets go on.
struct Way {
    there: u8,
    back: u8,
    back_hook: u8,
}

#[inline(always)]
fn way(work: &Work) -> Result<Way, Reason> {
    const IN_OUR_NAME: u8 = FLOW_SNAT | FLOW_REDIRECT;
    let (hook, is_local) = (work.hook, work.slot.local != 0);
    let way = |there, back, back_hook| Ok(Way { there, back, back_hook });
    match (hook, is_local) {
        // A pod of this node gets packets through the node's stack, and answers through it.
        (HOOK_FROM_NETWORK, true) => way(0, 0, HOOK_TO_NETWORK),
        (HOOK_FROM_NETWORK, false) if tunnel::is_wanted(&work.packet) => {
            way(FLOW_TUNNEL | FLOW_REDIRECT, 0, 0)
        }
        (HOOK_FROM_NETWORK, false) => way(IN_OUR_NAME, IN_OUR_NAME, HOOK_FROM_NETWORK),
        // A pod that is its own backend must not see its own address as the source.
        (HOOK_FROM_POD, _) if work.backend.addr == work.packet.key.src => {
            way(IN_OUR_NAME, IN_OUR_NAME, HOOK_FROM_POD)
        }
        (HOOK_FROM_POD, _) => way(0, 0, HOOK_TO_POD),
        (_, true) if is_node(&work.packet.key.src) => way(FLOW_REDIRECT, FLOW_TO_NODE, HOOK_FROM_POD),
        (_, false) if is_node(&work.packet.key.src) => {
            way(IN_OUR_NAME, FLOW_SNAT | FLOW_TO_NODE, HOOK_FROM_NETWORK)
        }
        (_, false) => way(IN_OUR_NAME, IN_OUR_NAME, HOOK_FROM_NETWORK),
        // The reply of a pod to a pod would pass none of our hooks.
        (_, true) => Err(Reason::NotOurs),
    }
}

/// Makes both entries; `work.flow` is what becomes of this packet.
#[inline(always)]
pub fn remember<F: Frame>(frame: F, work: &mut Work) -> Result<(), Reason> {
    let way = way(work)?;
    pods::begin(work.hook | way.back_hook, work.now_ns);
    let key = &work.packet.key;
    work.flow = FlowValue {
        src: key.src,
        dst: work.backend.addr,
        src_port_be: key.src_port_be,
        dst_port_be: work.backend.port_be,
        hooks: work.hook,
        flags: way.there,
        state: flow::after(0, false, work.packet.tcp_flags),
        pad: 0,
        last_seen_ns: work.now_ns,
        service_id: work.frontend.service_id,
        backend_id: work.slot.backend_id,
        ifindex: frame.ifindex(),
        route_ifindex: 0,
        route_macs: [0; 12],
        route_mtu: 0,
        pad2: 0,
    };
    work.back = FlowValue {
        src: key.dst,
        dst: key.src,
        src_port_be: key.dst_port_be,
        dst_port_be: key.src_port_be,
        hooks: way.back_hook,
        flags: way.back | FLOW_REPLY,
        ..work.flow
    };
    if F::ANSWERS && way.there & FLOW_TUNNEL != 0 && tunnel::is_too_narrow(frame, work) {
        speak_for(work);
    }
    if work.flow.flags & FLOW_TUNNEL != 0 {
        // The replies do not come by here.
    } else if work.flow.flags & FLOW_SNAT != 0 {
        take_source(frame, work)?;
        claim_port(frame, work)?;
    } else {
        keep_port(frame, work)?;
    }
    insert_client(work)?;
    work.stage = Stage::Remembered;
    Ok(())
}

/// Stores the client's entry. One more is counted, so that whoever counts those that are there knows how many the map forgot.
#[inline(always)]
fn insert_client(work: &Work) -> Result<(), Reason> {
    if FLOWS.insert(&work.packet.key, &work.flow, BPF_NOEXIST).is_ok() {
        raw::count(Reason::FlowBegun);
        return Ok(());
    }
    FLOWS.insert(&work.packet.key, &work.flow, 0).map_err(|_| Reason::SourcePortsTaken)
}

/// Makes the connection `work.flow`, which went in a tunnel, one that goes in the node's name from now on.
#[inline(never)]
pub fn leave_tunnel<F: Frame>(frame: F, work: &mut Work) -> Result<(), Reason> {
    let key = &work.packet.key;
    work.back = FlowValue {
        src: key.dst,
        dst: key.src,
        src_port_be: key.dst_port_be,
        dst_port_be: key.src_port_be,
        last_seen_ns: work.now_ns,
        route_ifindex: 0,
        ..work.flow
    };
    speak_for(work);
    take_source(frame, work)?;
    claim_port(frame, work)?;
    (work.flow.last_seen_ns, work.flow.route_ifindex) = (work.now_ns, 0);
    FLOWS.insert(&work.packet.key, &work.flow, 0).map_err(|_| Reason::SourcePortsTaken)
}

/// Makes both entries those of a connection in the node's name, which `way` has them be for a tunnel.
#[inline(always)]
const fn speak_for(work: &mut Work) {
    work.flow.flags = FLOW_SNAT | FLOW_REDIRECT;
    work.back.flags = FLOW_SNAT | FLOW_REDIRECT | FLOW_REPLY;
    work.back.hooks = HOOK_FROM_NETWORK;
}

/// Whether the address is the node's own.
#[inline(always)]
pub fn is_node(addr: &Addr) -> bool {
    raw::get(&ADDRESSES, addr).is_some_and(|kind| kind & (ADDRESS_NODE | ADDRESS_OWN) != 0)
}

/// The node's address on the device by which the backend is reached.
#[inline(never)]
fn take_source<F: Frame>(frame: F, work: &mut Work) -> Result<(), Reason> {
    // Whether the packet fits is asked when it is sent. Of one that does not fit the kernel does not tell the device.
    work.fits_anyway = true;
    let found = fib::route(frame, work);
    work.fits_anyway = false;
    found.map_err(|_| Reason::NoRoute)?;
    take_own_address(work)
}

/// The node's address on the device by which `work.route` goes, as the source of what is sent.
#[inline(never)]
pub fn take_own_address(work: &mut Work) -> Result<(), Reason> {
    // Not from `is_v6`, which the verifier takes for any number: it becomes an offset here.
    let is_v4 = work.packet.key.src.is_v4();
    let address = |index: u32| {
        let device = raw::get(&DEVICES, &index)?;
        let address = if is_v4 { device.v4 } else { device.v6 };
        (address != Addr::UNSPECIFIED).then_some(address)
    };
    work.flow.src = address(work.route.ifindex).or_else(|| address(ANY_DEVICE)).ok_or(Reason::NoRoute)?;
    Ok(())
}

/// Takes a source port under which the backend's replies are nobody else's; stores the entry of the replies.
#[inline(never)]
fn claim_port<F: Frame>(frame: F, work: &mut Work) -> Result<(), Reason> {
    work.reply = work.flow.peer(work.packet.key.protocol);
    let keeps_port = work.packet.key.protocol == SCTP;
    for attempt in 0..flow::PORT_TRIES {
        if !keeps_port {
            work.reply.dst_port_be = flow::source_port(attempt, raw::random()).to_be();
        }
        if frame.enter(work, Step::TryPort).is_ok() {
            work.flow.src_port_be = work.reply.dst_port_be;
            return Ok(());
        }
    }
    Err(Reason::SourcePortsTaken)
}

/// Stores the entry of the replies to the port of `work.reply` if that is free.
#[inline(always)]
pub fn try_port<F: Frame>(frame: F, work: &mut Work) -> Result<(), Reason> {
    // There is no helper that looks for sockets of SCTP, whose port is no choice either.
    let keeps_port = work.packet.key.protocol == SCTP;
    let is_taken = !keeps_port && (is_node_port(work) || fib::has_socket(frame, work));
    if !is_taken && insert_reply(work) { Ok(()) } else { Err(Reason::SourcePortsTaken) }
}

/// Whether the port of the node that replies would go to is a NodePort: where those lie is the cluster's to say.
#[inline(never)]
fn is_node_port(work: &Work) -> bool {
    let FlowKey { dst, dst_port_be, protocol, .. } = work.reply;
    let key = FrontendKey { addr: dst, port_be: dst_port_be, protocol, scope: 0 };
    raw::get(&FRONTENDS, &key.on_any_node_address()).is_some()
}

/// Stores the entry of the replies under the client's own port, unless that port has a live connection to the same backend
/// by another address of a Service: then another port stands for it.
#[inline(never)]
fn keep_port<F: Frame>(frame: F, work: &mut Work) -> Result<(), Reason> {
    work.reply = work.flow.peer(work.packet.key.protocol);
    let is_connected = is_connected(frame, work);
    let back = &work.back;
    let is_known = flows::flow(&work.reply).is_some_and(|old| {
        let is_same =
            old.src == back.src && old.src_port_be == back.src_port_be && old.dst_port_be == back.dst_port_be;
        !is_same && flow::is_live(&old, work.reply.protocol, work.now_ns)
    });
    if (is_connected || is_known) && work.reply.protocol != SCTP {
        return claim_port(frame, work);
    }
    FLOWS.insert(&work.reply, &work.back, 0).map_err(|_| Reason::SourcePortsTaken)
}

/// Whether the redirector has a connection with the ends that this one to it would have: the client dialled the cluster IP
/// too, by the same port.
#[inline(never)]
fn is_connected<F: Frame>(frame: F, work: &mut Work) -> bool {
    if work.slot.backend_id != PROBE_ID || work.packet.tcp_flags & (flow::SYN | flow::ACK) != flow::SYN {
        return false;
    }
    turn(&mut work.reply);
    work.asks = true;
    let is_it = fib::is_connected(frame, work);
    work.asks = false;
    turn(&mut work.reply);
    is_it
}

/// Makes the other end's key of it, in place: the deepest chain of calls goes by here.
#[inline(always)]
const fn turn(key: &mut FlowKey) {
    core::mem::swap(&mut key.src, &mut key.dst);
    core::mem::swap(&mut key.src_port_be, &mut key.dst_port_be);
}

/// Stores the entry of the replies unless a live one is there.
#[inline(never)]
fn insert_reply(work: &Work) -> bool {
    if FLOWS.insert(&work.reply, &work.back, BPF_NOEXIST).is_ok() {
        return true;
    }
    let dead =
        flows::flow(&work.reply).is_none_or(|old| !flow::is_live(&old, work.reply.protocol, work.now_ns));
    dead && FLOWS.insert(&work.reply, &work.back, 0).is_ok()
}
