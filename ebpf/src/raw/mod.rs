//! The only `unsafe` of the kernel side: the context's fields, helpers, and map values behind pointers.

use core::ptr::{addr_of, addr_of_mut};

use aya_ebpf::{
    btf_maps::{HashMap, LruHashMap, lpm_trie::Key},
    helpers::{
        bpf_get_prandom_u32,
        generated::{bpf_get_netns_cookie, bpf_get_socket_cookie, bpf_ktime_get_ns, bpf_set_retval},
    },
    programs::{SkLookupContext, SockAddrContext, SockContext},
};
use sluice_common::{
    Addr, Reason,
    layout::{CONFIG_BARE, DEVICE_BARE, FrontendKey, SocketValue, SourceRangeKey, bare_bit},
    packet::ETHERNET,
};

use crate::maps::{CONFIG, DEVICES, HEARTBEAT, REASONS, SERVICES, SOCKETS, SOURCE_RANGES};

pub mod fib;
pub mod flows;
pub mod ops;
pub mod skb;
pub mod steps;
pub mod xdp;

/// Error numbers, `asm-generic/errno.h`.
pub const EADDRINUSE: i32 = 98;
pub const ECONNREFUSED: i32 = 111;
const AF_INET: u32 = 2;
const AF_INET6: u32 = 10;

/// Reads one field of the context with one load of its own size: the verifier knows no other access.
macro_rules! read {
    ($ctx:expr, $($field:tt)+) => {
        // SAFETY: the kernel hands a valid `bpf_sock_addr` to every program of this type.
        unsafe { addr_of!((*$ctx.sock_addr).$($field)+).read_volatile() }
    };
}

/// Writes one field of the context with one store of its own size.
macro_rules! write {
    ($ctx:expr, $value:expr, $($field:tt)+) => {
        // SAFETY: as in `read!`; the verifier refuses the fields that a hook may not write.
        unsafe { addr_of_mut!((*$ctx.sock_addr).$($field)+).write_volatile($value) }
    };
}

/// Reads one field of a lookup's context with one load of its own size.
macro_rules! lookup {
    ($ctx:expr, $($field:tt)+) => {
        // SAFETY: the kernel hands a valid `bpf_sk_lookup` to every program of this type.
        unsafe { addr_of!((*$ctx.lookup).$($field)+).read_volatile() }
    };
}

/// The context's IPv4 address: destination, or the peer in recvmsg and getpeername.
#[inline(always)]
pub fn address_v4(ctx: &SockAddrContext) -> Addr {
    Addr::from_v4_be(read!(ctx, user_ip4))
}

/// The context's IPv6 address, see [`address_v4`].
#[inline(always)]
pub fn address_v6(ctx: &SockAddrContext) -> Addr {
    let words_be =
        [read!(ctx, user_ip6[0]), read!(ctx, user_ip6[1]), read!(ctx, user_ip6[2]), read!(ctx, user_ip6[3])];
    Addr { words_be }
}

/// Replaces the address that [`address_v4`] reads.
#[inline(always)]
pub fn set_address_v4(ctx: &SockAddrContext, address: &Addr) {
    write!(ctx, address.v4_be(), user_ip4);
}

/// Replaces the address that [`address_v6`] reads.
#[inline(always)]
pub fn set_address_v6(ctx: &SockAddrContext, address: &Addr) {
    write!(ctx, address.words_be[0], user_ip6[0]);
    write!(ctx, address.words_be[1], user_ip6[1]);
    write!(ctx, address.words_be[2], user_ip6[2]);
    write!(ctx, address.words_be[3], user_ip6[3]);
}

/// The context's port, network byte order.
#[inline(always)]
pub fn port_be(ctx: &SockAddrContext) -> u16 {
    read!(ctx, user_port) as u16
}

/// Replaces the port that [`port_be`] reads.
#[inline(always)]
pub fn set_port_be(ctx: &SockAddrContext, port_be: u16) {
    write!(ctx, u32::from(port_be), user_port);
}

/// The socket's protocol, IANA number.
#[inline(always)]
pub fn protocol(ctx: &SockAddrContext) -> u8 {
    read!(ctx, protocol) as u8
}

/// The socket's cookie: unique while the machine runs.
#[inline(always)]
pub fn cookie(ctx: &SockAddrContext) -> u64 {
    // SAFETY: the helper takes the program's own context.
    unsafe { bpf_get_socket_cookie(ctx.sock_addr.cast()) }
}

/// The cookie of the socket's network namespace. Source: kernel commit f318903c0bf4, Linux 5.7.
#[inline(always)]
pub fn netns_cookie(ctx: &SockAddrContext) -> u64 {
    // SAFETY: the helper takes the program's own context.
    unsafe { bpf_get_netns_cookie(ctx.sock_addr.cast()) }
}

/// Nanoseconds of `CLOCK_MONOTONIC`.
#[inline(always)]
pub fn now_ns() -> u64 {
    // SAFETY: the helper has no arguments and no preconditions.
    unsafe { bpf_ktime_get_ns() }
}

/// A random number.
#[inline(always)]
pub fn random() -> u32 {
    // SAFETY: the helper has no arguments and no preconditions.
    unsafe { bpf_get_prandom_u32() }
}

/// Makes the system call that runs this program fail with `errno` once the program returns 0.
/// Source: kernel commit b44123b4a3dc ("bpf: Add cgroup helpers bpf_{get,set}_retval"), Linux 5.18.
#[inline(always)]
pub fn fail(errno: i32) {
    // SAFETY: the helper stores an error number in the program's own run context.
    let _always_zero = unsafe { bpf_set_retval(-errno) };
}

/// Protocol and port (network byte order) of a socket that was just bound.
#[inline(always)]
pub fn bound(ctx: &SockContext) -> (u8, u16) {
    // SAFETY: the kernel hands a valid `bpf_sock` to every program of this type.
    let protocol = unsafe { addr_of!((*ctx.sock).protocol).read_volatile() };
    // SAFETY: as above. The field is in host byte order.
    let port = unsafe { addr_of!((*ctx.sock).src_port).read_volatile() };
    (protocol as u8, (port as u16).to_be())
}

/// [`netns_cookie`] of a socket that was just bound.
#[inline(always)]
pub fn netns_cookie_of(ctx: &SockContext) -> u64 {
    // SAFETY: the helper takes the program's own context.
    unsafe { bpf_get_netns_cookie(ctx.sock.cast()) }
}

/// What a packet in a lookup is for, as a frontend of scope 0, and whether it is IPv6.
#[inline(always)]
pub fn local(ctx: &SkLookupContext) -> (FrontendKey, bool) {
    // All are read before the family is looked at: LLVM makes one load of two in different branches, with a computed
    // offset ("dereference of modified ctx ptr").
    let v4_be = lookup!(ctx, local_ip4);
    let words_be = [
        lookup!(ctx, local_ip6[0]),
        lookup!(ctx, local_ip6[1]),
        lookup!(ctx, local_ip6[2]),
        lookup!(ctx, local_ip6[3]),
    ];
    let is_v6 = lookup!(ctx, family) == AF_INET6;
    let addr = if is_v6 { Addr { words_be } } else { Addr::from_v4_be(v4_be) };
    // The port is in host byte order.
    let (port, protocol) = (lookup!(ctx, local_port) as u16, lookup!(ctx, protocol) as u8);
    (FrontendKey { addr, port_be: port.to_be(), protocol, scope: 0 }, is_v6)
}

/// A number that is the same for all packets of one client's socket.
#[inline(always)]
pub fn remote(ctx: &SkLookupContext) -> u64 {
    let address = lookup!(ctx, remote_ip4) ^ lookup!(ctx, remote_ip6[3]);
    u64::from(address) << 16 | u64::from(lookup!(ctx, remote_port))
}

/// Address and port (network byte order) of whoever sent the packet in a lookup.
#[inline(always)]
pub fn remote_end(ctx: &SkLookupContext) -> (Addr, u16) {
    // All are read first, as in `local`.
    let v4_be = lookup!(ctx, remote_ip4);
    let words_be = [
        lookup!(ctx, remote_ip6[0]),
        lookup!(ctx, remote_ip6[1]),
        lookup!(ctx, remote_ip6[2]),
        lookup!(ctx, remote_ip6[3]),
    ];
    let is_v6 = lookup!(ctx, family) == AF_INET6;
    let port_be = lookup!(ctx, remote_port);
    (if is_v6 { Addr { words_be } } else { Addr::from_v4_be(v4_be) }, port_be)
}

/// The device that the packet in a lookup came by. Source: kernel commit f89315650ba3, Linux 5.17.
#[inline(always)]
pub fn ifindex(ctx: &SkLookupContext) -> u32 {
    lookup!(ctx, ingress_ifindex)
}

/// Forgets until when somebody watches, one of `CONFIG_WATCHED*`: that is over. A watcher that begins at this very moment says
/// so again.
#[inline(always)]
pub fn forget_watcher(slot: u32) {
    set_config(slot, 0);
}

/// Sets a number for all programs.
#[inline(always)]
pub fn set_config(slot: u32, value: u64) {
    if let Some(place) = CONFIG.get_ptr_mut(slot) {
        // SAFETY: the lookup returned a live element, and a number that two write at once is one of the two.
        unsafe { place.write_volatile(value) };
    }
}

/// Forgets that the redirector was well.
#[inline(always)]
pub fn stop_heartbeat() {
    if let Some(beat) = HEARTBEAT.get_ptr_mut(0) {
        // SAFETY: the lookup returned a live element, and a number that two write at once is one of the two.
        unsafe { beat.write_volatile(0) };
    }
}

/// Counts one outcome.
#[inline(always)]
pub fn count(reason: Reason) {
    if let Some(counter) = REASONS.get_ptr_mut(reason as u32) {
        // SAFETY: the lookup returned a live element of this CPU, and nothing preempts us on it.
        unsafe { *counter = (*counter).wrapping_add(1) };
    }
}

/// A copy of what `map` has for `key`.
#[inline(always)]
pub fn get<K, V: Copy, const N: usize, const F: usize>(map: &HashMap<K, V, N, F>, key: &K) -> Option<V> {
    // SAFETY: the value is copied at once. An element that userspace replaces meanwhile may be torn:
    // readers compare the owner of the slot that they reach through it.
    unsafe { map.get(key).copied() }
}

/// A copy of what the LRU `map` has for `key`; see [`get`].
#[inline(always)]
pub fn get_lru<K, V: Copy, const N: usize, const F: usize>(
    map: &LruHashMap<K, V, N, F>,
    key: &K,
) -> Option<V> {
    // SAFETY: as in `get`.
    unsafe { map.get(key).copied() }
}

/// The service's cluster IP; unspecified if there is none. Not by [`get`]: the stack has no room for the whole value.
#[inline(always)]
pub fn cluster_ip(service_id: u32) -> Addr {
    // SAFETY: the address is copied at once, and whoever uses it asks whose frontend it is.
    unsafe { SERVICES.get(&service_id).map_or(Addr::UNSPECIFIED, |service| service.cluster_ip) }
}

/// Whether the address is in one of the service's networks.
#[inline(always)]
pub fn in_source_ranges(service_id: u32, addr: &Addr) -> bool {
    let key = Key::new(SourceRangeKey::BITS, SourceRangeKey { service_id, addr: *addr });
    SOURCE_RANGES.get(&key).is_some()
}

/// What the device can do, `DEVICE_*`. A function of its own: inlined, LLVM leaves the element's address in
/// the register of a return value that it thinks nobody reads ("bitwise operator &= on pointer prohibited").
#[inline(never)]
pub fn device_flags(ifindex: u32) -> u8 {
    get(&DEVICES, &ifindex).map_or(0, |device| device.flags)
}

/// Where the IP header begins in packets at the device.
#[inline(always)]
pub fn ip_at(ifindex: u32) -> u32 {
    let bare = CONFIG.get(CONFIG_BARE).copied().unwrap_or(0);
    let is_bare = bare & bare_bit(ifindex) != 0 && device_flags(ifindex) & DEVICE_BARE != 0;
    if is_bare { 0 } else { ETHERNET }
}

/// What the socket remembers of its translation.
#[inline(always)]
pub fn socket(ctx: &SockAddrContext) -> Option<SocketValue> {
    // SAFETY: the context's socket is valid while the hook runs.
    let stored = unsafe { SOCKETS.get_ptr_mut(ctx) };
    // SAFETY: null was excluded; the storage lives as long as the socket.
    (!stored.is_null()).then(|| unsafe { *stored })
}

/// Makes the socket remember `value`; makes room for it when `create`, else only replaces what is there.
#[inline(always)]
pub fn set_socket(ctx: &SockAddrContext, value: SocketValue, create: bool) {
    let stored = if create {
        // SAFETY: the context's socket is valid while the hook runs.
        unsafe { SOCKETS.get_or_insert_ptr_mut(ctx, None) }
    } else {
        // SAFETY: as above.
        unsafe { SOCKETS.get_ptr_mut(ctx) }
    };
    if !stored.is_null() {
        // SAFETY: null was excluded; connect and getpeername hold the socket's lock.
        unsafe { *stored = value };
    }
}
