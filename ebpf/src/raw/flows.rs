//! Entries of `FLOWS` that packets change in place, and the CPU's store of answers.

use core::ptr::addr_of;

use sluice_common::{
    layout::{FlowKey, FlowValue},
    packet::flow,
};

use super::fib::Route;
use crate::{
    maps::{ANSWERS, FLOWS, WORK},
    packet::Work,
};

/// This CPU's room for the packet under way.
#[inline(always)]
pub fn work() -> Option<&'static mut Work> {
    // SAFETY: the lookup returned a live element of this CPU, made of numbers and of enums for which zero, with which the map
    // begins, is a value. Packets are handled with soft interrupts off, so that nobody else on this CPU has it.
    WORK.get_ptr_mut(0).map(|work| unsafe { &mut *work })
}

/// Whether the packet under way on this CPU is looking a connected socket up.
#[inline(always)]
pub fn asks() -> bool {
    // SAFETY: the lookup returned a live element of this CPU, and one byte of it is read; who writes it waits for us.
    WORK.get_ptr(0).is_some_and(|work| unsafe { addr_of!((*work).asks).read_volatile() })
}

/// A copy of the entry of a packet with these ends.
#[inline(always)]
pub fn flow(key: &FlowKey) -> Option<FlowValue> {
    super::get_lru(&FLOWS, key)
}

/// Notes in the entry that a packet was seen; false if it is not there.
#[inline(always)]
pub fn touch(key: &FlowKey, state: u8, now_ns: u64) -> bool {
    let Some(value) = FLOWS.get_ptr_mut(key) else {
        return false;
    };
    // SAFETY: the lookup returned a live element; of two packets that write at once, either is right.
    unsafe { (&raw mut (*value).last_seen_ns).write_volatile(now_ns) };
    // SAFETY: as above.
    unsafe { (&raw mut (*value).state).write_volatile(state) };
    true
}

/// Notes in the entry, if it is there, where its packets go.
#[inline(never)]
pub fn set_route(key: &FlowKey, route: &Route) {
    if let Some(value) = FLOWS.get_ptr_mut(key) {
        // SAFETY: the lookup returned a live element. The index, by which readers know that the rest is there, is taken back
        // first and set last: a reader on another CPU finds none or all, or the old with the new device for one packet.
        unsafe { (&raw mut (*value).route_ifindex).write_volatile(0) };
        // SAFETY: as above.
        unsafe { (&raw mut (*value).route_macs).write(route.macs) };
        // SAFETY: as above.
        unsafe { (&raw mut (*value).route_mtu).write(route.mtu) };
        // SAFETY: as above.
        unsafe { (&raw mut (*value).route_ifindex).write_volatile(route.ifindex) };
    }
}

/// Takes one answer from this CPU's store `ANSWERS_*`; false when it is empty.
#[inline(always)]
pub fn may_answer(store: u32, now_ns: u64) -> bool {
    let Some(store) = ANSWERS.get_ptr_mut(store) else {
        return false;
    };
    // SAFETY: the lookup returned a live element of this CPU, and nothing preempts us on it.
    let (left, filled_ns) = unsafe { ((*store).left, (*store).filled_ns) };
    let Some((left, filled_ns)) = flow::answer(left, filled_ns, now_ns) else {
        return false;
    };
    // SAFETY: as above.
    unsafe { (*store).left = left };
    // SAFETY: as above.
    unsafe { (*store).filled_ns = filled_ns };
    true
}
