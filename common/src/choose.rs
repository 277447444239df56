//! Which slot of a frontend serves a client. Pure: the caller brings the random number or the hash.

use crate::{
    Addr, Reason,
    layout::{
        FLAG_EXTERNAL_LOCAL, FLAG_HAS_ENDPOINTS, FLAG_INTERNAL_LOCAL, FLAG_MAGLEV, FrontendValue, SlotValue,
        client_of_netns,
    },
};

/// Steps of the search in [`find_backend`]: enough for 2^24 slots, the most that a map can be told to have.
const SEARCH_STEPS: u32 = 24;
const NANOS_PER_SEC: u64 = 1_000_000_000;

/// The slot for a socket on this node that dials `frontend`.
///
/// `spread` is any 32-bit number, spread evenly: random for connections, [`socket_hash`] for datagrams, [`socket_spread`]
/// for Maglev.
/// Fails with the reason why there is none: [`Reason::NoEndpoints`] (reject) when no endpoint exists,
/// [`Reason::NoLocalEndpoints`] (drop) when the policy excludes those that exist.
/// Source: kube-proxy `pkg/proxy/topology.go`, `CategorizeEndpoints`.
#[inline(always)]
pub const fn socket_slot(frontend: &FrontendValue, spread: u32) -> Result<u32, Reason> {
    slot_in(frontend, socket_range(frontend), spread)
}

/// First slot and number of slots that sockets on this node may be led to.
#[inline(always)]
pub const fn socket_range(frontend: &FrontendValue) -> (u32, u32) {
    if frontend.flags & FLAG_INTERNAL_LOCAL != 0 {
        (frontend.local_start, frontend.local_count)
    } else {
        (frontend.cluster_start, frontend.cluster_count)
    }
}

/// First slot and number of slots that packets may be led to; `inside` when the client is a pod of this node or the node
/// itself, which the external policy does not concern.
///
/// Source: kube-proxy `pkg/proxy/nftables/README.md`, the order of an external chain's rules.
#[inline(always)]
pub const fn packet_range(frontend: &FrontendValue, inside: bool) -> (u32, u32) {
    if frontend.flags & FLAG_EXTERNAL_LOCAL != 0 && !inside {
        return (frontend.local_start, frontend.local_count);
    }
    socket_range(frontend)
}

/// The slot of `range` for a client; see [`socket_slot`].
#[inline(always)]
pub const fn slot_in(frontend: &FrontendValue, range: (u32, u32), spread: u32) -> Result<u32, Reason> {
    if range.1 == 0 {
        return Err(if frontend.flags & FLAG_HAS_ENDPOINTS != 0 {
            Reason::NoLocalEndpoints
        } else {
            Reason::NoEndpoints
        });
    }
    Ok(range.0.wrapping_add(scale(spread, range.1)))
}

/// The slot of `range` (first slot, number of slots) that names `backend_id`; the slots are sorted by backend id.
///
/// `slot` reads one. `None` if no slot names it, or if a slot is not the service's: then nothing is certain.
#[inline(always)]
pub fn find_backend(
    range: (u32, u32),
    service_id: u32,
    backend_id: u32,
    slot: impl Fn(u32) -> Option<SlotValue>,
) -> Option<u32> {
    let (mut low, mut high) = (range.0, range.0.saturating_add(range.1));
    for _ in 0..SEARCH_STEPS {
        if low >= high {
            return None;
        }
        let middle = low + (high - low) / 2;
        let found = slot(middle)?;
        if found.service_id != service_id {
            return None;
        }
        if found.backend_id == backend_id {
            return Some(middle);
        }
        if found.backend_id < backend_id {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    None
}

/// Whether a choice made at `last_used_ns` still binds its client at `now_ns` (ns of `CLOCK_MONOTONIC`).
///
/// An age equal to the timeout has expired. A clock step back counts as age 0.
/// Source: `Service.spec.sessionAffinityConfig.clientIP.timeoutSeconds` (1..=86400 s).
#[inline(always)]
pub const fn is_live(last_used_ns: u64, now_ns: u64, timeout_s: u32) -> bool {
    now_ns.saturating_sub(last_used_ns) < timeout_s as u64 * NANOS_PER_SEC
}

/// Maps `spread` evenly onto `0..count` without a division (Lemire, ACM TOMACS 29(1), 2019). 0 if `count` is 0.
#[inline(always)]
pub const fn scale(spread: u32, count: u32) -> u32 {
    ((spread as u64 * count as u64) >> 32) as u32
}

/// A number that stays the same for one socket and one service, so that all datagrams of an unconnected
/// socket reach one backend.
#[inline(always)]
pub const fn socket_hash(cookie: u64, service_id: u32) -> u32 {
    mix(cookie ^ ((service_id as u64) << 40)) as u32
}

/// Whether a hash of the client chooses, in a Maglev table.
#[inline(always)]
pub const fn is_maglev(frontend: &FrontendValue) -> bool {
    frontend.flags & FLAG_MAGLEV != 0
}

/// Whether clients are remembered with their backends. With Maglev nobody needs to: the table leads a client to the same one.
#[inline(always)]
pub const fn remembers_clients(frontend: &FrontendValue) -> bool {
    frontend.affinity_timeout_s != 0 && !is_maglev(frontend)
}

/// The place of a packet's client in a Maglev table: the same on every node, in every family of programs.
///
/// Of what is dialled, the frontend's own key counts: a NodePort is the same by whichever node's address it is dialled. With
/// session affinity, the client's address alone.
#[inline(always)]
pub const fn packet_spread(frontend: &FrontendValue, client: &Addr, port_be: u16) -> u32 {
    let words = client.words_be;
    let hash = mix((words[0] as u64) << 32 | words[1] as u64);
    let hash = mix(hash ^ ((words[2] as u64) << 32 | words[3] as u64));
    if frontend.affinity_timeout_s != 0 {
        return (hash >> 32) as u32;
    }
    (mix(hash ^ ((frontend.check as u64) << 32 | port_be as u64)) >> 32) as u32
}

/// The place of a socket in a Maglev table. It has no source address or port yet when it chooses: its cookie stands for
/// both; with session affinity its network namespace, which is the client that it is for affinity elsewhere.
#[inline(always)]
pub const fn socket_spread(frontend: &FrontendValue, cookie: u64, netns_cookie: u64) -> u32 {
    if frontend.affinity_timeout_s != 0 {
        return packet_spread(frontend, &client_of_netns(netns_cookie), 0);
    }
    socket_hash(cookie, frontend.check)
}

/// The 64-bit finalizer of MurmurHash3: each bit of the result hangs on each bit of `hash`.
#[inline(always)]
pub const fn mix(hash: u64) -> u64 {
    let hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    let hash = (hash ^ (hash >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ (hash >> 33)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frontend(flags: u16, cluster: (u32, u32), local: (u32, u32)) -> FrontendValue {
        FrontendValue {
            service_id: 7,
            flags,
            kind: 1,
            pad: 0,
            affinity_timeout_s: 0,
            cluster_start: cluster.0,
            cluster_count: cluster.1,
            local_start: local.0,
            local_count: local.1,
            check: 0,
        }
    }

    #[test]
    fn policy_and_presence_decide_between_slot_reject_and_drop() {
        for (case, flags, cluster, local, want) in [
            ("cluster range", FLAG_HAS_ENDPOINTS, (10, 3), (13, 1), Ok(11)),
            ("local range", FLAG_HAS_ENDPOINTS | FLAG_INTERNAL_LOCAL, (10, 3), (13, 1), Ok(13)),
            ("nothing anywhere", 0, (0, 0), (0, 0), Err(Reason::NoEndpoints)),
            (
                "only remote, local wanted",
                FLAG_HAS_ENDPOINTS | FLAG_INTERNAL_LOCAL,
                (10, 3),
                (0, 0),
                Err(Reason::NoLocalEndpoints),
            ),
            ("local wanted, nothing anywhere", FLAG_INTERNAL_LOCAL, (0, 0), (0, 0), Err(Reason::NoEndpoints)),
            (
                "hints or policy exclude every one",
                FLAG_HAS_ENDPOINTS,
                (0, 0),
                (0, 0),
                Err(Reason::NoLocalEndpoints),
            ),
        ] {
            assert_eq!(socket_slot(&frontend(flags, cluster, local), u32::MAX / 2), want, "{case}");
        }
    }

    #[test]
    fn a_backend_is_found_in_its_range_and_nowhere_else() {
        let slot = |index: u32| {
            // Slots 10 to 19 of service 7 name backends 100, 102, and so on; the others belong to service 8.
            let service_id = if (10..20).contains(&index) { 7 } else { 8 };
            let zero = <SlotValue as bytemuck::Zeroable>::zeroed();
            Some(SlotValue { backend_id: 80 + index * 2, service_id, ..zero })
        };
        for (case, range, backend_id, want) in [
            ("first", (10, 10), 100, Some(10)),
            ("last", (10, 10), 118, Some(19)),
            ("between two", (10, 10), 103, None),
            ("before", (10, 10), 1, None),
            ("after", (10, 10), 500, None),
            ("only slot", (12, 1), 104, Some(12)),
            ("empty", (12, 0), 104, None),
            ("foreign slots", (30, 5), 142, None),
            ("damaged range", (u32::MAX, u32::MAX), 104, None),
        ] {
            assert_eq!(find_backend(range, 7, backend_id, slot), want, "{case}");
        }
        assert_eq!(find_backend((10, 10), 7, 104, |_| None), None, "unreadable");
    }

    #[test]
    fn affinity_lasts_for_its_timeout() {
        for (case, last_s, now_s, timeout_s, want) in [
            ("same instant", 5, 5, 10, true),
            ("just before", 5, 14, 10, true),
            ("at the timeout", 5, 15, 10, false),
            ("longest", 0, 86_399, 86_400, true),
            ("clock stepped back", 9, 5, 1, true),
            ("switched off", 5, 5, 0, false),
        ] {
            assert_eq!(is_live(last_s * NANOS_PER_SEC, now_s * NANOS_PER_SEC, timeout_s), want, "{case}");
        }
    }

    #[test]
    fn scale_covers_the_range_and_never_leaves_it() {
        for count in [1, 2, 3, 7, 100, 65_537] {
            assert_eq!(scale(0, count), 0);
            assert_eq!(scale(u32::MAX, count), count - 1);
        }
        assert_eq!(scale(u32::MAX, 0), 0);
    }

    #[test]
    fn sockets_spread_over_all_slots() {
        let mut hits = [0_u32; 8];
        for cookie in 1..=8_000 {
            hits[scale(socket_hash(cookie, 3), 8) as usize] += 1;
        }
        assert!(hits.iter().all(|hit| (800..1_200).contains(hit)), "{hits:?}");
    }

    fn maglev(affinity_timeout_s: u32, check: u32) -> FrontendValue {
        FrontendValue { affinity_timeout_s, check, ..frontend(FLAG_MAGLEV, (0, 251), (0, 0)) }
    }

    fn client(last: u8) -> Addr {
        Addr::from_v4_be(u32::from_ne_bytes([192, 0, 2, last]))
    }

    #[test]
    fn a_place_hangs_on_the_client_and_on_what_is_dialled() {
        let (value, other) = (maglev(0, 5), maglev(0, 6));
        let place = packet_spread(&value, &client(1), 7);
        assert_eq!(place, packet_spread(&value, &client(1), 7));
        for (case, differs) in [
            ("port", packet_spread(&value, &client(1), 8)),
            ("address", packet_spread(&value, &client(2), 7)),
            ("dialled", packet_spread(&other, &client(1), 7)),
        ] {
            assert_ne!(place, differs, "{case}");
        }
        let kept = packet_spread(&maglev(9, 5), &client(1), 7);
        assert_eq!(
            kept,
            packet_spread(&maglev(9, 6), &client(1), 8),
            "with affinity only the address counts"
        );
        assert_ne!(kept, packet_spread(&maglev(9, 5), &client(2), 7));
    }

    #[test]
    fn a_socket_is_its_cookie_and_with_affinity_its_network() {
        assert_ne!(socket_spread(&maglev(0, 5), 1, 2), socket_spread(&maglev(0, 5), 3, 2));
        assert_eq!(socket_spread(&maglev(0, 5), 1, 2), socket_spread(&maglev(0, 5), 1, 4));
        assert_eq!(socket_spread(&maglev(9, 5), 1, 2), socket_spread(&maglev(9, 5), 3, 2));
        assert_ne!(socket_spread(&maglev(9, 5), 1, 2), socket_spread(&maglev(9, 5), 1, 4));
    }

    #[test]
    fn places_of_clients_are_spread_evenly() {
        let mut hits = [[0_u32; 8]; 3];
        for number in 0..8_000_u32 {
            let port_be = (number as u16).to_be();
            let address = Addr::from_v4_be((0x0a00_0000 + number).to_be());
            hits[0][scale(packet_spread(&maglev(0, 5), &client(1), port_be), 8) as usize] += 1;
            hits[1][scale(packet_spread(&maglev(9, 5), &address, 0), 8) as usize] += 1;
            hits[2][scale(socket_spread(&maglev(0, 5), u64::from(number), 1), 8) as usize] += 1;
        }
        assert!(hits.iter().flatten().all(|hit| (850..1_150).contains(hit)), "{hits:?}");
    }
}
