//! The context of `sock_ops`: a TCP socket, and what has happened to it.

use core::{
    ffi::c_void,
    ptr::{addr_of, null_mut},
};

use aya_ebpf::{
    bindings::{
        BPF_NOEXIST, BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB, BPF_SOCK_OPS_STATE_CB, BPF_SOCK_OPS_STATE_CB_FLAG,
        BPF_TCP_CLOSE,
    },
    helpers::generated::{bpf_sk_storage_get, bpf_sock_ops_cb_flags_set},
    programs::SockOpsContext,
};
use sluice_common::{
    Addr,
    layout::{FrontendKey, SocketValue, TCP},
};

use super::AF_INET6;
use crate::maps::{SERVICE_BYTES, SOCKETS};

/// Reads one field of the context with one load of its own size.
macro_rules! read {
    ($ctx:expr, $($field:tt)+) => {
        // SAFETY: the kernel hands a valid `bpf_sock_ops` to every program of this type.
        unsafe { addr_of!((*$ctx.ops).$($field)+).read_volatile() }
    };
}

/// What the kernel tells of a socket.
pub enum News {
    /// A connection that it dialled is there.
    Connected,
    /// Its connection is over.
    Closed,
    /// Something that is nothing to us.
    Other,
}

/// What happened.
#[inline(always)]
pub fn news(ctx: &SockOpsContext) -> News {
    match read!(ctx, op) {
        BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB => News::Connected,
        BPF_SOCK_OPS_STATE_CB if read!(ctx, __bindgen_anon_1.args[1]) == BPF_TCP_CLOSE => News::Closed,
        _ => News::Other,
    }
}

/// Makes the kernel tell of the connection's end too, besides what others want to hear of.
#[inline(always)]
pub fn tell_of_end(ctx: &SockOpsContext) {
    let flags = read!(ctx, bpf_sock_ops_cb_flags) | BPF_SOCK_OPS_STATE_CB_FLAG;
    // SAFETY: the helper takes the program's own context.
    let _kernel_knows_the_flag = unsafe { bpf_sock_ops_cb_flags_set(ctx.ops, flags.cast_signed()) };
}

/// The other end, as a frontend of scope 0.
#[inline(always)]
pub fn remote(ctx: &SockOpsContext) -> FrontendKey {
    // All are read before the family is looked at, as in `raw::local`.
    let v4_be = read!(ctx, remote_ip4);
    let words_be = [
        read!(ctx, remote_ip6[0]),
        read!(ctx, remote_ip6[1]),
        read!(ctx, remote_ip6[2]),
        read!(ctx, remote_ip6[3]),
    ];
    let addr = if read!(ctx, family) == AF_INET6 { Addr { words_be } } else { Addr::from_v4_be(v4_be) };
    // Four bytes in network byte order.
    let port = u32::from_be(read!(ctx, remote_port)) as u16;
    FrontendKey { addr, port_be: port.to_be(), protocol: TCP, scope: 0 }
}

/// What the socket remembers of its translation.
#[inline(always)]
pub fn socket(ctx: &SockOpsContext) -> Option<SocketValue> {
    let socket = read!(ctx, __bindgen_anon_2.sk);
    if socket.is_null() {
        return None;
    }
    let map: *mut c_void = addr_of!(SOCKETS).cast_mut().cast();
    // SAFETY: the map is one of socket storage, and the context's socket is valid while the program runs.
    let stored: *const SocketValue = unsafe { bpf_sk_storage_get(map, socket.cast(), null_mut(), 0) }.cast();
    // SAFETY: null was excluded; the storage lives as long as the socket.
    (!stored.is_null()).then(|| unsafe { *stored })
}

/// What the socket has sent that was acknowledged, and what it has received, in bytes.
#[inline(always)]
pub fn bytes(ctx: &SockOpsContext) -> [u64; 2] {
    [read!(ctx, bytes_acked), read!(ctx, bytes_received)]
}

/// Adds to the bytes of a service port. What there is no room for is not counted.
#[inline(always)]
pub fn add_bytes(service_id: u32, bytes: [u64; 2]) {
    if SERVICE_BYTES.get_ptr_mut(service_id).is_none() {
        let _is_there_or_full = SERVICE_BYTES.insert(service_id, [0_u64; 2], BPF_NOEXIST.into());
    }
    let Some(sums) = SERVICE_BYTES.get_ptr_mut(service_id) else { return };
    // SAFETY: the lookup returned a live element of this CPU, and connections that had bytes end where no packet interrupts
    // (`tcp_close` and the receive path hold off softirqs).
    unsafe { *sums = [(*sums)[0].wrapping_add(bytes[0]), (*sums)[1].wrapping_add(bytes[1])] };
}
