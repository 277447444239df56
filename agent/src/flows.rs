//! Which remembered connections go: those that are over, those of UDP whose backend does not serve any more, and those of TCP
//! that would escape rules. Pure.
//!
//! A UDP client that keeps its port is one connection for ever, so that nothing but this ends its way to a pod that is
//! gone. TCP finds out by itself, and a pod that terminates may yet finish what it began.

use std::collections::{BTreeSet, HashMap, HashSet};

use sluice_common::{
    Addr,
    layout::{
        ADDRESS_NODE, EndpointState, FLOW_CUT, FLOW_REPLY, FlowKey, FlowValue, FrontendKey, FrontendValue,
        TCP, UDP,
    },
    packet::flow,
};

use crate::maps::Tables;

/// Why a connection goes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Removal {
    /// No packet for longer than its state allows.
    Expired,
    /// The Service is there, and the backend is not among its serving endpoints.
    NotServing,
    /// No Service has what the client dialled.
    NoService,
    /// Rules hold for what the client dialled, and began after the connection.
    Ruled,
}

impl Removal {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Expired, Self::NotServing, Self::NoService, Self::Ruled];

    /// Stable name for metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Expired => "expired",
            Self::NotServing => "not_serving",
            Self::NoService => "no_service",
            Self::Ruled => "ruled",
        }
    }
}

/// Whether it is the entry of what a connection's client sends: each connection has one.
pub const fn is_of_client(flow: &FlowValue) -> bool {
    flow.flags & (FLOW_REPLY | FLOW_CUT) == 0
}

/// Counts the connections that the kernel forgot for new ones, which it does when `FLOWS` is full and says nothing of: those
/// that began, less those that are there and those that the agent removed.
#[derive(Debug, Default)]
pub struct Ledger {
    /// Connections that began before the first look, and those that were there then.
    start: Option<(u64, u64)>,
    removed: u64,
    forgotten: u64,
}

impl Ledger {
    /// At a look that found `live` connections. `begun` is how many ever began, read before and after it: what began in
    /// between may have been found or not, and is given the benefit of the doubt. Returns how many were forgotten since the
    /// first look; never less than before.
    pub fn look(&mut self, begun: (u64, u64), live: u64) -> u64 {
        let (start_begun, start_live) = *self.start.get_or_insert((begun.1, live));
        let expected = start_live + begun.0.saturating_sub(start_begun);
        self.forgotten = self.forgotten.max(expected.saturating_sub(live + self.removed));
        self.forgotten
    }

    /// The agent removed a connection after the last look.
    pub const fn remove(&mut self) {
        self.removed += 1;
    }
}

/// Who serves what UDP clients dial. An endpoint that policy or topology excludes serves all the same, for those that it
/// serves already.
#[derive(Debug)]
pub struct Serving {
    tables: Tables,
    /// By service id; `None` where a change was under way as the maps were read, so that nothing is certain.
    backends: HashMap<u32, Option<HashSet<(Addr, u16)>>>,
}

impl Serving {
    /// From what the maps hold of the services that [`dialled`] leads to.
    pub fn new(tables: Tables) -> Self {
        let ids: HashSet<u32> = tables.frontends.values().map(|value| value.service_id).collect();
        let backends = ids.into_iter().map(|id| (id, serving(&tables, id))).collect();
        Self { tables, backends }
    }

    fn frontend(&self, key: &FrontendKey) -> Option<&FrontendValue> {
        let is_node = self.tables.addresses.get(&key.addr).is_some_and(|kind| kind & ADDRESS_NODE != 0);
        let frontends = &self.tables.frontends;
        frontends.get(key).or_else(|| frontends.get(&key.on_any_node_address()).filter(|_| is_node))
    }
}

fn serving(tables: &Tables, service_id: u32) -> Option<HashSet<(Addr, u16)>> {
    let service = tables.services.get(&service_id)?;
    let range = service.range_start..service.range_start.saturating_add(service.range_count);
    let mut found = HashSet::new();
    for index in range {
        let slot = tables.slots.get(&index).filter(|slot| slot.service_id == service_id)?;
        let backend = tables.backends.get(&slot.backend_id)?;
        if matches!(
            EndpointState::try_from(slot.state).ok()?,
            EndpointState::Ready | EndpointState::Terminating
        ) {
            found.insert((backend.addr, backend.port_be));
        }
    }
    Some(found)
}

/// How many connections each service has at `now_ns` of `CLOCK_MONOTONIC`, by its id.
pub fn by_service(entries: &[(FlowKey, FlowValue)], now_ns: u64) -> HashMap<u32, u64> {
    let mut counts = HashMap::new();
    // Each connection has one entry of what its client sends; that of pieces is a second one.
    let firsts = entries.iter().filter(|(_, flow)| flow.flags & (FLOW_REPLY | FLOW_CUT) == 0);
    for (_, flow) in firsts.filter(|(key, flow)| flow::is_live(flow, key.protocol, now_ns)) {
        *counts.entry(flow.service_id).or_default() += 1;
    }
    counts
}

/// What the client of a UDP connection dials; `None` for the entries of replies and of pieces, and for other protocols.
pub const fn dialled(key: &FlowKey, flow: &FlowValue) -> Option<FrontendKey> {
    if key.protocol != UDP || flow.flags & (FLOW_REPLY | FLOW_CUT) != 0 {
        return None;
    }
    Some(FrontendKey { addr: key.dst, port_be: key.dst_port_be, protocol: UDP, scope: 0 })
}

/// Whether the client of a TCP connection dialled one of `ruled`, every address of some ports, and was led past the
/// redirector, which listens at one of them.
fn escapes(key: &FlowKey, flow: &FlowValue, ruled: &BTreeSet<FrontendKey>) -> bool {
    let of = |addr, port_be| FrontendKey { addr, port_be, protocol: TCP, scope: 0 };
    key.protocol == TCP
        && flow.flags & (FLOW_REPLY | FLOW_CUT) == 0
        && ruled.contains(&of(key.dst, key.dst_port_be))
        && !ruled.contains(&of(flow.dst, flow.dst_port_be))
}

/// Why the entry goes at `now_ns` of `CLOCK_MONOTONIC`, if it does. By addresses, not by ids: those start anew when maps
/// are made anew. Connections that escape `ruled` go.
pub fn removal(
    key: &FlowKey,
    flow: &FlowValue,
    serving: &Serving,
    ruled: &BTreeSet<FrontendKey>,
    now_ns: u64,
) -> Option<Removal> {
    if !flow::is_live(flow, key.protocol, now_ns) {
        return Some(Removal::Expired);
    }
    if escapes(key, flow, ruled) {
        return Some(Removal::Ruled);
    }
    let Some(frontend) = serving.frontend(&dialled(key, flow)?) else {
        return Some(Removal::NoService);
    };
    let backends = serving.backends.get(&frontend.service_id)?.as_ref()?;
    (!backends.contains(&(flow.dst, flow.dst_port_be))).then_some(Removal::NotServing)
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use bytemuck::Zeroable as _;
    use sluice_common::layout::{BackendValue, Excluded, STATE_REPLIED, ServiceValue, SlotValue};

    use super::*;

    const NOW_NS: u64 = 5_000_000_000_000;

    fn addr(text: &str) -> Addr {
        Addr::from(text.parse::<IpAddr>().unwrap())
    }

    fn frontend_key(address: &str, scope: u8) -> FrontendKey {
        FrontendKey { addr: addr(address), port_be: 53_u16.to_be(), protocol: UDP, scope }
    }

    /// Service 7 at 10.96.0.1:53 and as a NodePort of 192.0.2.1, with backends 10.0.0.1 and so on in these states.
    fn tables(states: &[EndpointState]) -> Tables {
        let mut tables = Tables::default();
        let value = FrontendValue { service_id: 7, ..FrontendValue::zeroed() };
        tables.frontends =
            [(frontend_key("10.96.0.1", 0), value), (frontend_key("0.0.0.0", 1), value)].into();
        tables.addresses = [(addr("192.0.2.1"), ADDRESS_NODE)].into();
        let service =
            ServiceValue { range_start: 40, range_count: states.len() as u32, ..ServiceValue::zeroed() };
        tables.services = [(7, service)].into();
        for (index, state) in (0..).zip(states) {
            // None of them is in a range that a frontend names.
            let excluded = Excluded::Topology as u8;
            let slot = SlotValue {
                backend_id: index + 1,
                service_id: 7,
                state: *state as u8,
                excluded,
                ..SlotValue::zeroed()
            };
            tables.slots.insert(40 + index, slot);
            let (address, port_be) = (addr(&format!("10.0.0.{}", index + 1)), 5353_u16.to_be());
            tables.backends.insert(index + 1, BackendValue { addr: address, port_be, pad: 0, node_id: 0 });
        }
        tables
    }

    fn flow(dialled: &str, backend: (&str, u16), idle_s: u64) -> (FlowKey, FlowValue) {
        let key = FlowKey {
            src: addr("192.168.0.2"),
            dst: addr(dialled),
            src_port_be: 1,
            dst_port_be: 53_u16.to_be(),
            protocol: UDP,
            pad: [0; 3],
        };
        let value = FlowValue {
            dst: addr(backend.0),
            dst_port_be: backend.1.to_be(),
            state: STATE_REPLIED,
            last_seen_ns: NOW_NS - idle_s * 1_000_000_000,
            // Of another service and backend, as after a change of the maps' sizes.
            service_id: 99,
            backend_id: 99,
            ..FlowValue::zeroed()
        };
        (key, value)
    }

    #[test]
    fn udp_leaves_what_does_not_serve_and_everything_ends_with_its_time() {
        use EndpointState::{NotReady, Ready, Terminating};
        use Removal::{Expired, NoService, NotServing};
        let cluster_ip = "10.96.0.1";
        for (case, states, dialled, backend, idle_s, want) in [
            ("ready, though excluded", vec![Ready], cluster_ip, ("10.0.0.1", 5353), 0, None),
            ("terminating and serving", vec![Terminating, Ready], cluster_ip, ("10.0.0.1", 5353), 0, None),
            ("not ready", vec![NotReady, Ready], cluster_ip, ("10.0.0.1", 5353), 0, Some(NotServing)),
            ("deleted", vec![Ready], cluster_ip, ("10.0.0.9", 5353), 0, Some(NotServing)),
            ("the last one deleted", vec![], cluster_ip, ("10.0.0.1", 5353), 0, Some(NotServing)),
            ("another target port", vec![Ready], cluster_ip, ("10.0.0.1", 5354), 0, Some(NotServing)),
            ("Service gone", vec![Ready], "10.96.0.2", ("10.0.0.1", 5353), 0, Some(NoService)),
            ("by its NodePort", vec![Ready], "192.0.2.1", ("10.0.0.1", 5353), 0, None),
            ("NodePort, not ready", vec![NotReady], "192.0.2.1", ("10.0.0.1", 5353), 0, Some(NotServing)),
            ("not this node's", vec![Ready], "192.0.2.2", ("10.0.0.1", 5353), 0, Some(NoService)),
            ("just before its end", vec![Ready], cluster_ip, ("10.0.0.1", 5353), 119, None),
            ("at its end", vec![Ready], cluster_ip, ("10.0.0.1", 5353), 120, Some(Expired)),
        ] {
            let (key, value) = flow(dialled, backend, idle_s);
            let serving = Serving::new(tables(&states));
            assert_eq!(removal(&key, &value, &serving, &BTreeSet::new(), NOW_NS), want, "{case}");
            let reply = FlowValue { flags: FLOW_REPLY, ..value };
            let only_time = want.filter(|removal| *removal == Expired);
            assert_eq!(
                removal(&key, &reply, &serving, &BTreeSet::new(), NOW_NS),
                only_time,
                "{case}: its reply"
            );
            let tcp = FlowKey { protocol: TCP, ..key };
            assert_eq!(removal(&tcp, &value, &serving, &BTreeSet::new(), NOW_NS), None, "{case}: TCP");
        }
    }

    #[test]
    fn tcp_that_was_led_past_rules_goes_and_what_the_redirector_has_stays() {
        let of = |address: &str| FrontendKey { protocol: TCP, ..frontend_key(address, 0) };
        let ruled: BTreeSet<FrontendKey> = [of("10.96.0.1"), of("203.0.113.1")].into();
        let serving = Serving::new(tables(&[EndpointState::Ready]));
        for (case, dialled, backend, protocol, flags, want) in [
            ("past them", "10.96.0.1", ("10.0.0.1", 5353), TCP, 0, true),
            ("by another address", "203.0.113.1", ("10.0.0.1", 5353), TCP, 0, true),
            ("to the redirector", "203.0.113.1", ("10.96.0.1", 53), TCP, 0, false),
            ("another Service", "10.96.0.2", ("10.0.0.1", 5353), TCP, 0, false),
            ("its reply", "10.96.0.1", ("10.0.0.1", 5353), TCP, FLOW_REPLY, false),
            ("pieces", "10.96.0.1", ("10.0.0.1", 5353), TCP, FLOW_CUT, false),
            ("UDP", "10.96.0.1", ("10.0.0.1", 5353), UDP, 0, false),
        ] {
            let (key, value) = flow(dialled, backend, 0);
            let (key, value) = (FlowKey { protocol, ..key }, FlowValue { flags, ..value });
            let got = removal(&key, &value, &serving, &ruled, NOW_NS);
            assert_eq!(got, want.then_some(Removal::Ruled), "{case}");
            assert_eq!(removal(&key, &value, &serving, &BTreeSet::new(), NOW_NS), None, "{case}: no rules");
        }
    }

    #[test]
    fn connections_that_nobody_removed_and_that_are_gone_were_forgotten() {
        let mut ledger = Ledger::default();
        type Row = (&'static str, (u64, u64), u64, u32, u64);
        let rows: [Row; 8] = [
            ("the first look", (90, 100), 40, 0, 0),
            ("nothing happened", (100, 100), 40, 3, 0),
            ("three were removed", (100, 100), 37, 0, 0),
            ("five began, and are there", (105, 105), 42, 0, 0),
            ("nine began while it was looked", (105, 114), 51, 0, 0),
            ("ten more, of which six are there", (124, 124), 57, 2, 4),
            ("two were removed, one forgotten", (124, 124), 54, 0, 5),
            ("found while it was looked again", (124, 130), 60, 0, 5),
        ];
        for (case, begun, live, removed, want) in rows {
            assert_eq!(ledger.look(begun, live), want, "{case}");
            (0..removed).for_each(|_| ledger.remove());
        }
    }

    #[test]
    fn a_connection_counts_once_for_its_service() {
        let (key, value) = flow("10.96.0.1", ("10.0.0.1", 5353), 0);
        let of = |service_id, flags| (key, FlowValue { service_id, flags, ..value });
        let (over, old) = flow("10.96.0.1", ("10.0.0.1", 5353), 120);
        let entries = [
            of(7, 0),
            of(7, FLOW_REPLY),
            of(7, FLOW_CUT),
            of(8, 0),
            of(8, FLOW_REPLY),
            of(7, 0),
            (over, FlowValue { service_id: 8, ..old }),
        ];
        assert_eq!(by_service(&entries, NOW_NS), [(7, 2), (8, 1)].into());
    }

    #[test]
    fn what_was_read_amid_a_change_decides_nothing() {
        let (key, value) = flow("10.96.0.1", ("10.0.0.9", 5353), 0);
        let whole = tables(&[EndpointState::Ready]);
        type Break = fn(&mut Tables);
        let breaks: [(&str, Break); 4] = [
            ("no names yet", |tables| tables.services.clear()),
            ("a slot is missing", |tables| tables.slots.clear()),
            ("a slot is another's", |tables| {
                tables.slots.values_mut().for_each(|slot| slot.service_id = 8);
            }),
            ("a backend is missing", |tables| tables.backends.clear()),
        ];
        for (case, make) in breaks {
            let mut tables = whole.clone();
            make(&mut tables);
            assert_eq!(
                removal(&key, &value, &Serving::new(tables), &BTreeSet::new(), NOW_NS),
                None,
                "{case}"
            );
        }
        assert_eq!(
            removal(&key, &value, &Serving::new(whole), &BTreeSet::new(), NOW_NS),
            Some(Removal::NotServing)
        );
    }
}
