//! Rows of `sluice monitor`, and which events it shows.
#![expect(missing_docs, reason = "the fields are the documented keys of the JSON")]

use std::net::{IpAddr, SocketAddr};

use serde::Serialize;
use sluice_common::{
    Addr, Reason,
    layout::{EventHook, EventValue, EventVerdict, Name, NodeValue, PROBE_ID, PodValue, ServiceValue},
    packet::{ICMP, ICMPV6},
};

use super::rows::{protocol_name, service_name};
use crate::model::{ObjectName, Protocol};

/// An event.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct EventRow {
    /// UTC, RFC 3339.
    pub time: String,
    /// The program that tells.
    pub hook: &'static str,
    /// `translate`, `pass`, `reject`, `drop` or `answer`.
    pub verdict: &'static str,
    pub reason: &'static str,
    /// Reasons that were counted besides.
    pub besides: Vec<&'static str>,
    pub protocol: Option<&'static str>,
    /// An address, or `host`; none where it cannot be told.
    pub client: Option<String>,
    /// `NAMESPACE/NAME` of the client's pod, if some Service has it as an endpoint.
    pub client_pod: Option<String>,
    /// None for sockets, which have no port yet when they choose.
    pub client_port: Option<u16>,
    /// Cookie of the socket's network namespace.
    pub netns: Option<u64>,
    pub dialled: Option<SocketAddr>,
    pub backend: Option<SocketAddr>,
    /// `NAMESPACE/NAME` of the backend's pod.
    pub pod: Option<String>,
    /// The backend's node.
    pub node: Option<String>,
    /// `NAMESPACE/NAME`.
    pub service: Option<String>,
    /// The Service port's name, or its number when it has none.
    pub port: Option<String>,
    pub service_id: Option<u32>,
    pub backend_id: Option<u32>,
    /// The device at which the packet was met.
    pub device: Option<String>,
}

/// Who the client of a socket is: its network namespace.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SocketClient {
    /// The node itself.
    Host,
    /// A pod, with these addresses.
    Pod(Vec<IpAddr>),
}

/// What the numbers in an event stand for, as far as that is known.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct EventNames {
    pub service: Option<ServiceValue>,
    /// The backend's.
    pub pod: Option<PodValue>,
    /// The backend's.
    pub node: Option<NodeValue>,
    pub client_pod: Option<PodValue>,
    pub client: Option<SocketClient>,
    pub device: Option<String>,
}

/// `--from`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EventClient {
    /// The node itself.
    Host,
    /// Whoever has this address.
    Address(IpAddr),
}

/// Which events to show.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct EventFilter {
    /// Only with one of these reasons, as the outcome or besides; all if there is none.
    pub reasons: Vec<Reason>,
    /// Only what was rejected or dropped.
    pub drops: bool,
    /// Only this Service's.
    pub service: Option<ObjectName>,
    /// Only what is led to this pod, or comes from it.
    pub pod: Option<ObjectName>,
    /// Only this client's.
    pub from: Option<EventClient>,
    /// Only what is dialled at this address, and this port.
    pub to: Option<(IpAddr, Option<u16>)>,
    /// Only of this protocol.
    pub protocol: Option<Protocol>,
}

/// Whether the agent's self-probe made the event.
pub fn is_of_probe(event: &EventValue) -> bool {
    event.service_id == PROBE_ID && event.reason == Reason::ConnectTranslated as u8
}

impl EventFilter {
    /// Whether to show the event.
    pub fn admits(&self, event: &EventValue, names: &EventNames) -> bool {
        let bits = 1_u64.checked_shl(event.reason.into()).unwrap_or(0) | event.besides;
        let of_service = |wanted: &ObjectName| {
            let is_it = |service: &ServiceValue| {
                service.namespace.as_str() == wanted.namespace && service.name.as_str() == wanted.name
            };
            names.service.as_ref().is_some_and(is_it)
        };
        let of_pod = |wanted: &ObjectName| {
            let is_it = |pod: &PodValue| {
                pod.namespace.as_str() == wanted.namespace && pod.name == Name::new(&wanted.name)
            };
            [names.pod, names.client_pod].iter().flatten().any(is_it)
        };
        let of_client = |wanted: EventClient| match (wanted, &names.client) {
            (EventClient::Host, client) => *client == Some(SocketClient::Host),
            (EventClient::Address(wanted), Some(SocketClient::Pod(addresses))) => {
                addresses.contains(&wanted.to_canonical())
            }
            (EventClient::Address(wanted), _) => event.client == Addr::from(wanted),
        };
        let is_dialled = |(address, port): (IpAddr, Option<u16>)| {
            event.dialled == Addr::from(address)
                && port.is_none_or(|port| event.dialled_port_be == port.to_be())
        };
        (self.reasons.is_empty() || self.reasons.iter().any(|reason| bits & reason.bit() != 0))
            && (!self.drops || matches!(verdict(event), "reject" | "drop"))
            && self.service.as_ref().is_none_or(of_service)
            && self.pod.as_ref().is_none_or(of_pod)
            && self.from.is_none_or(of_client)
            && self.to.is_none_or(is_dialled)
            && self.protocol.is_none_or(|protocol| protocol as u8 == event.protocol)
    }
}

/// The row of an event that happened at `unix_ns`, ns since 1970.
pub fn event_row(event: &EventValue, names: &EventNames, unix_ns: i128) -> EventRow {
    let service = names.service.as_ref();
    let port = |service: &ServiceValue| match service.port_name.as_str() {
        "" => u16::from_be(service.port_be).to_string(),
        name => name.to_owned(),
    };
    // Where a socket leads is in the maps as long as a Service is.
    let or_unknown = |text: Option<String>| text.or((event.service_id != 0).then(|| "?".to_owned()));
    let number = |id: u32| (id != 0).then_some(id);
    EventRow {
        time: time(unix_ns),
        hook: EventHook::try_from(event.hook).map_or("?", EventHook::name),
        verdict: verdict(event),
        reason: reason(event.reason).map_or("?", Reason::name),
        besides: Reason::ALL.iter().filter(|it| event.besides & it.bit() != 0).map(|it| it.name()).collect(),
        protocol: match event.protocol {
            0 => None,
            ICMP => Some("ICMP"),
            ICMPV6 => Some("ICMPv6"),
            number => Some(protocol_name(number)),
        },
        client: client(event, names.client.as_ref()),
        client_pod: names.client_pod.as_ref().map(pod_name),
        client_port: (event.client_port_be != 0).then(|| u16::from_be(event.client_port_be)),
        netns: (event.netns != 0).then_some(event.netns),
        dialled: end(event.dialled, event.dialled_port_be),
        backend: end(event.backend, event.backend_port_be),
        pod: names.pod.as_ref().map(pod_name),
        node: names.node.map(|node| node.name.as_str().to_owned()),
        service: or_unknown(service.map(service_name)),
        port: or_unknown(service.map(port)),
        service_id: number(event.service_id),
        backend_id: number(event.backend_id),
        device: names.device.clone(),
    }
}

fn pod_name(pod: &PodValue) -> String {
    format!("{}/{}", pod.namespace.as_str(), pod.name.as_str())
}

fn time(unix_ns: i128) -> String {
    let time = jiff::Timestamp::from_nanosecond(unix_ns).unwrap_or_default();
    time.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string()
}

fn reason(number: u8) -> Option<Reason> {
    Reason::ALL.get(usize::from(number)).copied()
}

fn end(addr: Addr, port_be: u16) -> Option<SocketAddr> {
    let is_known = addr != Addr::UNSPECIFIED || port_be != 0;
    is_known.then(|| SocketAddr::new(addr.into(), u16::from_be(port_be)))
}

/// The client's address; a socket's is its pod's, of the family that it dials.
fn client(event: &EventValue, of_socket: Option<&SocketClient>) -> Option<String> {
    if event.client != Addr::UNSPECIFIED {
        return Some(IpAddr::from(event.client).to_string());
    }
    match of_socket? {
        SocketClient::Host => Some("host".to_owned()),
        SocketClient::Pod(addresses) => {
            let of_family = |address: &&IpAddr| address.is_ipv4() == event.dialled.is_v4();
            addresses.iter().find(of_family).or(addresses.first()).map(ToString::to_string)
        }
    }
}

/// What became of it, in the words of `sluice explain`.
fn verdict(event: &EventValue) -> &'static str {
    let Some(reason) = reason(event.reason) else { return "?" };
    match (EventVerdict::try_from(event.verdict), reason) {
        (Ok(EventVerdict::Refuse), _) => "reject",
        (Ok(EventVerdict::Drop), _) => "drop",
        (_, Reason::EchoAnswered) => "answer",
        (Ok(EventVerdict::Send), Reason::NoEndpoints | Reason::UnknownPort | Reason::TooBig) => "reject",
        (
            Ok(_),
            Reason::ConnectTranslated
            | Reason::SendTranslated
            | Reason::ReplyTranslated
            | Reason::PacketTranslated
            | Reason::IcmpTranslated
            | Reason::Redirected
            | Reason::Steered,
        ) => "translate",
        (Ok(_), _) => "pass",
        (Err(_), _) => "?",
    }
}

impl EventRow {
    /// The headings of [`Self::line`].
    pub fn headings() -> String {
        line(["TIME (UTC)", "HOOK", "VERDICT", "REASON", "CLIENT → DIALLED → BACKEND", "SERVICE"])
    }

    /// The row as a person reads it.
    pub fn line(&self) -> String {
        let at = self.device.as_ref().map_or_else(String::new, |device| format!("@{device}"));
        let besides: String = self.besides.iter().map(|reason| format!("+{reason}")).collect();
        let client = match (&self.client, self.client_port) {
            (Some(client), Some(port)) => {
                client.parse().map_or_else(|_| client.clone(), |ip| SocketAddr::new(ip, port).to_string())
            }
            (Some(client), None) => client.clone(),
            (None, _) => self.netns.map_or_else(|| "?".to_owned(), |netns| format!("netns {netns}")),
        };
        let protocol = self.protocol.unwrap_or("?");
        let dialled = self.dialled.map_or_else(|| "?".to_owned(), |dialled| format!("{dialled}/{protocol}"));
        let backend = self.backend.map_or_else(String::new, |backend| format!(" → {backend}"));
        let pod = self.pod.as_ref().map_or_else(String::new, |pod| format!(" by {pod}"));
        let node = self.node.as_ref().map_or_else(String::new, |node| format!(" on {node}"));
        let service = match (&self.service, &self.port) {
            (Some(service), Some(port)) => format!("{service}:{port}"),
            _ => String::new(),
        };
        line([
            self.time.get(11..23).unwrap_or(&self.time),
            &format!("{}{at}", self.hook),
            self.verdict,
            &format!("{}{besides}", self.reason),
            &format!("{client} → {dialled}{backend}"),
            &format!("{service}{pod}{node}"),
        ])
    }
}

/// Columns of the width that most events need.
fn line(cells: [&str; 6]) -> String {
    let [time, hook, verdict, reason, ends, service] = cells;
    let text = format!("{time:12}  {hook:17}  {verdict:9}  {reason:18}  {ends:58}  {service}");
    text.trim_end().to_owned() + "\n"
}

#[cfg(test)]
mod tests;
