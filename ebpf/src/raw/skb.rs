//! Packets as socket buffers (tc): bytes, checksums, room, and where they go on.

use core::{
    mem::MaybeUninit,
    ptr::{addr_of, addr_of_mut},
};

use aya_ebpf::{
    bindings::{
        __sk_buff, BPF_F_ADJ_ROOM_ENCAP_L3_IPV4, BPF_F_ADJ_ROOM_ENCAP_L3_IPV6, BPF_F_ADJ_ROOM_FIXED_GSO,
        BPF_F_INGRESS, BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR, bpf_redir_neigh,
    },
    helpers::generated::{
        bpf_l3_csum_replace, bpf_l4_csum_replace, bpf_redirect, bpf_redirect_neigh, bpf_skb_adjust_room,
        bpf_skb_change_head, bpf_skb_change_tail, bpf_skb_change_type, bpf_skb_load_bytes,
        bpf_skb_store_bytes,
    },
    programs::TcContext,
};
use sluice_common::{
    Reason,
    layout::{REPLY_MARK, REPLY_MARK_MASK, TCP, UDP},
    packet::{Bytes, ETHERNET, ETHERTYPE_IPV4, ETHERTYPE_IPV6, Packet, checksum::Difference},
};

use super::{AF_INET, AF_INET6, fib::Route, steps};
use crate::packet::{Frame, Step, Sum, Verdict, Work};

/// `BPF_F_IPV6`, Linux 6.16 (kernel commit ead7f9b8de65): an IPv6 header has no checksum of its own to make up for changed
/// addresses where the device has summed up the whole packet.
const BPF_F_IPV6: u64 = 1 << 7;
const BPF_ADJ_ROOM_MAC: u32 = 1;
const PACKET_HOST: u32 = 0;
/// Where headers are read in place; behind it by a call.
const LAST_IN_PLACE: u32 = 0xff;
/// Value of `tc_index`.
const LED_ON: u32 = 0x51ce;
const TC_ACT_SHOT: i32 = 2;
const TCX_NEXT: i32 = -1;

/// A packet at a tc hook.
#[derive(Clone, Copy)]
pub struct Skb(*mut __sk_buff);

/// Reads one field of the context with one load of its own size.
macro_rules! read {
    ($skb:expr, $field:ident) => {
        // SAFETY: the kernel hands a valid `__sk_buff` to every program of this type.
        unsafe { addr_of!((*$skb.0).$field).read_volatile() }
    };
}

impl Skb {
    /// The packet of this context.
    #[inline(always)]
    pub const fn new(ctx: &TcContext) -> Self {
        Self(ctx.skb.skb)
    }

    /// The packet of the context of a step.
    #[inline(always)]
    pub(super) const fn of(skb: *mut __sk_buff) -> Self {
        Self(skb)
    }

    /// The `EtherType` behind VLAN tags, host byte order; `None` where the packet belongs to a VLAN's own device.
    #[inline(always)]
    pub fn ethertype(self) -> Option<u16> {
        let protocol = u16::from_be(read!(self, protocol) as u16);
        (read!(self, vlan_present) == 0).then_some(protocol)
    }

    /// Whether it is addressed to this device.
    #[inline(always)]
    pub fn is_for_us(self) -> bool {
        read!(self, pkt_type) == PACKET_HOST
    }

    /// `N` bytes from `at` on, if they lie where they can be read without a call: headers mostly do.
    #[inline(always)]
    fn in_place<const N: usize>(self, at: u32) -> Option<[u8; N]> {
        // The verifier wants a bound on offsets, and sees it only as a mask. For one byte LLVM compares so that the verifier
        // learns nothing.
        const { assert!(N > 1) };
        let start = read!(self, data) as usize + (at & LAST_IN_PLACE) as usize;
        if at > LAST_IN_PLACE || start + N > read!(self, data_end) as usize {
            return None;
        }
        // SAFETY: all `N` bytes are before the end of what can be read in place.
        Some(unsafe { (start as *const [u8; N]).read_unaligned() })
    }

    /// Notes that the packet was led on, for [`Self::is_done`]. In a field that only the queueing discipline dsmark (gone in
    /// Linux 6.9) has a use for.
    #[inline(always)]
    fn note_done(self) {
        // SAFETY: the kernel hands a valid `__sk_buff` to every program of this type; this field may be written.
        unsafe { addr_of_mut!((*self.0).tc_index).write_volatile(LED_ON) };
    }

    /// Whether a hook before this one has led the packet on; forgotten by asking.
    #[inline(always)]
    pub fn is_done(self) -> bool {
        if read!(self, tc_index) != LED_ON {
            return false;
        }
        // SAFETY: as in `note_done`.
        unsafe { addr_of_mut!((*self.0).tc_index).write_volatile(0) };
        true
    }

    /// The program's return code. `TCX_NEXT` is `TC_ACT_UNSPEC` for clsact: the next program has its say.
    #[inline(always)]
    pub const fn code(verdict: Verdict) -> i32 {
        match verdict {
            Verdict::Pass => TCX_NEXT,
            Verdict::Drop => TC_ACT_SHOT,
            Verdict::Sent(code) => code,
        }
    }
}

impl Bytes for Skb {
    #[inline(always)]
    fn load<const N: usize>(&self, at: u32) -> Option<[u8; N]> {
        let mut bytes = MaybeUninit::<[u8; N]>::uninit();
        // SAFETY: the helper writes `N` bytes to where there is room for them, or none and says so.
        let result = unsafe { bpf_skb_load_bytes(self.0.cast(), at, bytes.as_mut_ptr().cast(), N as u32) };
        // SAFETY: the helper has written all of them.
        (result == 0).then(|| unsafe { bytes.assume_init() })
    }

    #[inline(always)]
    fn peek<const N: usize>(&self, at: u32) -> Option<[u8; N]> {
        self.in_place(at).or_else(|| self.load(at))
    }
}

impl Frame for Skb {
    const ANSWERS: bool = true;
    const LAST_HEADER: u32 = 0xffff;

    #[inline(always)]
    fn enter(&self, work: &mut Work, step: Step) -> Result<Reason, Reason> {
        steps::skb::enter(self.0, work, step)
    }

    #[inline(always)]
    fn ifindex(&self) -> u32 {
        read!(self, ifindex)
    }

    #[inline(always)]
    fn ip_at(&self) -> u32 {
        super::ip_at(self.ifindex())
    }

    #[inline(always)]
    fn context(&self) -> *mut core::ffi::c_void {
        self.0.cast()
    }

    #[inline(always)]
    fn store<const N: usize>(&self, at: u32, bytes: &[u8; N]) -> Option<()> {
        // SAFETY: the helper reads `N` bytes, which are there.
        let result = unsafe { bpf_skb_store_bytes(self.0, at, bytes.as_ptr().cast(), N as u32, 0) };
        (result == 0).then_some(())
    }

    #[inline(always)]
    fn fix_header(&self, at: u32, by: Difference) -> Option<()> {
        // SAFETY: the helper takes the program's own context.
        let result = unsafe { bpf_l3_csum_replace(self.0, at, 0, u64::from(by.sum()), 0) };
        (result == 0).then_some(())
    }

    #[inline(always)]
    fn fix_transport(&self, at: u32, by: Difference, kind: Sum, protocol: u8, is_v6: bool) -> Option<()> {
        let mut flags = if protocol == UDP { u64::from(BPF_F_MARK_MANGLED_0) } else { 0 };
        if matches!(kind, Sum::Addresses) {
            flags |= u64::from(BPF_F_PSEUDO_HDR);
        }
        let by = u64::from(by.sum());
        if is_v6 && matches!(kind, Sum::Addresses) {
            // SAFETY: the helper takes the program's own context.
            let result = unsafe { bpf_l4_csum_replace(self.0, at, 0, by, flags | BPF_F_IPV6) };
            if result == 0 {
                return Some(());
            }
        }
        // SAFETY: as above. Kernels that do not know the flag refuse it.
        let result = unsafe { bpf_l4_csum_replace(self.0, at, 0, by, flags) };
        (result == 0).then_some(())
    }

    #[inline(always)]
    fn resize(&self, length: u32) -> Option<()> {
        // SAFETY: the helper takes the program's own context.
        let result = unsafe { bpf_skb_change_tail(self.0, length, 0) };
        (result == 0).then_some(())
    }

    #[inline(always)]
    fn insert(&self, length: u32) -> Option<()> {
        // SAFETY: the helper takes the program's own context.
        let result = unsafe { bpf_skb_adjust_room(self.0, length as i32, BPF_ADJ_ROOM_MAC, 0) };
        (result == 0).then_some(())
    }

    #[inline(always)]
    fn segment_length(&self, packet: &Packet) -> u32 {
        let payload = read!(self, gso_size);
        if payload == 0 {
            return packet.length;
        }
        let words = self.load::<2>(packet.l4_at + 12).map_or(5, |bytes| u32::from(bytes[0] >> 4));
        let header = if packet.key.protocol == TCP { words * 4 } else { 8 };
        packet.l4_at - packet.ip_at + header + payload
    }

    #[inline(always)]
    fn insert_tunnel(&self, length: u32, is_v6: bool) -> Option<()> {
        let kind = if is_v6 { BPF_F_ADJ_ROOM_ENCAP_L3_IPV6 } else { BPF_F_ADJ_ROOM_ENCAP_L3_IPV4 };
        let flags = u64::from(kind | BPF_F_ADJ_ROOM_FIXED_GSO);
        // SAFETY: the helper takes the program's own context.
        let result = unsafe { bpf_skb_adjust_room(self.0, length as i32, BPF_ADJ_ROOM_MAC, flags) };
        (result == 0).then_some(())
    }

    #[inline(always)]
    fn remove(&self, length: u32) -> Option<()> {
        let flags = u64::from(BPF_F_ADJ_ROOM_FIXED_GSO);
        // SAFETY: the helper takes the program's own context.
        let result = unsafe { bpf_skb_adjust_room(self.0, -(length as i32), BPF_ADJ_ROOM_MAC, flags) };
        (result == 0).then_some(())
    }

    #[inline(always)]
    fn can_send_out(&self, _ifindex: u32) -> bool {
        true
    }

    #[inline(always)]
    fn send_out(&self, ifindex: u32, macs: &[u8; 12]) -> Verdict {
        if self.store(0, macs).is_none() {
            return Verdict::Drop;
        }
        self.note_done();
        // SAFETY: the helper has no preconditions.
        Verdict::Sent(unsafe { bpf_redirect(ifindex, 0) } as i32)
    }

    #[inline(always)]
    fn can_forward(&self, _route: &Route) -> bool {
        // Packets wait for a next hop's hardware address.
        true
    }

    #[inline(always)]
    fn dress(&self, is_v6: bool) -> Option<()> {
        // SAFETY: the helper takes the program's own context.
        let result = unsafe { bpf_skb_change_head(self.0, ETHERNET, 0) };
        let ethertype = if is_v6 { ETHERTYPE_IPV6 } else { ETHERTYPE_IPV4 };
        if result == 0 { self.store(12, &ethertype.to_be_bytes()) } else { None }
    }

    #[inline(always)]
    fn forward(&self, route: &Route, is_routed: bool) -> Verdict {
        self.note_done();
        if is_routed {
            // The packet carries the route that the node chose for it. Should it have to wait for the next hop's hardware
            // address, the kernel takes that route's (`__neigh_update`), unless the helper replaces it by its own.
            // SAFETY: without parameters the helper has no preconditions.
            let code = unsafe { bpf_redirect_neigh(route.ifindex, core::ptr::null_mut(), 0, 0) };
            return Verdict::Sent(code as i32);
        }
        let mut next: bpf_redir_neigh = zeroed();
        next.nh_family = if route.is_v6 { AF_INET6 } else { AF_INET };
        if route.is_v6 {
            next.__bindgen_anon_1.ipv6_nh = route.next.words_be;
        } else {
            next.__bindgen_anon_1.ipv4_nh = route.next.v4_be();
        }
        let length = size_of::<bpf_redir_neigh>() as i32;
        // SAFETY: `next` is a live value of the length that is passed.
        Verdict::Sent(unsafe { bpf_redirect_neigh(route.ifindex, &raw mut next, length, 0) } as i32)
    }

    #[inline(always)]
    fn send_back(&self, to_node: bool) -> Verdict {
        self.hand_over(self.ifindex(), to_node)
    }

    #[inline(always)]
    fn take_in(&self, mac: &[u8; 6]) -> Option<()> {
        let mark = read!(self, mark) & !REPLY_MARK_MASK | REPLY_MARK;
        // SAFETY: the kernel hands a valid `__sk_buff` to every program of this type; this field may be written.
        unsafe { addr_of_mut!((*self.0).mark).write_volatile(mark) };
        if read!(self, pkt_type) == PACKET_HOST {
            return Some(());
        }
        self.store(0, mac)?;
        // SAFETY: the helper takes the program's own context.
        let result = unsafe { bpf_skb_change_type(self.0, PACKET_HOST) };
        (result == 0).then_some(())
    }

    #[inline(always)]
    fn hand_over(&self, ifindex: u32, to_node: bool) -> Verdict {
        let flags = if to_node { u64::from(BPF_F_INGRESS) } else { 0 };
        // SAFETY: the helper has no preconditions.
        Verdict::Sent(unsafe { bpf_redirect(ifindex, flags) } as i32)
    }
}

/// A `bpf_redir_neigh` of zeros.
#[inline(always)]
const fn zeroed() -> bpf_redir_neigh {
    // SAFETY: integers and a union of integers, for which zeros are values.
    unsafe { core::mem::zeroed() }
}
