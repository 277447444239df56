//! Tables of what an event is shown as, and to whom.

use bytemuck::Zeroable as _;
use sluice_common::layout::{Name, TCP, UDP};

use super::*;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// A socket of network namespace 4711 that dialled shop/cart and was led to a backend.
fn connect() -> EventValue {
    EventValue {
        netns: 4711,
        dialled: Addr::from(ip("10.96.0.1")),
        dialled_port_be: 80_u16.to_be(),
        backend: Addr::from(ip("10.244.0.9")),
        backend_port_be: 8080_u16.to_be(),
        protocol: TCP,
        reason: Reason::ConnectTranslated as u8,
        hook: EventHook::Connect4 as u8,
        verdict: EventVerdict::Pass as u8,
        service_id: 7,
        backend_id: 12,
        ..EventValue::zeroed()
    }
}

/// A packet of a client outside that was dropped.
fn packet() -> EventValue {
    EventValue {
        client: Addr::from(ip("2001:db8::2")),
        client_port_be: 40_000_u16.to_be(),
        dialled: Addr::from(ip("2001:db8:50::10")),
        dialled_port_be: 53_u16.to_be(),
        protocol: UDP,
        ifindex: 2,
        reason: Reason::SourceNotAllowed as u8,
        hook: EventHook::FromNetwork as u8,
        verdict: EventVerdict::Drop as u8,
        service_id: 8,
        ..EventValue::zeroed()
    }
}

fn service(name: &str, port_name: &str) -> Option<ServiceValue> {
    Some(ServiceValue {
        namespace: Name::new("shop"),
        name: Name::new(name),
        port_name: Name::new(port_name),
        port_be: 80_u16.to_be(),
        ..ServiceValue::zeroed()
    })
}

fn pod(namespace: &str, name: &str) -> Option<PodValue> {
    Some(PodValue { namespace: Name::new(namespace), name: Name::new(name) })
}

fn of_connect() -> EventNames {
    EventNames {
        service: service("cart", "http"),
        node: Some(NodeValue { name: Name::new("node-2"), ..NodeValue::zeroed() }),
        pod: pod("shop", "cart-1"),
        client: Some(SocketClient::Pod(vec![ip("fd00::7"), ip("10.244.0.7")])),
        client_pod: pod("shop", "visitor"),
        device: None,
    }
}

fn of_packet() -> EventNames {
    EventNames { service: service("dns", ""), device: Some("eth0".to_owned()), ..EventNames::default() }
}

#[test]
fn verdicts_are_those_of_explain() {
    use EventVerdict::{Drop, Pass, Refuse, Send};
    for (did, reason, want) in [
        (Pass, Reason::ConnectTranslated, "translate"),
        (Send, Reason::PacketTranslated, "translate"),
        (Pass, Reason::Redirected, "translate"),
        (Pass, Reason::OptedOut, "pass"),
        (Pass, Reason::NoLocalEndpoints, "pass"),
        (Drop, Reason::NoLocalEndpoints, "drop"),
        (Refuse, Reason::NoEndpoints, "reject"),
        (Send, Reason::NoEndpoints, "reject"),
        (Pass, Reason::UnknownPort, "pass"),
        (Send, Reason::TooBig, "reject"),
        (Drop, Reason::TooBig, "drop"),
        (Send, Reason::EchoAnswered, "answer"),
        (Pass, Reason::NoRedirector, "pass"),
        (Drop, Reason::UnlistedPort, "drop"),
    ] {
        let event = EventValue { verdict: did as u8, reason: reason as u8, ..connect() };
        assert_eq!(verdict(&event), want, "{did:?} {reason:?}");
    }
    for (event, case) in [
        (EventValue { verdict: 0, ..connect() }, "no such verdict"),
        (EventValue { reason: 255, ..connect() }, "no such reason"),
    ] {
        assert_eq!(verdict(&event), "?", "{case}");
        assert!(!EventFilter { drops: true, ..EventFilter::default() }.admits(&event, &of_connect()));
    }
}

#[test]
fn lines_say_who_dialled_what_and_where_that_led() {
    const AT: i128 = 1_795_455_050_123_456_789;
    let besides = Reason::AffinityKept.bit() | Reason::NoRedirector.bit();
    let host = EventNames { client: Some(SocketClient::Host), ..of_connect() };
    for (event, names, want) in [
        (
            connect(),
            of_connect(),
            "17:30:50.123 connect4 translate connect_translated \
             10.244.0.7 → 10.96.0.1:80/TCP → 10.244.0.9:8080 shop/cart:http by shop/cart-1 on node-2",
        ),
        (
            EventValue { besides, ..connect() },
            host,
            "17:30:50.123 connect4 translate connect_translated+affinity_kept+no_redirector \
             host → 10.96.0.1:80/TCP → 10.244.0.9:8080 shop/cart:http by shop/cart-1 on node-2",
        ),
        (
            packet(),
            of_packet(),
            "17:30:50.123 from_network@eth0 drop source_not_allowed \
             [2001:db8::2]:40000 → [2001:db8:50::10]:53/UDP shop/dns:80",
        ),
        (
            EventValue { reason: Reason::FragmentUnknown as u8, verdict: 1, ..EventValue::zeroed() },
            EventNames::default(),
            "17:30:50.123 ? pass fragment_unknown ? → ?",
        ),
        (
            EventValue { backend: Addr::UNSPECIFIED, backend_port_be: 0, ..connect() },
            EventNames::default(),
            "17:30:50.123 connect4 translate connect_translated netns 4711 → 10.96.0.1:80/TCP ?:?",
        ),
    ] {
        let row = event_row(&event, &names, AT);
        let words: Vec<String> = row.line().split_whitespace().map(str::to_owned).collect();
        assert_eq!(words.join(" "), want);
        assert_eq!(row.time, "2026-11-23T17:30:50.123456Z");
    }
}

#[test]
fn keys_of_the_json_stay() {
    let json = serde_json::to_value(event_row(&connect(), &of_connect(), 0)).unwrap();
    let want = serde_json::json!({
        "time": "1970-01-01T00:00:00.000000Z", "hook": "connect4", "verdict": "translate",
        "reason": "connect_translated", "besides": [], "protocol": "TCP", "client": "10.244.0.7",
        "clientPod": "shop/visitor", "clientPort": null, "netns": 4711, "dialled": "10.96.0.1:80", "backend": "10.244.0.9:8080",
        "pod": "shop/cart-1", "node": "node-2", "service": "shop/cart", "port": "http", "serviceId": 7, "backendId": 12, "device": null,
    });
    assert_eq!(json, want);
    let json = serde_json::to_value(event_row(&packet(), &of_packet(), 0)).unwrap();
    assert_eq!((&json["clientPort"], &json["device"]), (&40_000.into(), &"eth0".into()));
    assert_eq!((&json["backend"], &json["netns"], &json["backendId"]), (&().into(), &().into(), &().into()));
}

#[test]
fn filters_choose() {
    let none = EventFilter::default;
    let service = |name: &str| EventFilter { service: Some(ObjectName::new("shop", name)), ..none() };
    let pod =
        |namespace: &str, name: &str| EventFilter { pod: Some(ObjectName::new(namespace, name)), ..none() };
    let from = |text| EventFilter { from: Some(EventClient::Address(ip(text))), ..none() };
    let to = |text, port| EventFilter { to: Some((ip(text), port)), ..none() };
    let reason = |reasons: &[Reason]| EventFilter { reasons: reasons.to_vec(), ..none() };
    let host = EventFilter { from: Some(EventClient::Host), ..none() };
    let of = |protocol| EventFilter { protocol: Some(protocol), ..none() };
    for (case, filter, want) in [
        ("none", none(), [true, true]),
        ("drops", EventFilter { drops: true, ..none() }, [false, true]),
        ("service", service("cart"), [true, false]),
        ("another service", service("car"), [false, false]),
        ("the backend's pod", pod("shop", "cart-1"), [true, false]),
        ("the client's", pod("shop", "visitor"), [true, false]),
        ("another pod", pod("shop", "cart"), [false, false]),
        ("of another namespace", pod("store", "cart-1"), [false, false]),
        ("a pod by one of its addresses", from("10.244.0.7"), [true, false]),
        ("by the other", from("fd00::7"), [true, false]),
        ("mapped", from("::ffff:10.244.0.7"), [true, false]),
        ("outside", from("2001:db8::2"), [false, true]),
        ("host", host, [false, false]),
        ("dialled", to("10.96.0.1", None), [true, false]),
        ("with its port", to("10.96.0.1", Some(80)), [true, false]),
        ("with another", to("10.96.0.1", Some(81)), [false, false]),
        ("the backend is not dialled", to("10.244.0.9", None), [false, false]),
        ("TCP", of(Protocol::Tcp), [true, false]),
        ("UDP", of(Protocol::Udp), [false, true]),
        ("a reason", reason(&[Reason::SourceNotAllowed]), [false, true]),
        ("two", reason(&[Reason::SourceNotAllowed, Reason::ConnectTranslated]), [true, true]),
        ("both that and this", EventFilter { drops: true, ..service("cart") }, [false, false]),
    ] {
        let met = [filter.admits(&connect(), &of_connect()), filter.admits(&packet(), &of_packet())];
        assert_eq!(met, want, "{case}");
    }
    let kept = EventValue { besides: Reason::AffinityKept.bit(), ..connect() };
    assert!(reason(&[Reason::AffinityKept]).admits(&kept, &of_connect()), "besides counts too");
    let host = EventNames { client: Some(SocketClient::Host), ..of_connect() };
    assert!(EventFilter { from: Some(EventClient::Host), ..none() }.admits(&connect(), &host));
}

#[test]
fn the_self_probe_is_known_by_its_service() {
    assert!(is_of_probe(&EventValue { service_id: PROBE_ID, ..connect() }));
    assert!(!is_of_probe(&connect()));
    assert!(!is_of_probe(&EventValue { service_id: 0, ..packet() }));
}
