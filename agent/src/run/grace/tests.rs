//! When connections end, and which.

use bytemuck::Zeroable as _;
use sluice_common::layout::{FrontendValue, Name, ServiceValue, UDP};

use super::*;

fn port(name: &str) -> Port {
    (ObjectName::new("shop", name), 80)
}

fn ports(names: &[&str]) -> BTreeSet<Port> {
    names.iter().map(|name| port(name)).collect()
}

fn key(address: &str, port: u16, scope: u8) -> FrontendKey {
    let addr = address.parse::<IpAddr>().unwrap().into();
    FrontendKey { addr, port_be: port.to_be(), protocol: TCP, scope }
}

#[test]
fn the_time_is_seconds_or_never() {
    for (text, want) in [
        ("30", Some(Some(30))),
        ("0", Some(Some(0))),
        ("never", Some(None)),
        ("86400", Some(Some(86_400))),
        ("86401", None),
        ("-1", None),
        ("soon", None),
        ("", None),
    ] {
        let time = want.map(|seconds| GraceTime(seconds.map(Duration::from_secs)));
        assert_eq!(text.parse::<GraceTime>().ok(), time, "{text}");
    }
}

#[test]
fn connections_end_once_when_the_rules_have_held_for_the_time() {
    type Steps = Vec<(u64, &'static [&'static str], &'static [&'static str])>;
    let cases: [(&str, Option<u64>, Steps); 7] = [
        (
            "at its end",
            Some(30),
            vec![(0, &["a"], &[]), (29, &["a"], &[]), (30, &["a"], &["a"]), (90, &["a"], &[])],
        ),
        ("at once", Some(0), vec![(0, &["a"], &["a"]), (1, &["a"], &[])]),
        ("never", None, vec![(0, &["a"], &[]), (100_000, &["a"], &[])]),
        ("rules that go before", Some(30), vec![(0, &["a"], &[]), (20, &[], &[]), (40, &[], &[])]),
        (
            "and come again",
            Some(30),
            vec![
                (0, &["a"], &[]),
                (20, &[], &[]),
                (25, &["a"], &[]),
                (54, &["a"], &[]),
                (55, &["a"], &["a"]),
            ],
        ),
        (
            "again after the time",
            Some(30),
            vec![
                (0, &["a"], &[]),
                (30, &["a"], &["a"]),
                (40, &[], &[]),
                (50, &["a"], &[]),
                (80, &["a"], &["a"]),
            ],
        ),
        (
            "another one later",
            Some(30),
            vec![
                (0, &["a"], &[]),
                (20, &["a", "b"], &[]),
                (30, &["a", "b"], &["a"]),
                (50, &["a", "b"], &["b"]),
            ],
        ),
    ];
    let start = Instant::now();
    for (case, time_s, steps) in cases {
        let mut grace = Grace::new(GraceTime(time_s.map(Duration::from_secs)));
        for (at_s, ruled, want) in steps {
            let now = start + Duration::from_secs(at_s);
            grace.set(&ports(ruled), now);
            assert_eq!(grace.is_due(now), !want.is_empty(), "{case} at {at_s} s");
            let addresses = [("a", "10.96.0.1"), ("b", "10.96.0.2")];
            let got = grace.take_due(now, &tables(&[key("203.0.113.1", 80, 0)]), &[]);
            let wanted = addresses.iter().filter(|(name, _)| want.contains(name));
            assert_eq!(got, wanted.map(|(_, address)| key(address, 80, 0)).collect(), "{case} at {at_s} s");
        }
    }
}

/// a at 10.96.0.1, 203.0.113.1 and the NodePort 30080, b at 10.96.0.2; without the flag where `unflagged`.
fn tables(unflagged: &[FrontendKey]) -> Tables {
    let mut tables = Tables::default();
    for (id, name) in [(1, "a"), (2, "b")] {
        let service = ServiceValue {
            namespace: Name::new("shop"),
            name: Name::new(name),
            port_be: 80_u16.to_be(),
            ..ServiceValue::zeroed()
        };
        tables.services.insert(id, service);
    }
    for (key, service_id) in [
        (key("10.96.0.1", 80, 0), 1),
        (key("203.0.113.1", 80, 0), 1),
        (key("0.0.0.0", 30_080, 1), 1),
        (key("::", 30_080, 1), 1),
        (FrontendKey { protocol: UDP, ..key("10.96.0.1", 80, 0) }, 1),
        (key("10.96.0.2", 80, 0), 2),
    ] {
        let flags = if unflagged.contains(&key) { 0 } else { FLAG_REDIRECTED };
        tables.frontends.insert(key, FrontendValue { service_id, flags, ..FrontendValue::zeroed() });
    }
    tables
}

#[test]
fn what_was_dialled_is_every_address_of_the_port_that_has_the_flag() {
    let node: Vec<IpAddr> =
        ["192.0.2.1", "127.0.0.1", "2001:db8::1"].map(|text| text.parse().unwrap()).into();
    let all: BTreeSet<FrontendKey> = [
        key("10.96.0.1", 80, 0),
        key("203.0.113.1", 80, 0),
        key("192.0.2.1", 30_080, 0),
        key("127.0.0.1", 30_080, 0),
        key("2001:db8::1", 30_080, 0),
    ]
    .into();
    let vip = key("203.0.113.1", 80, 0);
    let none = [key("10.96.0.1", 80, 0), vip, key("0.0.0.0", 30_080, 1), key("::", 30_080, 1)];
    let but_vip: BTreeSet<FrontendKey> = all.iter().copied().filter(|key| *key != vip).collect();
    let now = Instant::now();
    for (case, unflagged, want, stays) in [
        ("all of them", vec![], all, false),
        ("one is another Service's", vec![vip], but_vip, false),
        ("not written yet", none.to_vec(), BTreeSet::new(), true),
    ] {
        let mut grace = Grace::new(GraceTime(Some(Duration::ZERO)));
        grace.set(&ports(&["a"]), now);
        assert_eq!(grace.take_due(now, &tables(&unflagged), &node), want, "{case}");
        assert_eq!(grace.is_due(now), stays, "{case}");
    }
}
