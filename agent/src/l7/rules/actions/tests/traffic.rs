//! Weights, faults, mirrors.

use std::time::Duration;

use super::*;

/// Shares of the destinations in percent, from evenly spread draws.
fn shares(weights: &[u32]) -> Vec<u32> {
    let entries = weights.iter().map(|weight| json!({"destination": {"host": "reviews"}, "weight": weight}));
    let routes = routes(&json!({"route": entries.collect::<Vec<_>>()}));
    let selected = selected(&routes, &Request::new("GET /"));
    let mut hits = vec![0; weights.len()];
    for i in 0..1_000_u64 {
        let (index, _) = selected.pick(((i << 32) / 1_000) as u32).unwrap();
        hits[index] += 1;
    }
    hits.iter().map(|hits| (hits + 5) / 10).collect()
}

#[test]
fn weight() {
    for (case, weights, want) in [
        ("one, no weight", vec![0], vec![100]),
        ("one, weight 1", vec![1], vec![100]),
        ("sum is 100", vec![75, 25], vec![75, 25]),
        ("sum is not 100", vec![1, 3], vec![25, 75]),
        ("zero gets nothing", vec![0, 5, 0, 5], vec![0, 50, 0, 50]),
        ("large", vec![i32::MAX as u32; 4], vec![25; 4]),
    ] {
        assert_eq!(shares(&weights), want, "{case}");
    }
}

#[test]
fn fault() {
    let delay = |percent: Value| json!({"delay": {"fixedDelay": "2s", "percentage": percent}});
    let abort = |status: Value, percent: f64| {
        let mut abort = status;
        abort["percentage"] = json!({"value": percent});
        json!({"abort": abort})
    };
    let http = || json!({"httpStatus": 503});
    let late = Some(Duration::from_secs(2));
    for (case, fault, draws, want) in [
        ("percentage absent is none", delay(Value::Null), (0.0, 0.0), (None, None)),
        ("all", delay(json!({"value": 100})), (100.0, 0.0), (late, None)),
        ("half, below", delay(json!({"value": 50})), (49.9, 0.0), (late, None)),
        ("half, above", delay(json!({"value": 50})), (50.1, 0.0), (None, None)),
        ("smallest step, below", delay(json!({"value": 0.0001})), (0.000_05, 0.0), (late, None)),
        ("smallest step, above", delay(json!({"value": 0.0001})), (0.000_2, 0.0), (None, None)),
        ("old percent", json!({"delay": {"fixedDelay": "2s", "percent": 50}}), (40.0, 0.0), (late, None)),
        ("http", abort(http(), 100.0), (0.0, 99.9), (None, Some(Abort::Http(503)))),
        ("http, not now", abort(http(), 10.0), (0.0, 10.1), (None, None)),
        (
            "grpc",
            abort(json!({"grpcStatus": "UNAVAILABLE"}), 100.0),
            (0.0, 0.0),
            (None, Some(Abort::Grpc(14))),
        ),
        ("status 600", abort(json!({"httpStatus": 600}), 100.0), (0.0, 0.0), (None, Some(Abort::Http(600)))),
    ] {
        let routes = routes(&json!({"fault": fault}));
        let route = selected(&routes, &Request::new("GET /")).rule().route().unwrap();
        let injected = route.fault.as_ref().unwrap().decide(draw(draws.0), draw(draws.1));
        assert_eq!((injected.delay, injected.abort), want, "{case}");
    }
}

#[test]
fn delay_and_abort_are_independent() {
    let half = json!({"value": 50});
    let delay = json!({"fixedDelay": "2s", "percentage": half});
    let fault = json!({"delay": delay, "abort": {"httpStatus": 500, "percentage": half}});
    let routes = routes(&json!({"fault": fault}));
    let route = selected(&routes, &Request::new("GET /")).rule().route().unwrap();
    for (delayed, aborted) in [(true, true), (true, false), (false, true), (false, false)] {
        let at = |hit: bool| draw(if hit { 10.0 } else { 90.0 });
        let injected = route.fault.as_ref().unwrap().decide(at(delayed), at(aborted));
        assert_eq!((injected.delay.is_some(), injected.abort.is_some()), (delayed, aborted));
    }
}

#[test]
fn grpc_status_names() {
    for (name, code, http) in [
        ("OK", 0, 200),
        ("CANCELLED", 1, 499),
        ("NOT_FOUND", 5, 404),
        ("UNAUTHENTICATED", 16, 401),
        ("INTERNAL", 13, 500),
    ] {
        let routes = routes(&json!({"fault": {"abort": {"grpcStatus": name, "percentage": {"value": 100}}}}));
        let route = selected(&routes, &Request::new("GET /")).rule().route().unwrap();
        let abort = route.fault.as_ref().unwrap().decide(0, 0).abort;
        assert_eq!((abort, grpc_to_http(code)), (Some(Abort::Grpc(code)), http), "{name}");
    }
}

#[test]
fn mirror() {
    let a = json!({"host": "ratings", "port": {"number": 8080}});
    for (case, fields, want) in [
        ("absent percentage is all", json!({"mirror": a}), vec![Some(100.0)]),
        ("zero is none", json!({"mirror": a, "mirrorPercentage": {"value": 0}}), vec![None]),
        ("old percent", json!({"mirror": a, "mirrorPercent": 50}), vec![Some(50.0)]),
        (
            "new beats old",
            json!({"mirror": a, "mirrorPercent": 50, "mirrorPercentage": {"value": 10}}),
            vec![Some(10.0)],
        ),
        (
            "several",
            json!({"mirrors": [{"destination": a}, {"destination": a, "percentage": {"value": 1}}]}),
            vec![Some(100.0), Some(1.0)],
        ),
    ] {
        let routes = routes(&fields);
        let selected = selected(&routes, &Request::new("GET /"));
        let mirrors = &selected.rule().route().unwrap().mirrors;
        assert_eq!(mirrors.len(), want.len(), "{case}");
        for ((mirror, target), want) in mirrors.iter().zip(&selected.client_rule.mirrors).zip(want) {
            assert_eq!(
                (target.host.as_ref(), target.port),
                ("ratings.shop.svc.cluster.local", 8080),
                "{case}"
            );
            match want {
                None => assert!(!mirror.share.hits(0), "{case}"),
                Some(percent) => {
                    assert!(mirror.share.hits(draw(percent * 0.99)), "{case}");
                    assert!(percent == 100.0 || !mirror.share.hits(draw(percent * 1.01)), "{case}");
                }
            }
        }
    }
    assert!(
        read("vs", 0, json!({"hosts": ["a"], "http": [{"route": to("a"), "mirrors": []}]})).value.is_some()
    );
}
