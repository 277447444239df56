//! What each step of a packet's way does, see [`Step`].

use sluice_common::{Reason, packet::inner};

use super::{Frame, Work, answer, begin as first, error as icmp, known, remember as flows, tunnel};

/// A part of the way that is long, or that several ways have in common. Each is a function that the verifier walks through once,
/// and that knows nothing but [`Work`].
#[derive(Clone, Copy)]
pub enum Step {
    /// [`first::begin`].
    Begin,
    /// [`icmp::error`].
    Error,
    /// [`tunnel::unwrap`].
    Unwrap,
    /// [`known::lead`].
    Lead,
    /// [`answer::refuse`].
    Refuse,
    /// [`answer::too_big`], of `told_mtu`.
    TooBig,
    /// [`answer::hops_exceeded`].
    HopsExceeded,
    /// [`flows::remember`].
    Remember,
    /// [`flows::try_port`].
    TryPort,
    /// [`inner`], at `inner_at`, into `quoted`.
    ReadInner,
    /// [`first::choose_slot`].
    Choose,
}

#[inline(always)]
pub fn begin<F: Frame>(frame: F, work: &mut Work) -> Result<Reason, Reason> {
    first::begin(frame, work)
}

#[inline(always)]
pub fn error<F: Frame>(frame: F, work: &mut Work) -> Result<Reason, Reason> {
    icmp::error(frame, work)
}

#[inline(always)]
pub fn unwrap<F: Frame>(frame: F, work: &mut Work) -> Result<Reason, Reason> {
    tunnel::unwrap(frame, work)
}

#[inline(always)]
pub fn lead<F: Frame>(frame: F, work: &mut Work) -> Result<Reason, Reason> {
    known::lead(frame, work).map(|()| Reason::NotOurs)
}

#[inline(always)]
pub fn refuse<F: Frame>(frame: F, work: &mut Work) -> Result<Reason, Reason> {
    answer::refuse(frame, work).map(|()| Reason::NotOurs)
}

#[inline(always)]
pub fn too_big<F: Frame>(frame: F, work: &mut Work) -> Result<Reason, Reason> {
    answer::too_big(frame, work, work.told_mtu).map(|()| Reason::NotOurs)
}

#[inline(always)]
pub fn hops_exceeded<F: Frame>(frame: F, work: &mut Work) -> Result<Reason, Reason> {
    answer::hops_exceeded(frame, work).map(|()| Reason::NotOurs)
}

#[inline(always)]
pub fn remember<F: Frame>(frame: F, work: &mut Work) -> Result<Reason, Reason> {
    flows::remember(frame, work).map(|()| Reason::NotOurs)
}

#[inline(always)]
pub fn try_port<F: Frame>(frame: F, work: &mut Work) -> Result<Reason, Reason> {
    flows::try_port(frame, work).map(|()| Reason::NotOurs)
}

#[inline(always)]
pub fn read_inner<F: Frame>(frame: F, work: &mut Work) -> Result<Reason, Reason> {
    inner(&frame, work.inner_at, work.packet.is_v6, work.is_quoted, &mut work.quoted)
        .map(|()| Reason::NotOurs)
}

#[inline(always)]
pub fn choose<F: Frame>(_frame: F, work: &mut Work) -> Result<Reason, Reason> {
    first::choose_slot(work).map(|()| Reason::NotOurs)
}
