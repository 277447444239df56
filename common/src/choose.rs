//! Which slot of a frontend serves a client. Pure: the caller brings the random number or the hash.

use crate::{
    Reason,
    layout::{FLAG_HAS_ENDPOINTS, FLAG_INTERNAL_LOCAL, FrontendValue},
};

/// The slot for a socket on this node that dials `frontend`.
///
/// `spread` is any 32-bit number, spread evenly: random for connections, [`socket_hash`] for datagrams.
/// Fails with the reason why there is none: [`Reason::NoEndpoints`] (reject) when no endpoint exists,
/// [`Reason::NoLocalEndpoints`] (drop) when the policy excludes those that exist.
/// Source: kube-proxy `pkg/proxy/topology.go`, `CategorizeEndpoints`.
#[inline(always)]
pub const fn socket_slot(frontend: &FrontendValue, spread: u32) -> Result<u32, Reason> {
    let (start, count) = if frontend.flags & FLAG_INTERNAL_LOCAL != 0 {
        (frontend.local_start, frontend.local_count)
    } else {
        (frontend.cluster_start, frontend.cluster_count)
    };
    if count == 0 {
        return Err(if frontend.flags & FLAG_HAS_ENDPOINTS != 0 {
            Reason::NoLocalEndpoints
        } else {
            Reason::NoEndpoints
        });
    }
    Ok(start.wrapping_add(scale(spread, count)))
}

/// Maps `spread` evenly onto `0..count` without a division (Lemire, ACM TOMACS 29(1), 2019). 0 if `count` is 0.
#[inline(always)]
pub const fn scale(spread: u32, count: u32) -> u32 {
    ((spread as u64 * count as u64) >> 32) as u32
}

/// A number that stays the same for one socket and one service, so that all datagrams of an unconnected
/// socket reach one backend. The mixing steps are those of the 64-bit finalizer of MurmurHash3.
#[inline(always)]
pub const fn socket_hash(cookie: u64, service_id: u32) -> u32 {
    let mut hash = cookie ^ ((service_id as u64) << 40);
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    (hash ^ (hash >> 33)) as u32
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
            pad2: 0,
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
            ("unusable only", FLAG_HAS_ENDPOINTS, (0, 0), (0, 0), Err(Reason::NoLocalEndpoints)),
        ] {
            assert_eq!(socket_slot(&frontend(flags, cluster, local), u32::MAX / 2), want, "{case}");
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
}
