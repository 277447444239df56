//! Retries and timeouts.

use std::time::Duration;

use http::StatusCode;

use super::*;

fn policy(retries: Value) -> RetryPolicy {
    let fields = if retries.is_null() { json!({}) } else { json!({"retries": retries}) };
    let routes = routes(&fields);
    selected(&routes, &Request::new("GET /")).rule().route().unwrap().retries.clone()
}

/// Outcomes as words: a status with a header, or what broke.
fn should_retry(policy: &RetryPolicy, outcome: &str, retried: u32) -> bool {
    let (status, header) = outcome.split_once(' ').unwrap_or((outcome, ""));
    let headers = Request::new(&format!("GET /\n{header}")).headers;
    let outcome = match status {
        "connect-failure" => Outcome::ConnectFailure,
        "refused" => Outcome::RefusedStream,
        "reset" => Outcome::Reset,
        "reset-early" => Outcome::ResetBeforeRequest,
        "per-try-timeout" => Outcome::PerTryTimeout,
        code => Outcome::Response(StatusCode::from_bytes(code.as_bytes()).unwrap(), &headers),
    };
    policy.should_retry(outcome, retried)
}

#[test]
fn defaults() {
    let unset = policy(Value::Null);
    assert_eq!((unset.attempts, unset.per_try_timeout, unset.ignore_previous_hosts), (2, None, true));
    for (outcome, want) in [
        ("connect-failure", true),
        ("refused", true),
        ("200 grpc-status: 14", true),
        ("200 grpc-status: 1", true),
        ("200 grpc-status: 4", false),
        ("503", false),
        ("reset", false),
        ("reset-early", false),
        ("per-try-timeout", false),
    ] {
        assert_eq!(should_retry(&unset, outcome, 0), want, "{outcome}");
        assert_eq!(
            should_retry(&policy(json!({"attempts": 3})), outcome, 2),
            want,
            "{outcome}, attempts only"
        );
    }
}

#[test]
fn attempts() {
    for (case, retries, retried, want) in [
        ("first", json!(null), 0, true),
        ("second", json!(null), 1, true),
        ("third", json!(null), 2, false),
        ("off", json!({"attempts": 0}), 0, false),
        ("attempts left out", json!({"retryIgnorePreviousHosts": false}), 0, false),
        ("one", json!({"attempts": 1}), 1, false),
    ] {
        assert_eq!(should_retry(&policy(retries), "connect-failure", retried), want, "{case}");
    }
    assert!(!policy(json!({"attempts": 1, "retryIgnorePreviousHosts": false})).ignore_previous_hosts);
}

#[test]
fn retry_on() {
    for (on, yes, no) in [
        (
            "5xx",
            vec!["500", "503", "connect-failure", "refused", "reset", "per-try-timeout"],
            vec!["409", "200 grpc-status: 14"],
        ),
        ("gateway-error", vec!["502", "503", "504", "reset", "per-try-timeout"], vec!["500", "501", "505"]),
        ("reset", vec!["reset", "reset-early", "connect-failure", "per-try-timeout"], vec!["503"]),
        ("reset-before-request", vec!["reset-early", "connect-failure"], vec!["reset", "per-try-timeout"]),
        (
            "connect-failure",
            vec!["connect-failure"],
            vec!["reset", "reset-early", "refused", "per-try-timeout"],
        ),
        ("retriable-4xx", vec!["409"], vec!["404", "429", "503"]),
        ("refused-stream", vec!["refused"], vec!["reset"]),
        ("418,503", vec!["418", "503"], vec!["502", "reset"]),
        ("retriable-status-codes , 429", vec!["429"], vec!["503"]),
        ("retriable-headers,http3-post-connect-failure", vec![], vec!["503", "reset", "connect-failure"]),
        ("envoy-ratelimited", vec!["429 x-envoy-ratelimited: true"], vec!["429"]),
        ("5xx,429", vec!["429"], vec!["429 x-envoy-ratelimited: true"]),
        ("cancelled", vec!["200 grpc-status: 1"], vec!["200 grpc-status: 14", "200"]),
        ("deadline-exceeded", vec!["200 grpc-status: 4"], vec!["200 grpc-status: 1", "504"]),
        ("resource-exhausted", vec!["200 grpc-status: 8"], vec!["429"]),
        ("internal", vec!["200 grpc-status: 13"], vec!["500"]),
        ("unavailable", vec!["200 grpc-status: 14"], vec!["503"]),
    ] {
        let policy = policy(json!({"attempts": 1, "retryOn": on}));
        for (outcomes, want) in [(yes, true), (no, false)] {
            for outcome in outcomes {
                assert_eq!(should_retry(&policy, outcome, 0), want, "{on}: {outcome}");
            }
        }
    }
}

#[test]
fn per_try_timeout_without_retry_on_fails_at_the_first_try() {
    let policy = policy(json!({"attempts": 3, "perTryTimeout": "2s"}));
    assert_eq!(policy.per_try_timeout, Some(Duration::from_secs(2)));
    assert!(!should_retry(&policy, "per-try-timeout", 0));
}

#[test]
fn backoff() {
    let unset = policy(Value::Null);
    let slow = policy(json!({"attempts": 9, "backoff": "1s"}));
    for (case, policy, retry, draw, want_ms) in [
        ("lowest", &unset, 1, 0.0, 0),
        ("first, highest", &unset, 1, 100.0, 25),
        ("first, middle", &unset, 1, 50.0, 12),
        ("second", &unset, 2, 100.0, 75),
        ("third", &unset, 3, 100.0, 175),
        ("fourth is capped", &unset, 4, 100.0, 250),
        ("hundredth", &unset, 100, 100.0, 250),
        ("own base", &slow, 1, 100.0, 1_000),
        ("own base, capped", &slow, 9, 100.0, 10_000),
    ] {
        let got = policy.backoff(retry, super::draw(draw)).as_micros();
        assert!(got.abs_diff(want_ms * 1_000) <= 1_000, "{case}: {got} us");
    }
}

#[test]
fn timeout() {
    let routes = routes(&json!({}));
    let unset = selected(&routes, &Request::new("GET /")).rule().route().unwrap().timeout;
    assert_eq!(unset, None, "off by default");
    let s = |seconds: u64| Some(Duration::from_secs(seconds));
    for (case, rule, request, want, sent) in [
        ("none", None, "GET /", None, None),
        ("rule", s(5), "GET /", s(5), None),
        ("gRPC alone", None, "GET /\ngrpc-timeout: 3S", s(3), None),
        ("gRPC is shorter", s(5), "GET /\ngrpc-timeout: 3000m", s(3), None),
        ("gRPC is capped", s(5), "GET /\ngrpc-timeout: 1M", s(5), Some("5000m")),
        ("gRPC, hours", s(5), "GET /\ngrpc-timeout: 2H", s(5), Some("5000m")),
        ("nine digits", s(5), "GET /\ngrpc-timeout: 123456789n", s(5), None),
        ("no number", s(5), "GET /\ngrpc-timeout: S", s(5), None),
        ("no unit", s(5), "GET /\ngrpc-timeout: 5", s(5), None),
    ] {
        let headers = Request::new(request).headers;
        let got = request_deadline(rule, &headers);
        assert_eq!(got, want, "{case}");
        assert_eq!(capped_grpc_timeout(got, &headers).as_deref(), sent, "{case}");
    }
}
