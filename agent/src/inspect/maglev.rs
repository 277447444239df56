//! Whom a Maglev table chooses, by the code that chooses in the kernel.

use std::net::{IpAddr, SocketAddr};

use sluice_common::{Addr, choose, layout::FrontendValue};

use super::answer::Explanation;
use crate::maps::Tables;

/// Says of a client's packets how one of `range` is chosen, and which, as far as the client is known.
pub fn of_packets(
    tables: &Tables,
    frontend: &FrontendValue,
    range: (u32, u32),
    (client, port): (Option<IpAddr>, Option<u16>),
    answer: &mut Explanation,
) {
    let count = answer.endpoints.len();
    let by_address = frontend.affinity_timeout_s != 0;
    answer.steps.push(if by_address {
        format!("1 of {count} is chosen by Maglev, by a hash of the client's address, on every node alike")
    } else {
        format!(
            "1 of {count} is chosen by Maglev with the first packet, by a hash of the client's address and port and of what \
             is dialled, on every node that has the same endpoints alike"
        )
    });
    let Some(client) = client else { return };
    let Some(port) = port.or(by_address.then_some(0)) else {
        answer.steps.push(format!("ask with --from {} to see which", SocketAddr::new(client, 40_000)));
        return;
    };
    let spread = choose::packet_spread(frontend, &Addr::from(client.to_canonical()), port.to_be());
    let slot = choose::slot_in(frontend, range, spread).ok().and_then(|index| tables.slots.get(&index));
    if let Some(backend) = slot.and_then(|slot| tables.backends.get(&slot.backend_id)) {
        let chosen = SocketAddr::new(backend.addr.into(), u16::from_be(backend.port_be));
        answer.steps.push(format!("of this client it chooses {chosen}"));
        answer.chosen = Some(chosen);
    }
}

/// How a socket chooses.
pub fn of_sockets(frontend: &FrontendValue, count: usize) -> String {
    let by = if frontend.affinity_timeout_s != 0 {
        "of the network namespace, so that a pod stays with it"
    } else {
        "of the socket, which has no address and port yet"
    };
    format!("1 of {count} is chosen by Maglev, by a hash {by}")
}
