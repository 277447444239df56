//! Packets before there is a socket buffer (XDP): bytes in place, and where they go on.

use core::{ffi::c_void, ptr::addr_of};

use aya_ebpf::{
    bindings::{
        xdp_action::{XDP_DROP, XDP_PASS, XDP_TX},
        xdp_md,
    },
    helpers::generated::{bpf_redirect, bpf_xdp_adjust_head, bpf_xdp_adjust_tail},
    programs::XdpContext,
};
use sluice_common::{
    Reason,
    layout::{DEVICE_NO_TX, DEVICE_TAKES_RAW, UDP},
    packet::{Bytes, ETHERNET, Packet, checksum::Difference},
};

use super::{fib::Route, steps};
use crate::packet::{Frame, Step, Sum, Verdict, Work};

/// The verifier wants a bound on offsets, and sees it only as a mask. [`Frame::LAST_HEADER`] keeps offsets below it.
const LAST_OFFSET: u32 = 0x3ff;

/// A packet at an XDP hook.
#[derive(Clone, Copy)]
pub struct Raw(*mut xdp_md);

/// Reads one field of the context with one load of its own size.
macro_rules! read {
    ($raw:expr, $field:ident) => {
        // SAFETY: the kernel hands a valid `xdp_md` to every program of this type.
        unsafe { addr_of!((*$raw.0).$field).read_volatile() }
    };
}

impl Raw {
    /// The packet of this context.
    #[inline(always)]
    pub const fn new(ctx: &XdpContext) -> Self {
        Self(ctx.ctx)
    }

    /// The packet of the context of a step.
    #[inline(always)]
    pub(super) const fn of(ctx: *mut xdp_md) -> Self {
        Self(ctx)
    }

    /// The program's return code.
    #[inline(always)]
    pub const fn code(verdict: Verdict) -> u32 {
        match verdict {
            Verdict::Pass => XDP_PASS,
            Verdict::Drop => XDP_DROP,
            Verdict::Sent(code) => code as u32,
        }
    }

    #[inline(always)]
    fn start(&self) -> usize {
        read!(self, data) as usize
    }

    #[inline(always)]
    fn end(&self) -> usize {
        read!(self, data_end) as usize
    }

    /// Where `N` bytes from `at` on are.
    #[inline(always)]
    fn at<const N: usize>(&self, at: u32) -> Option<*mut [u8; N]> {
        // For one byte LLVM compares so that the verifier learns nothing ("This doesn't give us any range").
        const { assert!(N > 1) };
        let start = self.start() + (at & LAST_OFFSET) as usize;
        (start + N <= self.end()).then_some(start as *mut [u8; N])
    }
}

impl Bytes for Raw {
    #[inline(always)]
    fn load<const N: usize>(&self, at: u32) -> Option<[u8; N]> {
        // SAFETY: `at` found all `N` bytes before the packet's end.
        self.at::<N>(at).map(|bytes| unsafe { bytes.read_unaligned() })
    }
}

impl Frame for Raw {
    const ANSWERS: bool = false;
    const LAST_HEADER: u32 = 0x200;

    #[inline(always)]
    fn enter(&self, work: &mut Work, step: Step) -> Result<Reason, Reason> {
        steps::raw::enter(self.0, work, step)
    }

    #[inline(always)]
    fn ifindex(&self) -> u32 {
        read!(self, ingress_ifindex)
    }

    #[inline(always)]
    fn ip_at(&self) -> u32 {
        // The agent puts no program of XDP at devices without Ethernet headers.
        ETHERNET
    }

    #[inline(always)]
    fn context(&self) -> *mut c_void {
        self.0.cast()
    }

    #[inline(always)]
    fn store<const N: usize>(&self, at: u32, bytes: &[u8; N]) -> Option<()> {
        // SAFETY: `at` found all `N` bytes before the packet's end.
        self.at::<N>(at).map(|place| unsafe { place.write_unaligned(*bytes) })
    }

    #[inline(always)]
    fn fix_header(&self, at: u32, by: Difference) -> Option<()> {
        let check = u16::from_ne_bytes(self.load(at)?);
        self.store(at, &by.apply(check).to_ne_bytes())
    }

    #[inline(always)]
    fn fix_transport(&self, at: u32, by: Difference, _kind: Sum, protocol: u8, _is_v6: bool) -> Option<()> {
        let check = u16::from_ne_bytes(self.load(at)?);
        // None at all, which tunnels may send over IPv6 too (RFC 6936).
        if protocol == UDP && check == 0 {
            return Some(());
        }
        let new = by.apply(check);
        let new = if protocol == UDP && new == 0 { 0xffff } else { new };
        self.store(at, &new.to_ne_bytes())
    }

    #[inline(always)]
    fn resize(&self, length: u32) -> Option<()> {
        let now = self.end().checked_sub(self.start())?;
        // SAFETY: the helper takes the program's own context.
        let result = unsafe { bpf_xdp_adjust_tail(self.0, length as i32 - now as i32) };
        (result == 0).then_some(())
    }

    #[inline(always)]
    fn insert(&self, length: u32) -> Option<()> {
        let ethernet: [u8; ETHERNET as usize] = self.load(0)?;
        // SAFETY: the helper takes the program's own context.
        let result = unsafe { bpf_xdp_adjust_head(self.0, -(length as i32)) };
        if result != 0 {
            return None;
        }
        self.store(0, &ethernet)
    }

    #[inline(always)]
    fn segment_length(&self, packet: &Packet) -> u32 {
        packet.length
    }

    #[inline(always)]
    fn insert_tunnel(&self, length: u32, _is_v6: bool) -> Option<()> {
        self.insert(length)
    }

    #[inline(always)]
    fn remove(&self, _length: u32) -> Option<()> {
        // Left to tc: `ANSWERS` is false.
        None
    }

    #[inline(always)]
    fn can_send_out(&self, ifindex: u32) -> bool {
        let flags = super::device_flags(ifindex);
        flags & DEVICE_TAKES_RAW != 0 || (ifindex == self.ifindex() && flags & DEVICE_NO_TX == 0)
    }

    #[inline(always)]
    fn send_out(&self, ifindex: u32, macs: &[u8; 12]) -> Verdict {
        if self.store(0, macs).is_none() {
            return Verdict::Drop;
        }
        if ifindex == self.ifindex() && super::device_flags(ifindex) & DEVICE_NO_TX == 0 {
            return Verdict::Sent(XDP_TX as i32);
        }
        // SAFETY: the helper has no preconditions.
        Verdict::Sent(unsafe { bpf_redirect(ifindex, 0) } as i32)
    }

    #[inline(always)]
    fn can_forward(&self, route: &Route) -> bool {
        route.is_resolved && self.can_send_out(route.ifindex)
    }

    #[inline(always)]
    fn dress(&self, _is_v6: bool) -> Option<()> {
        None
    }

    #[inline(always)]
    fn forward(&self, route: &Route, _is_routed: bool) -> Verdict {
        self.send_out(route.ifindex, &route.macs)
    }

    #[inline(always)]
    fn send_back(&self, _to_node: bool) -> Verdict {
        Verdict::Sent(XDP_TX as i32)
    }

    #[inline(always)]
    fn take_in(&self, _mac: &[u8; 6]) -> Option<()> {
        // Left to tc, which can mark it.
        None
    }

    #[inline(always)]
    fn hand_over(&self, _ifindex: u32, _to_node: bool) -> Verdict {
        // Left to tc: `ANSWERS` is false.
        Verdict::Pass
    }
}
