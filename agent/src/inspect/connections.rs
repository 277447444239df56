//! Rows of `sluice conntrack` and `sluice nat`: connections of the packet path.
#![expect(missing_docs, reason = "the fields are the documented keys of the JSON")]

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
};

use serde::Serialize;
use sluice_common::{
    Addr,
    layout::{
        FLOW_CUT, FLOW_REDIRECT, FLOW_REPLY, FLOW_SNAT, FLOW_TUNNEL, FlowKey, FlowValue, STATE_BACKEND_DONE,
        STATE_CLIENT_DONE, STATE_REPLIED, STATE_RESET, ServiceValue, TCP,
    },
    packet::flow,
};

use super::rows::{protocol_name, service_name};
use crate::model::ObjectName;

const NANOS_PER_SEC: u64 = 1_000_000_000;

/// A connection.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ConnectionRow {
    pub service: String,
    /// The Service port's name, or its number when it has none.
    pub port: String,
    pub protocol: &'static str,
    pub client: SocketAddr,
    pub dialled: SocketAddr,
    pub backend: SocketAddr,
    /// The client as the backend sees it.
    pub source: SocketAddr,
    /// `syn`, `established`, `closing` or `closed` for TCP, else `unreplied` or `replied`.
    pub state: &'static str,
    pub idle_seconds: u64,
    pub expires_in_seconds: u64,
    pub snat: bool,
    /// `stack`: through the node's; `redirect`: past it; `tunnel`: to the backend's node, which answers the client.
    pub path: &'static str,
}

/// A connection that goes on in the node's name.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NatRow {
    /// Address and port of the node under which the backend knows the client.
    pub node: SocketAddr,
    pub protocol: &'static str,
    pub client: SocketAddr,
    pub dialled: SocketAddr,
    pub backend: SocketAddr,
    pub service: String,
    pub port: String,
    pub state: &'static str,
    pub idle_seconds: u64,
    pub expires_in_seconds: u64,
}

/// Which connections to show.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ConnectionFilter {
    /// Only this Service's.
    pub service: Option<ObjectName>,
    /// Only this client's.
    pub client: Option<IpAddr>,
}

/// The connections that are remembered at `now_ns` of `CLOCK_MONOTONIC`, sorted by service, port and client.
pub fn connections(
    services: &HashMap<u32, ServiceValue>,
    flows: &[(FlowKey, FlowValue)],
    filter: &ConnectionFilter,
    now_ns: u64,
) -> Vec<ConnectionRow> {
    let shown = flows.iter().filter(|(key, value)| {
        let is_of_client = value.flags & (FLOW_REPLY | FLOW_CUT) == 0;
        is_of_client && flow::is_live(value, key.protocol, now_ns) && filter.admits(services, key, value)
    });
    let mut rows: Vec<_> = shown.map(|(key, value)| row(services, key, value, now_ns)).collect();
    rows.sort();
    rows
}

/// Those of `connections` that go on in the node's name, sorted by that.
pub fn nats(connections: Vec<ConnectionRow>) -> Vec<NatRow> {
    let row = |row: ConnectionRow| NatRow {
        node: row.source,
        protocol: row.protocol,
        client: row.client,
        dialled: row.dialled,
        backend: row.backend,
        service: row.service,
        port: row.port,
        state: row.state,
        idle_seconds: row.idle_seconds,
        expires_in_seconds: row.expires_in_seconds,
    };
    let mut rows: Vec<_> = connections.into_iter().filter(|row| row.snat).map(row).collect();
    rows.sort();
    rows
}

impl ConnectionFilter {
    fn admits(&self, services: &HashMap<u32, ServiceValue>, key: &FlowKey, value: &FlowValue) -> bool {
        let wanted = |name: &ObjectName| {
            let service = services.get(&value.service_id);
            service.is_some_and(|service| {
                service.namespace.as_str() == name.namespace && service.name.as_str() == name.name
            })
        };
        self.client.is_none_or(|client| Addr::from(client.to_canonical()) == key.src)
            && self.service.as_ref().is_none_or(wanted)
    }
}

fn row(
    services: &HashMap<u32, ServiceValue>,
    key: &FlowKey,
    value: &FlowValue,
    now_ns: u64,
) -> ConnectionRow {
    let service = services.get(&value.service_id);
    let port = |service: &ServiceValue| match service.port_name.as_str() {
        "" => u16::from_be(service.port_be).to_string(),
        name => name.to_owned(),
    };
    let idle_seconds = now_ns.saturating_sub(value.last_seen_ns) / NANOS_PER_SEC;
    ConnectionRow {
        service: service.map_or_else(|| "?".to_owned(), service_name),
        port: service.map_or_else(|| "?".to_owned(), port),
        protocol: protocol_name(key.protocol),
        client: end(key.src, key.src_port_be),
        dialled: end(key.dst, key.dst_port_be),
        backend: end(value.dst, value.dst_port_be),
        source: end(value.src, value.src_port_be),
        state: state(key.protocol, value.state),
        idle_seconds,
        expires_in_seconds: flow::timeout_s(key.protocol, value.state).saturating_sub(idle_seconds),
        snat: value.flags & FLOW_SNAT != 0,
        path: path(value.flags),
    }
}

fn end(address: Addr, port_be: u16) -> SocketAddr {
    SocketAddr::new(address.into(), u16::from_be(port_be))
}

const fn state(protocol: u8, state: u8) -> &'static str {
    let replied = state & STATE_REPLIED != 0;
    if protocol != TCP {
        return if replied { "replied" } else { "unreplied" };
    }
    const BOTH: u8 = STATE_CLIENT_DONE | STATE_BACKEND_DONE;
    if state & STATE_RESET != 0 || state & BOTH == BOTH {
        return "closed";
    }
    match (state & BOTH != 0, replied) {
        (true, _) => "closing",
        (false, true) => "established",
        (false, false) => "syn",
    }
}

const fn path(flags: u8) -> &'static str {
    if flags & FLOW_TUNNEL != 0 {
        "tunnel"
    } else if flags & FLOW_REDIRECT != 0 {
        "redirect"
    } else {
        "stack"
    }
}

#[cfg(test)]
mod tests {
    use bytemuck::Zeroable as _;
    use sluice_common::layout::{Name, UDP};

    use super::*;

    const NOW_NS: u64 = 1_000 * NANOS_PER_SEC;

    fn addr(text: &str) -> Addr {
        Addr::from(text.parse::<IpAddr>().unwrap())
    }

    /// A connection to 203.0.113.10:80 that was last seen `idle_s` ago, both its entries.
    fn flow(client: &str, protocol: u8, state: u8, flags: u8, idle_s: u64) -> [(FlowKey, FlowValue); 2] {
        let key = FlowKey {
            src: addr(client),
            dst: addr("203.0.113.10"),
            src_port_be: 40_000_u16.to_be(),
            dst_port_be: 80_u16.to_be(),
            protocol,
            pad: [0; 3],
        };
        let snat = flags & FLOW_SNAT != 0;
        let there = FlowValue {
            src: if snat { addr("192.0.2.1") } else { key.src },
            src_port_be: if snat { 61_000_u16.to_be() } else { key.src_port_be },
            dst: addr("10.0.0.1"),
            dst_port_be: 8080_u16.to_be(),
            state,
            flags,
            service_id: 7,
            last_seen_ns: NOW_NS - idle_s * NANOS_PER_SEC,
            ..FlowValue::zeroed()
        };
        let back = FlowValue {
            src: key.dst,
            dst: key.src,
            src_port_be: key.dst_port_be,
            dst_port_be: key.src_port_be,
            flags: flags | FLOW_REPLY,
            ..there
        };
        [(key, there), (there.peer(protocol), back)]
    }

    fn services() -> HashMap<u32, ServiceValue> {
        let (namespace, name) = (Name::new("shop"), Name::new("cart"));
        [(7, ServiceValue { namespace, name, port_be: 80_u16.to_be(), ..ServiceValue::zeroed() })].into()
    }

    #[test]
    fn states_follow_what_was_seen() {
        const BOTH: u8 = STATE_CLIENT_DONE | STATE_BACKEND_DONE;
        for (protocol, seen, want) in [
            (TCP, 0, "syn"),
            (TCP, STATE_REPLIED, "established"),
            (TCP, STATE_REPLIED | STATE_CLIENT_DONE, "closing"),
            (TCP, STATE_REPLIED | STATE_BACKEND_DONE, "closing"),
            (TCP, STATE_REPLIED | BOTH, "closed"),
            (TCP, STATE_RESET, "closed"),
            (UDP, 0, "unreplied"),
            (UDP, STATE_REPLIED, "replied"),
        ] {
            assert_eq!(state(protocol, seen), want, "{protocol} {seen}");
        }
    }

    #[test]
    fn each_live_connection_is_one_row_and_filters_choose() {
        let none = ConnectionFilter::default();
        let flows = [
            flow("192.168.0.2", TCP, STATE_REPLIED, FLOW_SNAT | FLOW_REDIRECT, 9),
            flow("192.168.0.1", UDP, 0, 0, 29),
            flow("192.168.0.3", UDP, 0, 0, 30),
        ]
        .concat();
        let rows = connections(&services(), &flows, &none, NOW_NS);
        let [tcp, udp] = &rows[..] else { panic!("the third has expired: {rows:?}") };
        assert_eq!((tcp.service.as_str(), tcp.port.as_str(), tcp.protocol), ("shop/cart", "80", "TCP"));
        assert_eq!(tcp.client.to_string(), "192.168.0.2:40000");
        assert_eq!(tcp.dialled.to_string(), "203.0.113.10:80");
        assert_eq!(tcp.backend.to_string(), "10.0.0.1:8080");
        assert_eq!(tcp.source.to_string(), "192.0.2.1:61000");
        assert_eq!((tcp.idle_seconds, tcp.expires_in_seconds), (9, 86_391));
        assert_eq!((tcp.snat, tcp.path), (true, "redirect"));
        assert_eq!((udp.source, udp.snat, udp.path, udp.expires_in_seconds), (udp.client, false, "stack", 1));
        let [nat] = &nats(rows.clone())[..] else { panic!("one in the node's name") };
        assert_eq!((nat.node, nat.client), (tcp.source, tcp.client));
        let client = |text: &str| ConnectionFilter { client: Some(text.parse().unwrap()), service: None };
        let service =
            |name: &str| ConnectionFilter { service: Some(ObjectName::new("shop", name)), client: None };
        for (filter, want) in [
            (client("192.168.0.1"), 1),
            (client("::ffff:192.168.0.1"), 1),
            (client("192.168.0.9"), 0),
            (service("cart"), 2),
            (service("other"), 0),
        ] {
            assert_eq!(connections(&services(), &flows, &filter, NOW_NS).len(), want, "{filter:?}");
        }
        assert_eq!(connections(&HashMap::new(), &flows, &none, NOW_NS)[0].service, "?");
    }
}
