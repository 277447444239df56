//! A connection's life: its state from the packets seen, how long it is remembered, and its source port.

use crate::layout::{
    FlowValue, STATE_BACKEND_DONE, STATE_BACKEND_GOES_ON, STATE_CLIENT_DONE, STATE_CLIENT_GOES_ON,
    STATE_REPLIED, STATE_RESET, TCP,
};

/// Both ends have gone on after a reset.
const GO_ON: u8 = STATE_CLIENT_GOES_ON | STATE_BACKEND_GOES_ON;

/// TCP flag.
pub const FIN: u8 = 1;
/// TCP flag.
pub const SYN: u8 = 2;
/// TCP flag.
pub const RST: u8 = 4;
/// TCP flag.
pub const ACK: u8 = 16;

const NANOS_PER_SEC: u64 = 1_000_000_000;
/// How old an entry's last sight may be before a packet brings it up to date.
pub const REFRESH_NS: u64 = NANOS_PER_SEC;

/// How long a connection without packets is remembered, in seconds.
///
/// Source: kube-proxy's `--conntrack-tcp-timeout-established` (24 h) and the defaults of
/// `net.netfilter.nf_conntrack_{tcp,udp}_timeout_*`.
#[inline(always)]
pub const fn timeout_s(protocol: u8, state: u8) -> u64 {
    if protocol != TCP {
        return if state & STATE_REPLIED != 0 { 120 } else { 30 };
    }
    if state & STATE_RESET != 0 {
        return 10;
    }
    match state & (STATE_REPLIED | STATE_CLIENT_DONE | STATE_BACKEND_DONE) {
        STATE_REPLIED => 86_400,
        0 => 120,
        // One end is done, the other may still have something to say.
        3 | 5 => 3_600,
        _ => 120,
    }
}

/// Whether the connection is still remembered at `now_ns` (ns of `CLOCK_MONOTONIC`).
#[inline(always)]
pub const fn is_live(flow: &FlowValue, protocol: u8, now_ns: u64) -> bool {
    now_ns.saturating_sub(flow.last_seen_ns) < timeout_s(protocol, flow.state) * NANOS_PER_SEC
}

/// The state after a packet with these TCP flags (0 for other protocols), of the backend or of the client.
#[inline(always)]
pub const fn after(state: u8, of_backend: bool, tcp_flags: u8) -> u8 {
    let mut next = state;
    if of_backend {
        next |= STATE_REPLIED;
    }
    if tcp_flags & FIN != 0 {
        next |= if of_backend { STATE_BACKEND_DONE } else { STATE_CLIENT_DONE };
    }
    if tcp_flags & RST != 0 {
        return (next | STATE_RESET) & !GO_ON;
    }
    if next & STATE_RESET == 0 {
        return next;
    }
    // Sequence numbers are not kept, so that any RST counts for the time being. Of two ends that both go on neither took it
    // for its peer's: it was forged, or came late from an older connection.
    next |= if of_backend { STATE_BACKEND_GOES_ON } else { STATE_CLIENT_GOES_ON };
    if next & GO_ON == GO_ON { next & !(STATE_RESET | GO_ON) } else { next }
}

/// Whether a packet with these flags starts another connection with the ends of one that was in `state`.
#[inline(always)]
pub const fn starts_anew(state: u8, of_backend: bool, tcp_flags: u8) -> bool {
    !of_backend
        && tcp_flags & (SYN | ACK) == SYN
        && state & (STATE_RESET | STATE_CLIENT_DONE | STATE_BACKEND_DONE) != 0
}

/// How long the pieces of a datagram may be under way. Identifications come again: 65,536 datagrams of IPv4 later.
///
/// Source: the default of `net.ipv4.ipfrag_time`.
const PIECES_NS: u64 = 30 * NANOS_PER_SEC;

/// Whether a piece that comes at `now_ns` may be of the datagram whose first piece came at `seen_ns`.
#[inline(always)]
pub const fn is_of_datagram(seen_ns: u64, now_ns: u64) -> bool {
    now_ns.saturating_sub(seen_ns) < PIECES_NS
}

/// How many source ports are tried before a connection is given up.
pub const PORT_TRIES: u32 = 24;
/// Of these, how many among the ports that the node's own sockets get only by asking for them.
const PORT_TRIES_APART: u32 = 16;

/// The source port, host byte order, of the `attempt`th try in the node's name.
///
/// 61000 to 65535 lie past the default of `net.ipv4.ip_local_port_range` and past the NodePorts; then the ephemeral
/// range itself, in which the caller must look for sockets.
#[inline(always)]
pub const fn source_port(attempt: u32, random: u32) -> u16 {
    if attempt < PORT_TRIES_APART {
        return 61_000 + crate::choose::scale(random, 65_536 - 61_000) as u16;
    }
    32_768 + crate::choose::scale(random, 61_000 - 32_768) as u16
}

/// Answers that a CPU gives in a second to packets that it refuses; as many as ten seconds' worth may be saved up.
const ANSWERS_PER_S: u64 = 100;
const MOST_ANSWERS: u64 = 1_000;

/// How many answers are left after one more, from `left` at `filled_ns`; and when they count from. `None`: none is left.
#[inline(always)]
pub const fn answer(left: u64, filled_ns: u64, now_ns: u64) -> Option<(u64, u64)> {
    let per_answer_ns = NANOS_PER_SEC / ANSWERS_PER_S;
    let since = if filled_ns == 0 { MOST_ANSWERS * per_answer_ns } else { now_ns.saturating_sub(filled_ns) };
    let more = since / per_answer_ns;
    let have = if left + more > MOST_ANSWERS { MOST_ANSWERS } else { left + more };
    let counted_ns = if more == 0 { filled_ns } else { now_ns };
    if have == 0 { None } else { Some((have - 1, counted_ns)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::UDP;

    #[test]
    fn connections_are_remembered_by_what_they_went_through() {
        let packets = |steps: &[(bool, u8)]| {
            steps.iter().fold(0, |state, (of_backend, flags)| after(state, *of_backend, *flags))
        };
        type Steps = &'static [(bool, u8)];
        let rows: [(&str, u8, Steps, u64); 8] = [
            ("only SYN", TCP, &[(false, SYN)], 120),
            ("established", TCP, &[(false, SYN), (true, SYN | ACK), (false, ACK)], 86_400),
            ("client done", TCP, &[(false, SYN), (true, ACK), (false, FIN | ACK)], 3_600),
            ("backend done", TCP, &[(false, SYN), (true, FIN | ACK)], 3_600),
            ("both done", TCP, &[(false, SYN), (true, FIN | ACK), (false, FIN | ACK)], 120),
            ("reset", TCP, &[(false, SYN), (true, RST | ACK)], 10),
            ("one datagram", UDP, &[(false, 0)], 30),
            ("answered", UDP, &[(false, 0), (true, 0)], 120),
        ];
        for (case, protocol, steps, want) in rows {
            assert_eq!(timeout_s(protocol, packets(steps)), want, "{case}");
        }
    }

    #[test]
    fn a_reset_that_neither_end_believes_is_taken_back() {
        const CLIENT: bool = false;
        const BACKEND: bool = true;
        type Steps = &'static [(bool, u8)];
        let rows: [(&str, Steps, u64); 9] = [
            ("reset", &[(CLIENT, RST)], 10),
            ("the other's data was under way", &[(BACKEND, RST), (CLIENT, ACK), (CLIENT, ACK)], 10),
            ("so was the resetting end's", &[(CLIENT, RST | ACK), (CLIENT, ACK)], 10),
            ("both go on", &[(CLIENT, RST), (BACKEND, ACK), (CLIENT, ACK)], 86_400),
            ("in the other order", &[(CLIENT, RST), (CLIENT, ACK), (BACKEND, ACK)], 86_400),
            ("each packet is answered by a reset", &[(BACKEND, RST), (CLIENT, ACK), (BACKEND, RST)], 10),
            ("which counts anew", &[(CLIENT, RST), (CLIENT, ACK), (CLIENT, RST), (BACKEND, ACK)], 10),
            ("again", &[(CLIENT, RST), (BACKEND, ACK), (CLIENT, ACK), (CLIENT, RST)], 10),
            ("and then both close", &[(CLIENT, RST), (BACKEND, ACK), (CLIENT, FIN | ACK)], 3_600),
        ];
        for (case, steps, want) in rows {
            let open = [(CLIENT, SYN), (BACKEND, SYN | ACK), (CLIENT, ACK)];
            let state = open.iter().chain(steps).fold(0, |state, (of, flags)| after(state, *of, *flags));
            assert_eq!(timeout_s(TCP, state), want, "{case}");
            assert!(state & GO_ON == 0 || state & STATE_RESET != 0, "{case}: nothing is left of it");
        }
    }

    #[test]
    fn a_syn_after_the_end_is_another_connection() {
        let done = STATE_REPLIED | STATE_CLIENT_DONE | STATE_BACKEND_DONE;
        for (case, state, of_backend, flags, want) in [
            ("repeated SYN", 0, false, SYN, false),
            ("SYN in an established one", STATE_REPLIED, false, SYN, false),
            ("after the end", done, false, SYN, true),
            ("after a reset", STATE_RESET, false, SYN, true),
            ("last ACK", done, false, ACK, false),
            ("SYN+ACK", done, true, SYN | ACK, false),
        ] {
            assert_eq!(starts_anew(state, of_backend, flags), want, "{case}");
        }
    }

    #[test]
    fn pieces_are_of_one_datagram_while_they_may_be_under_way() {
        let seen_ns = 40 * NANOS_PER_SEC;
        for (case, now_ns, want) in [
            ("at once", seen_ns, true),
            ("just in time", seen_ns + PIECES_NS - 1, true),
            ("too late", seen_ns + PIECES_NS, false),
            ("a clock of another CPU", seen_ns - 5, true),
        ] {
            assert_eq!(is_of_datagram(seen_ns, now_ns), want, "{case}");
        }
    }

    #[test]
    fn source_ports_keep_off_node_ports_and_stay_in_their_range() {
        for attempt in 0..PORT_TRIES {
            for random in [0, 1, u32::MAX / 2, u32::MAX] {
                let port = source_port(attempt, random);
                assert_eq!(port >= 61_000, attempt < PORT_TRIES_APART, "{port}");
                assert!(port >= 32_768, "{port}");
            }
        }
    }

    #[test]
    fn answers_run_out_and_come_back() {
        let (mut left, mut filled, start) = (0, 0, 5_000_000_000_000);
        for answered in 0..MOST_ANSWERS {
            (left, filled) = answer(left, filled, start).unwrap_or_else(|| panic!("{answered}"));
        }
        assert_eq!(answer(left, filled, start), None);
        assert!(answer(left, filled, start + 10_000_000).is_some(), "one each ten milliseconds");
        assert_eq!(answer(left, filled, start + 9_999_999), None);
    }
}
