//! Routes and sockets of the node, as the kernel's helpers tell them.

use core::ptr::addr_of;

use aya_ebpf::{
    bindings::{
        BPF_F_CURRENT_NETNS, BPF_FIB_LKUP_RET_FRAG_NEEDED, BPF_FIB_LKUP_RET_NO_NEIGH,
        BPF_FIB_LKUP_RET_SUCCESS, bpf_fib_lookup as Fib, bpf_sock, bpf_sock_tuple,
    },
    helpers::generated::{
        bpf_fib_lookup, bpf_map_lookup_elem, bpf_sk_lookup_udp, bpf_sk_release, bpf_skc_lookup_tcp,
    },
};
use sluice_common::{Addr, layout::TCP};

use super::{AF_INET, AF_INET6};
use crate::{
    maps::LISTENERS,
    packet::{Frame, Work},
};

/// Where a packet goes on to.
#[derive(Clone, Copy)]
pub struct Route {
    /// The device.
    pub ifindex: u32,
    /// The next hop's family, which need not be the packet's.
    pub is_v6: bool,
    /// Whether the hardware addresses are known.
    pub is_resolved: bool,
    /// The next hop.
    pub next: Addr,
    /// Hardware addresses: destination, source.
    pub macs: [u8; 12],
    /// The longest IP packet that goes that way, in bytes.
    pub mtu: u16,
}

/// Why there is none.
pub enum Unroutable {
    /// The packet does not fit; the link's MTU, in bytes.
    TooBig(u32),
    /// No route, or none that leads anywhere.
    NoRoute,
}

/// Whether a socket stands at this place of `LISTENERS`.
#[inline(always)]
pub fn is_listening(place: u32) -> bool {
    let map = addr_of!(LISTENERS).cast_mut().cast();
    // SAFETY: the map's own address, and a live key of its size.
    let socket = unsafe { bpf_map_lookup_elem(map, addr_of!(place).cast()) };
    if socket.is_null() {
        return false;
    }
    // SAFETY: the lookup gave a socket, and with it a reference that is ours to let go.
    let _released = unsafe { bpf_sk_release(socket) };
    true
}

/// Finds the route of the packet with the ends of `work.flow`, into `work.route`.
#[inline(never)]
pub fn route<F: Frame>(frame: F, work: &mut Work) -> Result<(), Unroutable> {
    // SAFETY: integers and unions of integers, for which zeros are values.
    let mut fib: Fib = unsafe { core::mem::zeroed() };
    fib.family = if work.packet.is_v6 { AF_INET6 } else { AF_INET } as u8;
    fib.l4_protocol = work.packet.key.protocol;
    fib.ifindex = frame.ifindex();
    // With a length of 0 the helper asks the packet itself.
    let length = if work.fits_anyway { 1 } else { frame.segment_length(&work.packet) as u16 + work.overhead };
    fib.__bindgen_anon_1.tot_len = length;
    if work.packet.is_v6 {
        fib.__bindgen_anon_3.ipv6_src = work.flow.src.words_be;
        fib.__bindgen_anon_4.ipv6_dst = work.flow.dst.words_be;
    } else {
        fib.__bindgen_anon_3.ipv4_src = work.flow.src.v4_be();
        fib.__bindgen_anon_4.ipv4_dst = work.flow.dst.v4_be();
    }
    let route = &mut work.route;
    // SAFETY: `fib` is a live value of the length that is passed.
    let result = unsafe { bpf_fib_lookup(frame.context(), &raw mut fib, size_of::<Fib>() as i32, 0) } as u32;
    if result == BPF_FIB_LKUP_RET_FRAG_NEEDED {
        route.ifindex = fib.ifindex;
        // SAFETY: a union of two 16-bit numbers; the helper has left the MTU in it.
        return Err(Unroutable::TooBig(u32::from(unsafe { fib.__bindgen_anon_1.mtu_result })));
    }
    if result != BPF_FIB_LKUP_RET_SUCCESS && result != BPF_FIB_LKUP_RET_NO_NEIGH {
        return Err(Unroutable::NoRoute);
    }
    route.ifindex = fib.ifindex;
    route.is_v6 = u32::from(fib.family) == AF_INET6;
    route.is_resolved = result == BPF_FIB_LKUP_RET_SUCCESS;
    // SAFETY: a union of an address of four bytes and one of sixteen, of which all were set.
    let words = unsafe { fib.__bindgen_anon_4.ipv6_dst };
    route.next = if route.is_v6 { Addr { words_be: words } } else { Addr::from_v4_be(words[0]) };
    let (to, from) = (fib.dmac, fib.smac);
    // SAFETY: a union of two 16-bit numbers; with a length asked for, the helper leaves the MTU in it.
    route.mtu = unsafe { fib.__bindgen_anon_1.mtu_result };
    route.macs =
        [to[0], to[1], to[2], to[3], to[4], to[5], from[0], from[1], from[2], from[3], from[4], from[5]];
    Ok(())
}

/// Whether a socket of the node takes packets with the ends of `work.reply`.
#[inline(never)]
pub fn has_socket<F: Frame>(frame: F, work: &Work) -> bool {
    let socket = lookup(frame, work, work.reply.protocol == TCP);
    if socket.is_null() {
        return false;
    }
    // SAFETY: the lookup gave a socket, which is given back once.
    unsafe { bpf_sk_release(socket.cast()) };
    true
}

/// Whether a TCP socket of the node is connected by these ends; one that listens takes them too, and is no such socket.
#[inline(never)]
pub fn is_connected<F: Frame>(frame: F, work: &Work) -> bool {
    const LISTENS: u32 = 10;
    let socket = lookup(frame, work, true);
    if socket.is_null() {
        return false;
    }
    // SAFETY: the lookup gave a socket, which is live until it is given back.
    let state = unsafe { addr_of!((*socket).state).read_volatile() };
    // SAFETY: it is given back once.
    unsafe { bpf_sk_release(socket.cast()) };
    state != LISTENS
}

/// A socket that must be given back, or null. Of the two kinds the verifier lets one instruction read only one ("same insn
/// cannot be used with different pointers").
#[inline(always)]
fn lookup<F: Frame>(frame: F, work: &Work, is_tcp: bool) -> *mut bpf_sock {
    let (key, is_v6) = (&work.reply, work.packet.is_v6);
    // SAFETY: integers in a union of structs of integers, for which zeros are values.
    let mut tuple: bpf_sock_tuple = unsafe { core::mem::zeroed() };
    let length = if is_v6 {
        tuple.__bindgen_anon_1.ipv6.saddr = key.src.words_be;
        tuple.__bindgen_anon_1.ipv6.daddr = key.dst.words_be;
        tuple.__bindgen_anon_1.ipv6.sport = key.src_port_be;
        tuple.__bindgen_anon_1.ipv6.dport = key.dst_port_be;
        36
    } else {
        tuple.__bindgen_anon_1.ipv4.saddr = key.src.v4_be();
        tuple.__bindgen_anon_1.ipv4.daddr = key.dst.v4_be();
        tuple.__bindgen_anon_1.ipv4.sport = key.src_port_be;
        tuple.__bindgen_anon_1.ipv4.dport = key.dst_port_be;
        12
    };
    let (context, tuple, netns) = (frame.context(), &raw mut tuple, BPF_F_CURRENT_NETNS as i64 as u64);
    if is_tcp {
        // SAFETY: `tuple` is live and at least as long as the length that is passed.
        unsafe { bpf_skc_lookup_tcp(context, tuple, length, netns, 0) }
    } else {
        // SAFETY: as above.
        unsafe { bpf_sk_lookup_udp(context, tuple, length, netns, 0) }
    }
}
