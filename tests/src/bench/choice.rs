//! What finding the rule of a request costs, by itself: tables of 1, 10 and 500 rules, and requests that meet the last.

use std::{hint::black_box, time::Instant};

use serde_json::json;
use sluice::l7::rules::{
    Client, RequestView,
    hosts::Mesh,
    table::{ClientRoutes, KnownService, KnownServices, RuleSet, Selection, read_virtual_service},
};

use super::{Results, median};

const ROUNDS: usize = 9;
const REQUESTS: u32 = 100_000;
const HOST: &str = "web.shop.svc.cluster.local";

/// Measures; the targets are part of `bench l7`.
pub fn measure(results: &mut Results) {
    let tables = [1, 10, 500].map(|rules| (rules, table(rules)));
    let mut spent: Vec<(usize, Vec<f64>)> = tables.iter().map(|(rules, _)| (*rules, Vec::new())).collect();
    for _ in 0..ROUNDS {
        for ((_, table), (_, rounds)) in tables.iter().zip(&mut spent) {
            rounds.push(round_ns(table));
        }
    }
    for (rules, rounds) in spent {
        let ns = median(rounds);
        results.at_most(&format!("{rules} rules: finding the last, by itself"), ns, 1_000.0, "ns");
        results.runs.push(json!({"rules": rules, "chooseNs": ns}));
    }
}

/// Rules that no request meets, and the one that takes all: those of `bench l7`.
fn table(rules: usize) -> ClientRoutes {
    let route = json!([{"destination": {"host": "web"}}]);
    let never = (1..rules).map(|number| {
        let headers = json!({"x-rule": {"exact": number.to_string()}});
        let entry = json!({"uri": {"prefix": format!("/never-{number}")}, "headers": headers});
        json!({"match": [entry], "route": route})
    });
    let http: Vec<_> = never.chain([json!({"route": route})]).collect();
    let object = json!({"apiVersion": "networking.istio.io/v1", "kind": "VirtualService",
        "metadata": {"name": "web", "namespace": "shop"}, "spec": {"hosts": ["web"], "http": http}});
    let read = read_virtual_service(&object, &Mesh::default());
    let known: KnownServices =
        [(HOST.to_owned(), KnownService { namespace: "shop".to_owned(), ports: vec![80] })].into();
    let set = RuleSet::new(Mesh::default(), read.value.into_iter().collect(), Vec::new());
    set.routes(HOST, 80, &known).for_client(&Client::UNKNOWN)
}

/// Time per request, ns.
fn round_ns(table: &ClientRoutes) -> f64 {
    let mut headers = http::HeaderMap::new();
    for (name, value) in [("host", "10.96.0.1"), ("accept", "*/*"), ("user-agent", "bench/1.0")] {
        headers.insert(name, http::HeaderValue::from_static(value));
    }
    let request = RequestView {
        method: "GET",
        scheme: "http",
        authority: "10.96.0.1",
        path: "/kb",
        query: None,
        headers: &headers,
        work: None,
    };
    let started = Instant::now();
    for _ in 0..REQUESTS {
        let selection = table.select(black_box(&request));
        assert!(matches!(black_box(selection), Selection::Rule(_)), "no rule takes the request");
    }
    started.elapsed().as_secs_f64() * 1e9 / f64::from(REQUESTS)
}
