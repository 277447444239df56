//! XDP: what goes to other nodes goes there at once. All else is left to tc as it is, which finds the connection made.

use sluice_common::{
    Reason,
    layout::{EventHook, FLOW_REDIRECT, HOOK_FROM_NETWORK},
    packet::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, Fragment, Kind},
};

use super::{Frame, Stage, Step, Verdict, Work, begin, dialled_kind, known, of_failure, read};
use crate::{events, raw};

/// Everything that the hook does.
#[inline(always)]
pub fn handle_early<F: Frame>(frame: F) -> Verdict {
    let Some(ethertype) = frame.load::<2>(12) else {
        return Verdict::Pass;
    };
    let is_v6 = match u16::from_be_bytes(ethertype) {
        ETHERTYPE_IPV4 => false,
        ETHERTYPE_IPV6 => true,
        _ => return Verdict::Pass,
    };
    let Some(work) = raw::flows::work() else {
        return Verdict::Pass;
    };
    work.start(HOOK_FROM_NETWORK);
    let reason = match decide(frame, is_v6, work) {
        Ok(reason) => reason,
        Err(reason) => {
            work.verdict = of_failure(reason);
            reason
        }
    };
    // What is left to tc is counted there.
    if !matches!(work.verdict, Verdict::Pass) {
        raw::count(reason);
        events::of_packet(work, EventHook::Early, frame.ifindex(), reason);
    } else if matches!(work.stage, Stage::Remembered) {
        // But there the connection is no news any more.
        events::of_packet(work, EventHook::Early, frame.ifindex(), Reason::PacketTranslated);
    }
    work.verdict
}

#[inline(always)]
fn decide<F: Frame>(frame: F, is_v6: bool, work: &mut Work) -> Result<Reason, Reason> {
    read(frame, is_v6, work)?;
    if !matches!(work.packet.kind, Kind::Ports) || !matches!(work.packet.fragment, Fragment::Whole) {
        return Err(Reason::NotOurs);
    }
    work.address_kind = dialled_kind(&work.packet.key.dst);
    // Connections outlive their Service, and with it what is known of the address.
    match known::known(frame, work) {
        Err(Reason::NotOurs) => {}
        done => return done,
    }
    if work.address_kind == 0 {
        return Err(Reason::NotOurs);
    }
    work.now_ns = raw::now_ns();
    match begin::find(frame, work) {
        // To the redirector, through the node's stack.
        Ok(Reason::Redirected) => return Err(Reason::Redirected),
        Ok(_) => {}
        // To be answered, or counted, which tc does.
        Err(Reason::UnknownPort | Reason::NoEndpoints | Reason::SctpPort | Reason::BegunElsewhere) => {
            return Err(Reason::NotOurs);
        }
        Err(reason) => return Err(reason),
    }
    frame.enter(work, Step::Remember)?;
    if work.flow.flags & FLOW_REDIRECT == 0 {
        return Err(Reason::NotOurs);
    }
    frame.enter(work, Step::Lead).map(|_| Reason::PacketTranslated)
}
