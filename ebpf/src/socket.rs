//! Socket load balancing: from frontend to backend on the way out, back again in what the client sees.

use aya_ebpf::programs::SockAddrContext;
use bytemuck::Zeroable;
use sluice_common::{
    Addr, Reason, choose,
    layout::{
        ADDRESS_CLUSTER_IP, ADDRESS_LOOPBACK, ADDRESS_NODE, BackendValue, CONFIG_HOST_NETNS, CONFIG_OPT_OUTS,
        CONFIG_WATCHED, EventHook, FLAG_REDIRECTED, FLAG_SOURCE_RANGES, FrontendKey, FrontendValue,
        NO_BACKEND, RevnatKey, RevnatValue, SocketValue, TCP, UDP,
    },
};

use crate::{
    affinity,
    events::{self, Story},
    family::Family,
    maps::{ADDRESSES, BACKENDS, CONFIG, FRONTENDS, HEARTBEAT, OPT_OUTS, SLOTS, UDP_REVNAT},
    raw,
    rules::{self, Course},
};

/// What to do with the system call.
pub enum Verdict {
    /// Let it go on, with the address that is in the context now.
    Pass,
    /// Fail it with ECONNREFUSED.
    Refuse,
}

/// What a hook decided, and the counter of it.
pub type Outcome = (Verdict, Reason);

/// Lets the hook decide, tells whoever watches, and finishes.
#[inline(always)]
pub fn run(
    ctx: &SockAddrContext,
    hook: EventHook,
    decide: impl FnOnce(&SockAddrContext, &mut Story) -> Outcome,
) -> i32 {
    let mut story = Story::new();
    let outcome = decide(ctx, &mut story);
    events::of_socket(ctx, hook, &outcome, &story);
    finish(outcome)
}

/// Counts the reason and turns the verdict into a cgroup program's return code.
#[inline(always)]
pub fn finish((verdict, reason): Outcome) -> i32 {
    raw::count(reason);
    match verdict {
        Verdict::Pass => 1,
        Verdict::Refuse => {
            raw::fail(raw::ECONNREFUSED);
            0
        }
    }
}

/// What the socket dials, if its protocol is one that Services have.
#[inline(always)]
fn dialled<F: Family>(ctx: &SockAddrContext) -> Option<FrontendKey> {
    let protocol = raw::protocol(ctx);
    if protocol != TCP && protocol != UDP {
        return None;
    }
    Some(FrontendKey { addr: F::address(ctx), port_be: raw::port_be(ctx), protocol, scope: 0 })
}

/// The frontend that `key` dials, by its address or as a NodePort on one of the node's addresses; else
/// [`Reason::UnknownPort`] or [`Reason::NotOurs`].
#[inline(always)]
fn frontend(ctx: &SockAddrContext, key: &FrontendKey) -> Result<FrontendValue, Reason> {
    if let Some(frontend) = entry(key) {
        return Ok(frontend);
    }
    let kind = raw::get(&ADDRESSES, &key.addr).ok_or(Reason::NotOurs)?;
    if kind & ADDRESS_CLUSTER_IP != 0 {
        return Err(Reason::UnknownPort);
    }
    // In a pod, the loopback is the pod's own.
    if kind & ADDRESS_LOOPBACK != 0 && CONFIG.get(CONFIG_HOST_NETNS).copied() != Some(raw::netns_cookie(ctx))
    {
        return Err(Reason::NotOurs);
    }
    if kind & (ADDRESS_NODE | ADDRESS_LOOPBACK) == 0 {
        return Err(Reason::NotOurs);
    }
    entry(&key.on_any_node_address()).ok_or(Reason::NotOurs)
}

/// What `FRONTENDS` has for `key`: looked up again if the element was reused for another key meanwhile.
#[inline(always)]
pub fn entry(key: &FrontendKey) -> Option<FrontendValue> {
    let value = raw::get(&FRONTENDS, key)?;
    if value.check == key.check() {
        return Some(value);
    }
    raw::get(&FRONTENDS, key).filter(|value| value.check == key.check())
}

/// The backend in the slot that `spread` leads to, with its id.
#[inline(always)]
fn backend(frontend: &FrontendValue, spread: u32) -> Result<(u32, BackendValue), Reason> {
    let slot = SLOTS.get(choose::socket_slot(frontend, spread)?).ok_or(Reason::SlotMismatch)?;
    if slot.service_id != frontend.service_id {
        return Err(Reason::SlotMismatch);
    }
    if slot.backend_id == NO_BACKEND {
        return Err(Reason::NoEndpoints);
    }
    backend_by_id(slot.backend_id).map(|backend| (slot.backend_id, backend))
}

#[inline(always)]
pub fn backend_by_id(id: u32) -> Result<BackendValue, Reason> {
    let backend = BACKENDS.get(id).copied().ok_or(Reason::BackendMissing)?;
    if backend.port_be == 0 { Err(Reason::BackendMissing) } else { Ok(backend) }
}

/// [`backend`], once more if the first try met a change under way.
#[inline(always)]
fn backend_of(
    ctx: &SockAddrContext,
    key: &FrontendKey,
    value: &FrontendValue,
    spread: u32,
) -> Result<(u32, BackendValue), Reason> {
    match backend(value, spread) {
        Err(Reason::SlotMismatch) => {
            let again = frontend(ctx, key).map_err(|_| Reason::SlotMismatch)?;
            backend(&again, spread)
        }
        result => result,
    }
}

/// The backend for this client: the one it had, where the service has affinity, else the one of `spread`.
#[inline(always)]
fn backend_for_client(
    ctx: &SockAddrContext,
    key: &FrontendKey,
    frontend: &FrontendValue,
    spread: u32,
    story: &mut Story,
) -> Result<BackendValue, Reason> {
    let choose = || backend_of(ctx, key, frontend, spread);
    let (id, backend) = if !choose::remembers_clients(frontend) {
        choose()?
    } else {
        affinity::backend(ctx, key, frontend, story, choose)?
    };
    story.backend_id = id;
    story.backend = backend;
    Ok(backend)
}

/// The socket's place in the Service's Maglev table, if it has one.
#[inline(always)]
fn maglev(ctx: &SockAddrContext, frontend: &FrontendValue) -> Option<u32> {
    choose::is_maglev(frontend)
        .then(|| choose::socket_spread(frontend, raw::cookie(ctx), raw::netns_cookie(ctx)))
}

/// The frontend that the socket dials, unless its pod wants to be left alone.
#[inline(always)]
fn of_interest(ctx: &SockAddrContext, key: &FrontendKey, story: &mut Story) -> Result<FrontendValue, Reason> {
    story.dialled = *key;
    let found = frontend(ctx, key);
    if let Ok(value) = &found {
        story.service_id = value.service_id;
    }
    match found {
        Err(Reason::NotOurs) => Err(Reason::NotOurs),
        Ok(_) | Err(_) if is_left_alone(ctx) => Err(Reason::OptedOut),
        // A socket that connects has no source address yet.
        Ok(value) if value.flags & FLAG_SOURCE_RANGES != 0 => Err(Reason::LeftToPackets),
        found => found,
    }
}

/// Whether the socket's pod wants to be left alone.
#[inline(always)]
fn is_left_alone(ctx: &SockAddrContext) -> bool {
    let any = CONFIG.get(CONFIG_OPT_OUTS).is_some_and(|count| *count != 0);
    any && raw::get(&OPT_OUTS, &raw::netns_cookie(ctx)).is_some()
}

/// Whether the redirector said so of late.
#[inline(always)]
pub fn redirector_is_well() -> bool {
    let beat_ns = HEARTBEAT.get(0).copied().unwrap_or(0);
    beat_ns != 0 && raw::now_ns().saturating_sub(beat_ns) < sluice_common::layout::HEARTBEAT_NS
}

#[inline(always)]
fn redirect<F: Family>(ctx: &SockAddrContext, backend: &BackendValue) {
    F::set_address(ctx, &backend.addr);
    raw::set_port_be(ctx, backend.port_be);
}

/// Connects the socket to `backend`, and makes it remember what it dialled.
#[inline(always)]
fn lead<F: Family>(ctx: &SockAddrContext, key: &FrontendKey, backend: &BackendValue) {
    let socket =
        SocketValue { frontend: *key, backend_addr: backend.addr, backend_port_be: backend.port_be, pad: 0 };
    raw::set_socket(ctx, socket, true);
    redirect::<F>(ctx, backend);
}

/// connect: TCP, and UDP sockets that choose a peer.
#[inline(always)]
pub fn connect<F: Family>(ctx: &SockAddrContext, story: &mut Story) -> Outcome {
    let Some(key) = dialled::<F>(ctx) else {
        return (Verdict::Pass, Reason::NotOurs);
    };
    let value = match of_interest(ctx, &key, story) {
        Ok(value) => value,
        Err(reason) => {
            forget(ctx, &key);
            let refuse = matches!(reason, Reason::UnknownPort) && key.protocol == TCP;
            return (if refuse { Verdict::Refuse } else { Verdict::Pass }, reason);
        }
    };
    if value.flags & FLAG_REDIRECTED != 0 && redirector_is_well() && !raw::fib::is_listening(0) {
        // It did not live to say so, and what dials it now would be refused.
        raw::stop_heartbeat();
    }
    match rules::course(&value, &key, true, &mut story.backend.addr) {
        Course::Kernel => {}
        Course::AsDialled => {
            forget(ctx, &key);
            return (Verdict::Pass, Reason::Redirected);
        }
        Course::ByClusterIp => {
            story.backend.port_be = key.port_be;
            lead::<F>(ctx, &key, &story.backend);
            return (Verdict::Pass, Reason::Redirected);
        }
        Course::Unruled => story.count_besides(Reason::NoRedirector),
        Course::Refused => return (Verdict::Refuse, Reason::NoRedirector),
    }
    let spread = maglev(ctx, &value).unwrap_or_else(raw::random);
    match backend_for_client(ctx, &key, &value, spread, story) {
        Ok(backend) => {
            if key.protocol == UDP && remember(ctx, &key, &value, &backend).is_err() {
                return (Verdict::Refuse, Reason::RevnatFull);
            }
            lead::<F>(ctx, &key, &backend);
            (Verdict::Pass, Reason::ConnectTranslated)
        }
        // A UDP connect sends nothing: an error belongs to the first datagram. Clients tell the two apart.
        Err(Reason::NoEndpoints) if key.protocol == UDP => (Verdict::Pass, Reason::NoEndpointsUdpConnect),
        Err(Reason::NoLocalEndpoints) => (Verdict::Pass, Reason::NoLocalEndpoints),
        Err(reason) => (Verdict::Refuse, reason),
    }
}

/// sendmsg: datagrams of sockets that name a destination each time.
#[inline(always)]
pub fn send<F: Family>(ctx: &SockAddrContext, story: &mut Story) -> Outcome {
    let Some(key) = dialled::<F>(ctx) else {
        return (Verdict::Pass, Reason::NotOurs);
    };
    let value = match of_interest(ctx, &key, story) {
        Ok(value) => value,
        Err(Reason::UnknownPort) => return (Verdict::Refuse, Reason::UnknownPort),
        Err(reason) => {
            // A dual-stack socket connected to an IPv4 backend comes by with that backend's address at each send:
            // udpv6_sendmsg hands its own peer to udp_sendmsg as if the caller had named it.
            if connection(ctx, &key.addr, key.port_be).is_none() {
                forget_reply(ctx, &key);
            }
            return (Verdict::Pass, reason);
        }
    };
    let own = || choose::socket_hash(raw::cookie(ctx), value.service_id);
    let spread = maglev(ctx, &value).unwrap_or_else(own);
    match backend_for_client(ctx, &key, &value, spread, story) {
        Ok(backend) => {
            let watched = events::is_watched(CONFIG_WATCHED);
            story.watched = Some(watched);
            story.again = watched && has_asked(ctx, &key, &backend);
            if remember(ctx, &key, &value, &backend).is_err() {
                return (Verdict::Refuse, Reason::RevnatFull);
            }
            redirect::<F>(ctx, &backend);
            (Verdict::Pass, Reason::SendTranslated)
        }
        Err(Reason::NoLocalEndpoints) => (Verdict::Pass, Reason::NoLocalEndpoints),
        Err(reason) => (Verdict::Refuse, reason),
    }
}

/// recvmsg: shows the frontend as the source of a backend's datagram.
#[inline(always)]
pub fn receive<F: Family>(ctx: &SockAddrContext, story: &mut Story) -> Outcome {
    let (addr, port_be) = (F::address(ctx), raw::port_be(ctx));
    let revnat = raw::get_lru(&UDP_REVNAT, &revnat_key(ctx, &addr, port_be));
    // A frontend that is gone or serves another Service by now has no claim on this reply.
    let valid = revnat.filter(|revnat| {
        frontend(ctx, &revnat.frontend).is_ok_and(|value| value.service_id == revnat.service_id)
    });
    // A connected socket remembers by itself: its entry is written once, and may be gone long before it is.
    let shown = valid
        .map(|revnat| revnat.frontend)
        .or_else(|| connection(ctx, &addr, port_be).map(|socket| socket.frontend));
    match shown {
        Some(shown) => {
            story.dialled = shown;
            story.service_id = valid.map_or(0, |revnat| revnat.service_id);
            story.backend = BackendValue { addr, port_be, ..BackendValue::zeroed() };
            F::set_address(ctx, &shown.addr);
            raw::set_port_be(ctx, shown.port_be);
            (Verdict::Pass, Reason::ReplyTranslated)
        }
        None => (Verdict::Pass, Reason::NotOurs),
    }
}

/// getpeername: shows the frontend that was dialled, as long as the socket is still on that backend.
#[inline(always)]
pub fn peer<F: Family>(ctx: &SockAddrContext) -> Outcome {
    match connection(ctx, &F::address(ctx), raw::port_be(ctx)) {
        Some(value) => {
            F::set_address(ctx, &value.frontend.addr);
            raw::set_port_be(ctx, value.frontend.port_be);
            (Verdict::Pass, Reason::PeerTranslated)
        }
        None => (Verdict::Pass, Reason::NotOurs),
    }
}

/// What the socket's connection was translated from, if it was, and to this backend.
#[inline(always)]
fn connection(ctx: &SockAddrContext, addr: &Addr, port_be: u16) -> Option<SocketValue> {
    raw::socket(ctx).filter(|value| {
        value.frontend.protocol != 0 && value.backend_port_be == port_be && value.backend_addr == *addr
    })
}

#[inline(always)]
pub fn revnat_key(ctx: &SockAddrContext, addr: &Addr, port_be: u16) -> RevnatKey {
    RevnatKey { cookie: raw::cookie(ctx), addr: *addr, port_be, pad: [0; 6] }
}

/// Whether the socket has sent a datagram to this backend already, for the address in `key`.
#[inline(always)]
pub fn has_asked(ctx: &SockAddrContext, key: &FrontendKey, backend: &BackendValue) -> bool {
    let known = raw::get_lru(&UDP_REVNAT, &revnat_key(ctx, &backend.addr, backend.port_be));
    known.is_some_and(|revnat| revnat.frontend == *key)
}

#[inline(always)]
fn remember(
    ctx: &SockAddrContext,
    key: &FrontendKey,
    frontend: &FrontendValue,
    backend: &BackendValue,
) -> Result<(), i32> {
    let value = RevnatValue { frontend: *key, service_id: frontend.service_id };
    UDP_REVNAT.insert(revnat_key(ctx, &backend.addr, backend.port_be), value, 0)
}

/// A socket that dials something else stops showing what it dialled before.
#[inline(always)]
fn forget(ctx: &SockAddrContext, key: &FrontendKey) {
    raw::set_socket(ctx, SocketValue::zeroed(), false);
    if key.protocol == UDP {
        forget_reply(ctx, key);
    }
}

/// A socket that talks to a pod directly sees that pod's replies as they are.
#[inline(always)]
fn forget_reply(ctx: &SockAddrContext, key: &FrontendKey) {
    let revnat = revnat_key(ctx, &key.addr, key.port_be);
    if raw::get_lru(&UDP_REVNAT, &revnat).is_some() {
        let _gone_already = UDP_REVNAT.remove(revnat);
    }
}
