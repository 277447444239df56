//! Bytes of TCP connections to Services, counted as they end: a socket's bytes pass no program, but the kernel knows how
//! many there were.

use aya_ebpf::programs::SockOpsContext;
use sluice_common::layout::{ADDRESS_LOOPBACK, ADDRESS_NODE, TCP};

use crate::{
    maps::ADDRESSES,
    raw::{
        self,
        ops::{self, News},
    },
    socket::entry,
};

/// Notes which connections are to Services, and counts what they had.
#[inline(always)]
pub fn follow(ctx: &SockOpsContext) {
    match ops::news(ctx) {
        News::Connected if service(ctx).is_some() => ops::tell_of_end(ctx),
        News::Closed => {
            if let Some(service_id) = service(ctx) {
                ops::add_bytes(service_id, ops::bytes(ctx));
            }
        }
        News::Connected | News::Other => {}
    }
}

/// The service port that the socket dialled: what it was translated from, or where it is connected as it dialled, to a
/// redirector or through packets.
#[inline(always)]
fn service(ctx: &SockOpsContext) -> Option<u32> {
    let translated = ops::socket(ctx).filter(|socket| socket.frontend.protocol == TCP);
    // In a pod, the loopback is the pod's own, unless it was translated.
    let node = if translated.is_some() { ADDRESS_NODE | ADDRESS_LOOPBACK } else { ADDRESS_NODE };
    let key = translated.map_or_else(|| ops::remote(ctx), |socket| socket.frontend);
    if let Some(frontend) = entry(&key) {
        return Some(frontend.service_id);
    }
    let kind = raw::get(&ADDRESSES, &key.addr)?;
    if kind & node == 0 {
        return None;
    }
    entry(&key.on_any_node_address()).map(|frontend| frontend.service_id)
}
