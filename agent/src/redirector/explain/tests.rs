//! What is explained is what requests meet: rows of DestinationRules.

use http::HeaderValue;
use serde_json::{Value, json};

use super::*;

/// reviews with two endpoints, a rule that leads to it, and a DestinationRule with this policy.
fn snapshot(policy: &Value, affinity_s: u32) -> Snapshot {
    let meta = json!({"name": "reviews", "namespace": "shop"});
    let endpoints = json!([{"address": "10.0.0.1:8080"}, {"address": "10.0.0.2:8080"}]);
    let snapshot = json!({
        "domain": "cluster.local",
        "services": [{"namespace": "shop", "name": "reviews", "ports": [{
            "name": "http", "port": 80, "frontends": ["10.96.0.1:80"], "endpoints": endpoints,
            "affinityTimeoutS": affinity_s,
        }]}],
        "virtualServices": [{"apiVersion": "networking.istio.io/v1", "kind": "VirtualService", "metadata": meta,
            "spec": {"hosts": ["reviews"], "http": [{"route": [{"destination": {"host": "reviews"}}]}]}}],
        "destinationRules": [{"apiVersion": "networking.istio.io/v1", "kind": "DestinationRule", "metadata": meta,
            "spec": {"host": "reviews", "trafficPolicy": policy}}],
    });
    serde_json::from_value(snapshot).unwrap()
}

fn ask(snapshot: Snapshot, from: &str, path: &str, headers: &[(&'static str, &'static str)]) -> Answer {
    let headers =
        headers.iter().map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_static(value)));
    let question = Question {
        from: from.to_owned(),
        dialled: "10.96.0.1:80".parse().unwrap(),
        authority: "reviews".to_owned(),
        method: "GET".to_owned(),
        path: path.to_owned(),
        headers: headers.collect(),
    };
    explain(snapshot, &question).unwrap()
}

#[test]
fn the_choice_of_an_endpoint() {
    let by = |hash: Value| json!({"loadBalancer": {"consistentHash": hash}});
    let simple = |name: &str| json!({"loadBalancer": {"simple": name}});
    for (case, policy, affinity_s, from, want) in [
        ("nothing said", json!({}), 0, "host", "the least busy of two out of 2"),
        ("LEAST_REQUEST", simple("LEAST_REQUEST"), 0, "host", "the least busy of two out of 2"),
        ("RANDOM", simple("RANDOM"), 0, "host", "one of 2, at random"),
        ("PASSTHROUGH", simple("PASSTHROUGH"), 0, "host", "one of 2, at random"),
        ("ROUND_ROBIN", simple("ROUND_ROBIN"), 0, "host", "one of 2, in turn"),
        (
            "header",
            by(json!({"httpHeaderName": "x-user"})),
            0,
            "host",
            "a hash of header x-user chooses 10.0.0.",
        ),
        (
            "no such header",
            by(json!({"httpHeaderName": "x-other"})),
            0,
            "host",
            "a hash of header x-other chooses, which this request has not: the least busy of two out of 2",
        ),
        (
            "query",
            by(json!({"httpQueryParameterName": "q"})),
            0,
            "host",
            "a hash of query parameter q chooses 10.0.0.",
        ),
        (
            "cookie",
            by(json!({"httpCookie": {"name": "c", "ttl": "0s"}})),
            0,
            "host",
            "a hash of cookie c chooses, which this request has not: the least busy",
        ),
        (
            "address",
            by(json!({"useSourceIp": true})),
            0,
            "10.1.0.1",
            "a hash of the client's address chooses 10.0.0.",
        ),
        (
            "address, unknown",
            by(json!({"useSourceIp": true})),
            0,
            "host",
            "a hash of the client's address chooses one of 2; write --from ADDRESS to see which",
        ),
        (
            "affinity",
            json!({}),
            10,
            "10.1.0.1",
            "a hash of the client's address, for the Service's session affinity, chooses 10.0.0.",
        ),
    ] {
        let answer = ask(snapshot(&policy, affinity_s), from, "/?q=1", &[("x-user", "jason")]);
        let to = &answer.destinations[0];
        assert!(to.choice.starts_with(want), "{case}: {}", to.choice);
        assert!(answer.answered && to.fault.is_none() && !to.leaves_out, "{case}: {answer:?}");
    }
}

#[test]
fn tls_to_endpoints_answers_503_and_is_explained_so() {
    for (mode, fault) in [("DISABLE", false), ("SIMPLE", true)] {
        let answer = ask(snapshot(&json!({"tls": {"mode": mode}}), 0), "host", "/", &[]);
        assert_eq!(answer.destinations[0].fault.is_some(), fault, "{mode}: {answer:?}");
        assert_eq!(answer.answered, !fault, "{mode}: {answer:?}");
    }
}

#[test]
fn endpoints_that_may_be_left_out_are_spoken_of() {
    let answer =
        ask(snapshot(&json!({"outlierDetection": {"consecutive5xxErrors": 3}}), 0), "host", "/", &[]);
    assert!(answer.destinations[0].leaves_out, "{answer:?}");
}
