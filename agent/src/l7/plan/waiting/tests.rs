//! Which forms wait, and how long.

use serde_json::json;

use super::*;
use crate::l7::rules::table::tests::{accept, accept_rule};

/// A VirtualService that leads to this subset of reviews, in some place.
fn object(subset: &str, place: &str) -> Arc<VirtualService> {
    let to = json!({"host": "reviews", "subset": subset});
    let route = json!([{"destination": to}]);
    let own = json!([{"destination": {"host": "reviews"}}]);
    accept(
        "canary",
        0,
        match place {
            "mirror" => json!({"hosts": ["reviews"], "http": [{"route": own, "mirror": to}]}),
            "mirrors" => {
                json!({"hosts": ["reviews"], "http": [{"route": own, "mirrors": [{"destination": to}]}]})
            }
            "tls" => {
                json!({"hosts": ["reviews"], "tls": [{"match": [{"sniHosts": ["reviews"]}], "route": route}]})
            }
            "tcp" => json!({"hosts": ["reviews"], "tcp": [{"route": route}]}),
            "delegate" => json!({"http": [{"route": route}]}),
            _ => json!({"hosts": ["reviews"], "http": [{"route": own}, {"route": route}]}),
        },
    )
}

fn rule(host: &str, subset: &str) -> Arc<DestinationRule> {
    accept_rule("reviews", json!({"host": host, "subsets": [{"name": subset, "labels": {"version": "v1"}}]}))
}

fn name() -> ObjectName {
    ObjectName::new("shop", "canary")
}

/// Whether the form counts at once.
fn settles(waiting: &mut Waiting, rules: &[Arc<DestinationRule>], now: Instant) -> bool {
    waiting.settle(rules, now).iter().any(|(settled, _)| *settled == name())
}

#[test]
fn a_form_waits_where_it_names_a_subset_that_no_destination_rule_has() {
    for (case, rules, place, want) in [
        ("there is none", vec![], "http", Some("spec.http[1].route[0].destination")),
        ("it is there", vec![rule("reviews", "v1")], "http", None),
        ("of all Services", vec![rule("*.shop.svc.cluster.local", "v1")], "http", None),
        ("another subset", vec![rule("reviews", "v2")], "http", Some("spec.http[1].route[0].destination")),
        ("another host", vec![rule("ratings", "v1")], "http", Some("spec.http[1].route[0].destination")),
        ("one of two", vec![rule("reviews", "v2"), rule("reviews", "v1")], "http", None),
        ("a mirror", vec![], "mirror", Some("spec.http[0].mirror")),
        ("mirrors", vec![], "mirrors", Some("spec.http[0].mirrors[0]")),
        ("tls", vec![], "tls", Some("spec.tls[0].route[0].destination")),
        ("tcp", vec![], "tcp", Some("spec.tcp[0].route[0].destination")),
        ("a delegate", vec![], "delegate", Some("spec.http[0].route[0].destination")),
    ] {
        let (mut waiting, now) = (Waiting::default(), Instant::now());
        waiting.add(name(), object("v1", place), Arc::default());
        assert_eq!(settles(&mut waiting, &rules, now), want.is_none(), "{case}");
        assert_eq!(waiting.why(&name()).map(|why| &*why.path), want, "{case}");
        assert_eq!(waiting.until(), want.map(|_| now + WAIT), "{case}");
    }
}

#[test]
fn it_waits_a_second_from_when_a_subset_was_first_missing() {
    let (start, v1, v2) = (Instant::now(), Some("v1"), Some("v2"));
    type Step = (u64, Option<&'static str>, Option<&'static str>, bool);
    let cases: [(&str, Vec<Step>); 5] = [
        ("alone", vec![(0, v1, None, false), (999, None, None, false), (1_000, None, None, true)]),
        ("the subset comes", vec![(0, v1, None, false), (300, None, v1, true)]),
        ("another subset comes", vec![(0, v1, None, false), (300, None, v2, false), (1_000, None, v2, true)]),
        (
            "a form that changes all the time",
            vec![(0, v1, None, false), (900, v2, None, false), (1_000, None, None, true)],
        ),
        (
            "the second time",
            vec![
                (0, v1, None, false),
                (1_000, None, None, true),
                (5_000, v2, None, false),
                (6_000, None, None, true),
            ],
        ),
    ];
    for (case, steps) in cases {
        let mut waiting = Waiting::default();
        for (at_ms, new, subset, want) in steps {
            if let Some(subset) = new {
                waiting.add(name(), object(subset, "http"), Arc::default());
            }
            let rules: Vec<_> = subset.map(|subset| rule("reviews", subset)).into_iter().collect();
            let now = start + Duration::from_millis(at_ms);
            assert_eq!(settles(&mut waiting, &rules, now), want, "{case} at {at_ms} ms");
            let to_come = waiting.until().is_none_or(|until| until > now);
            assert!(to_come && waiting.until().is_none() == want, "{case} at {at_ms} ms");
        }
    }
}

#[test]
fn who_delegates_to_a_form_that_waits_waits_with_it() {
    let root = || {
        let delegate = json!({"name": "canary"});
        accept("root", 0, json!({"hosts": ["reviews"], "http": [{"delegate": delegate}]}))
    };
    let (mut waiting, start, mut counts) = (Waiting::default(), Instant::now(), Vec::new());
    waiting.add(name(), object("v1", "delegate"), Arc::default());
    waiting.add(ObjectName::new("shop", "root"), root(), Arc::default());
    for (at_ms, want) in [(0, 0), (999, 0), (1_000, 2)] {
        let settled = waiting.settle(&[], start + Duration::from_millis(at_ms));
        assert_eq!(settled.len(), want, "{at_ms} ms");
        counts.extend(settled.into_iter().map(|(name, _)| name.to_string()));
    }
    assert_eq!(counts, ["shop/canary", "shop/root"]);
    // One that counts already is none of its business.
    waiting.add(ObjectName::new("shop", "root"), root(), Arc::default());
    assert_eq!(waiting.settle(&[], start).len(), 1);
}
