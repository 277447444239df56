//! First packets of connections: which frontend, whether this client may use it, which backend.

use bytemuck::Zeroable as _;
use sluice_common::{
    Addr, Reason, choose,
    layout::{
        ADDRESS_CLUSTER_IP, ADDRESS_NODE, ADDRESS_VIP, AffinityKey, CONFIG_OPTIONS, FLAG_EXTERNAL_LOCAL,
        FLAG_HAS_ENDPOINTS, FLAG_SOURCE_RANGES, FrontendKey, FrontendKind, FrontendValue, HOOK_FROM_NETWORK,
        HOOK_TO_NETWORK, NO_BACKEND, OPTION_BESIDE_OTHERS, OPTION_SERVICE_CIDRS, PROBE_ID, SCTP,
        SERVICE_CIDRS, SlotValue, TCP,
    },
    packet::flow,
};

use super::{Frame, Stage, Step, Work};
use crate::{
    affinity,
    maps::{CONFIG, SLOTS},
    raw::{self, fib},
    rules::{self, Course},
    socket,
};

/// Leads the packet to a backend and remembers the connection, or refuses it.
#[inline(always)]
pub fn begin<F: Frame>(frame: F, work: &mut Work) -> Result<Reason, Reason> {
    work.now_ns = raw::now_ns();
    let reason = match find(frame, work) {
        Ok(reason) => reason,
        Err(reason @ (Reason::UnknownPort | Reason::NoEndpoints)) => {
            return frame.enter(work, Step::Refuse).map(|_| reason);
        }
        Err(reason) => return Err(reason),
    };
    frame.enter(work, Step::Remember)?;
    frame.enter(work, Step::Lead).map(|_| reason)
}

/// Finds frontend, slot and backend: [`Reason::PacketTranslated`], or [`Reason::Redirected`] if that is the redirector.
#[inline(never)]
pub fn find<F: Frame>(frame: F, work: &mut Work) -> Result<Reason, Reason> {
    look_up(work)?;
    work.stage = Stage::Found;
    leave_others(frame, work)?;
    admit(work)?;
    if is_redirected(work)? {
        return Ok(Reason::Redirected);
    }
    if let Err(reason) = frame.enter(work, Step::Choose) {
        if !matches!(reason, Reason::SlotMismatch) {
            return Err(reason);
        }
        // A change was under way: once more, as sockets do.
        look_up(work)?;
        frame.enter(work, Step::Choose)?;
    }
    if work.slot.backend_id == NO_BACKEND {
        return Err(Reason::NoEndpoints);
    }
    work.backend = socket::backend_by_id(work.slot.backend_id)?;
    work.stage = Stage::Chosen;
    // The checksum of SCTP covers the whole packet.
    if work.packet.key.protocol == SCTP && work.backend.port_be != work.packet.key.dst_port_be {
        return Err(Reason::SctpPort);
    }
    Ok(Reason::PacketTranslated)
}

/// [`frontend`], into its place.
#[inline(never)]
fn look_up(work: &mut Work) -> Result<(), Reason> {
    work.frontend = frontend(work)?;
    Ok(())
}

/// The frontend that the packet is for.
#[inline(always)]
fn frontend(work: &Work) -> Result<FrontendValue, Reason> {
    let packet = &work.packet.key;
    let key =
        FrontendKey { addr: packet.dst, port_be: packet.dst_port_be, protocol: packet.protocol, scope: 0 };
    if work.address_kind == 0 {
        return Err(unallocated(&key.addr));
    }
    if let Some(value) = socket::entry(&key) {
        // An endpoint's own address is translated where the client is, and nowhere on the way.
        let elsewhere = value.kind == FrontendKind::Headless as u8 && !work.is_inside();
        return if elsewhere { Err(Reason::NotOurs) } else { Ok(value) };
    }
    let kind = work.address_kind;
    if kind & ADDRESS_CLUSTER_IP != 0 {
        return Err(Reason::UnknownPort);
    }
    if kind & ADDRESS_NODE != 0 {
        return socket::entry(&key.on_any_node_address()).ok_or(Reason::NotOurs);
    }
    if kind & ADDRESS_VIP != 0 && work.hook == HOOK_FROM_NETWORK {
        return Err(Reason::UnknownPort);
    }
    Err(Reason::NotOurs)
}

/// Whether an address that nobody has is one of those that cluster IPs are taken from.
#[inline(always)]
pub fn unallocated(addr: &Addr) -> Reason {
    let inside = has_option(OPTION_SERVICE_CIDRS) && raw::in_source_ranges(SERVICE_CIDRS, addr);
    if inside { Reason::UnallocatedAddress } else { Reason::NotOurs }
}

#[inline(always)]
fn has_option(option: u64) -> bool {
    CONFIG.get(CONFIG_OPTIONS).is_some_and(|options| options & option != 0)
}

/// A TCP connection that began without us goes on without us: to a socket of the node, or to the redirector after its rules
/// are gone. Not to one that listens: at the redirector's, what was forgotten when rules came ends, by whichever address.
#[inline(always)]
fn leave_others<F: Frame>(frame: F, work: &mut Work) -> Result<(), Reason> {
    if work.packet.key.protocol != TCP || work.packet.tcp_flags & (flow::SYN | flow::ACK) == flow::SYN {
        return Ok(());
    }
    if has_option(OPTION_BESIDE_OTHERS) {
        return Err(Reason::BegunElsewhere);
    }
    work.reply = work.packet.key;
    work.asks = true;
    let is_others = fib::is_connected(frame, work);
    work.asks = false;
    if is_others { Err(Reason::NotOurs) } else { Ok(()) }
}

/// Whether this client may use the service.
#[inline(always)]
fn admit(work: &Work) -> Result<(), Reason> {
    let (value, packet) = (&work.frontend, &work.packet.key);
    if value.flags & FLAG_SOURCE_RANGES != 0 && !raw::in_source_ranges(value.service_id, &packet.src) {
        return Err(Reason::SourceNotAllowed);
    }
    Ok(())
}

/// Whether the packet is led to the redirector; [`Reason::Redirected`] if it gets there as it is.
#[inline(never)]
fn is_redirected(work: &mut Work) -> Result<bool, Reason> {
    let (value, packet) = (&work.frontend, &work.packet.key);
    let key =
        FrontendKey { addr: packet.dst, port_be: packet.dst_port_be, protocol: packet.protocol, scope: 0 };
    // What is on its way out cannot be turned round: the stack takes nothing that bears the node's own address.
    let course = rules::course(value, &key, work.hook != HOOK_TO_NETWORK, &mut work.backend.addr);
    let by_cluster_ip = match course {
        Course::Kernel => return Ok(false),
        Course::Unruled => {
            work.count_besides(Reason::NoRedirector);
            return Ok(false);
        }
        Course::Refused => return Err(Reason::NoRedirector),
        Course::AsDialled => false,
        Course::ByClusterIp => true,
    };
    // Where the policy lets nobody serve, the redirector does not either.
    let is_local = value.flags & FLAG_EXTERNAL_LOCAL != 0 && !work.is_inside();
    if is_local && value.local_count == 0 && value.flags & FLAG_HAS_ENDPOINTS != 0 {
        return Err(Reason::NoLocalEndpoints);
    }
    if !by_cluster_ip {
        return Err(Reason::Redirected);
    }
    work.backend.port_be = key.port_be;
    work.slot =
        SlotValue { backend_id: PROBE_ID, service_id: value.service_id, local: 1, ..SlotValue::zeroed() };
    work.stage = Stage::Chosen;
    Ok(true)
}

/// The slot of this client's backend: the one that it had, where the service has affinity, else any.
#[inline(always)]
pub fn choose_slot(work: &mut Work) -> Result<(), Reason> {
    let value = &work.frontend;
    let range = choose::packet_range(value, work.is_inside());
    let client = AffinityKey { client: work.packet.key.src, service_id: value.service_id };
    let remembers = choose::remembers_clients(value);
    if remembers && let Some(slot) = affinity::kept(&client, value, range, work.now_ns) {
        work.count_besides(Reason::AffinityKept);
        work.slot = slot;
        return Ok(());
    }
    let index = choose::slot_in(value, range, spread(work))?;
    work.slot = *SLOTS.get(index).ok_or(Reason::SlotMismatch)?;
    if work.slot.service_id != value.service_id {
        return Err(Reason::SlotMismatch);
    }
    if remembers {
        affinity::keep(&client, work.slot.backend_id, work.now_ns);
    }
    Ok(())
}

/// Where in the range the connection falls.
#[inline(always)]
fn spread(work: &Work) -> u32 {
    let packet = &work.packet.key;
    if choose::is_maglev(&work.frontend) {
        choose::packet_spread(&work.frontend, &packet.src, packet.src_port_be)
    } else {
        raw::random()
    }
}
