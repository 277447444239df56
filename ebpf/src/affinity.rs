//! Session affinity: a client keeps its backend for the service's timeout after its last new connection, as long as
//! that backend is one of those that may serve it now.

use aya_ebpf::programs::SockAddrContext;
use sluice_common::{
    Reason, choose,
    layout::{
        AffinityKey, AffinityValue, BackendValue, FrontendKey, FrontendValue, SlotValue, UDP, client_of_netns,
    },
};

use crate::{
    events::Story,
    maps::{AFFINITY, SLOTS},
    raw, socket,
};

/// The backend that the client keeps, else the one that `choose` gives, which it keeps from now on.
#[inline(always)]
pub fn backend(
    ctx: &SockAddrContext,
    key: &FrontendKey,
    frontend: &FrontendValue,
    story: &mut Story,
    choose: impl FnOnce() -> Result<(u32, BackendValue), Reason>,
) -> Result<(u32, BackendValue), Reason> {
    let client =
        AffinityKey { client: client_of_netns(raw::netns_cookie(ctx)), service_id: frontend.service_id };
    let now_ns = raw::now_ns();
    if let Some(kept) = raw::get_lru(&AFFINITY, &client)
        && let Some(backend) = usable(frontend, kept.backend_id)
    {
        // A datagram of an exchange under way goes where the others went, and is no new connection.
        if key.protocol == UDP && socket::has_asked(ctx, key, &backend) {
            return Ok((kept.backend_id, backend));
        }
        if choose::is_live(kept.last_used_ns, now_ns, frontend.affinity_timeout_s) {
            story.count_besides(Reason::AffinityKept);
            keep(&client, kept.backend_id, now_ns);
            return Ok((kept.backend_id, backend));
        }
    }
    let (id, backend) = choose()?;
    keep(&client, id, now_ns);
    Ok((id, backend))
}

/// The slot in `range` of the backend that the client has kept so far, if it is still one; keeps it on.
#[inline(always)]
pub fn kept(
    client: &AffinityKey,
    frontend: &FrontendValue,
    range: (u32, u32),
    now_ns: u64,
) -> Option<SlotValue> {
    let kept = raw::get_lru(&AFFINITY, client)?;
    if !choose::is_live(kept.last_used_ns, now_ns, frontend.affinity_timeout_s) {
        return None;
    }
    let slot = |index: u32| SLOTS.get(index).copied();
    let found = choose::find_backend(range, frontend.service_id, kept.backend_id, slot)?;
    keep(client, kept.backend_id, now_ns);
    slot(found)
}

/// The backend, if it stands in the range that this frontend leads to.
#[inline(always)]
fn usable(frontend: &FrontendValue, backend_id: u32) -> Option<BackendValue> {
    let range = choose::socket_range(frontend);
    choose::find_backend(range, frontend.service_id, backend_id, |index| SLOTS.get(index).copied())?;
    socket::backend_by_id(backend_id).ok()
}

/// Makes the client keep the backend from now on.
#[inline(always)]
pub fn keep(client: &AffinityKey, backend_id: u32, now_ns: u64) {
    // An LRU map always finds room; should it not, the next connection is balanced anew.
    let _balanced_anew =
        AFFINITY.insert(*client, AffinityValue { last_used_ns: now_ns, backend_id, pad: 0 }, 0);
}
