//! Objects with every field, broken in every place: reading must not panic, and must notice.

use super::*;

const JUNK: &str = r#"[null, true, -1, 1e300, "", "(", "*%", [[]], {"": {}}]"#;

pub(super) fn whole_virtual_service() -> Value {
    let destination = json!({"host": "reviews", "subset": "v1", "port": {"number": 80}});
    let operations = json!({"set": {"x-a": "%PROTOCOL%"}, "add": {"x-b": "1"}, "remove": ["x-c"]});
    let headers = json!({"request": operations, "response": operations});
    let entry = json!({
        "name": "m", "uri": {"prefix": "/a"}, "ignoreUriCase": true, "scheme": {"exact": "http"},
        "method": {"exact": "GET"}, "authority": {"prefix": "r"}, "headers": {"x": {"exact": "1"}},
        "withoutHeaders": {"y": {}}, "queryParams": {"q": {"regex": "a"}}, "port": 80,
        "sourceLabels": {"app": "web"}, "sourceNamespace": "web", "statPrefix": "p",
    });
    json!({
        "hosts": ["reviews", "*.example.com"], "gateways": ["mesh"], "exportTo": ["."],
        "http": [
            {
                "name": "r", "match": [entry],
                "route": [
                    {"destination": destination, "weight": 1, "headers": headers},
                    {"destination": destination, "weight": 2},
                ],
                "rewrite": {"uriRegexRewrite": {"match": "b", "rewrite": "c"}, "authority": "a"},
                "timeout": "1s",
                "retries": {"attempts": 1, "perTryTimeout": "1s", "retryOn": "5xx", "backoff": "25ms",
                    "retryRemoteLocalities": true, "retryIgnorePreviousHosts": true},
                "fault": {
                    "delay": {"percentage": {"value": 1.5}, "fixedDelay": "1s"},
                    "abort": {"percentage": {"value": 1}, "grpcStatus": "UNAVAILABLE"},
                },
                "mirrors": [{"destination": destination, "percentage": {"value": 1}}],
                "corsPolicy": {
                    "allowOrigins": [{"exact": "a"}], "allowMethods": ["GET"], "allowHeaders": ["a"],
                    "exposeHeaders": ["b"], "maxAge": "1h", "allowCredentials": true,
                    "unmatchedPreflights": "FORWARD",
                },
                "headers": headers,
            },
            {"match": [entry], "redirect": {"prefixRewrite": "/", "authority": "a", "port": 80,
                "scheme": "https", "redirectCode": 302}},
            {"directResponse": {"status": 200, "body": {"bytes": "aGk="}}},
            {"delegate": {"name": "leaf", "namespace": "web"}},
        ],
        "tls": [{
            "match": [{"sniHosts": ["a.example.com"], "destinationSubnets": ["10.0.0.0/8"], "port": 443,
                "sourceLabels": {"a": "b"}, "sourceNamespace": "web", "gateways": ["mesh"]}],
            "route": [{"destination": destination, "weight": 1}],
        }],
        "tcp": [{
            "match": [{"destinationSubnets": ["fd00::/8"], "port": 1, "sourceLabels": {"a": "b"},
                "sourceNamespace": "web", "gateways": ["mesh"]}],
            "route": [{"destination": destination}],
        }],
    })
}

pub(super) fn whole_destination_rule() -> Value {
    let policy = json!({
        "loadBalancer": {"consistentHash": {"httpCookie": {"name": "c", "path": "/", "ttl": "1s",
            "attributes": [{"name": "a", "value": "b"}]}, "ringHash": {"minimumRingSize": 1}},
            "localityLbSetting": {"distribute": [{"from": "*", "to": {"r/z": 100}}]}, "warmup": {"duration": "1s", "minimumPercent": 10, "aggression": 1}},
        "connectionPool": {
            "tcp": {"maxConnections": 1, "connectTimeout": "1s", "idleTimeout": "1s",
                "maxConnectionDuration": "1s",
                "tcpKeepalive": {"probes": 1, "time": "1s", "interval": "1s"}},
            "http": {"http1MaxPendingRequests": 1, "http2MaxRequests": 1, "maxRequestsPerConnection": 1,
                "maxRetries": 1, "idleTimeout": "1s", "h2UpgradePolicy": "DEFAULT", "useClientProtocol": true,
                "maxConcurrentStreams": 1, "http2KeepAlive": {"interval": "1s", "timeout": "1s"}},
        },
        "outlierDetection": {"consecutive5xxErrors": 1, "consecutiveGatewayErrors": 1,
            "splitExternalLocalOriginErrors": true, "consecutiveLocalOriginFailures": 1, "interval": "1s",
            "baseEjectionTime": "1s", "maxEjectionPercent": 1, "minHealthPercent": 1},
        "tls": {"mode": "MUTUAL", "credentialName": "c", "subjectAltNames": ["a"], "sni": "a",
            "insecureSkipVerify": true, "clientCertificate": "/a", "privateKey": "/b",
            "caCertificates": "/c"},
    });
    let mut whole = policy.clone();
    whole["portLevelSettings"] = json!([policy]);
    whole["portLevelSettings"][0]["port"] = json!({"number": 80});
    whole["proxyProtocol"] = json!({"version": "V2"});
    whole["retryBudget"] = json!({"percent": 20.5, "minRetryConcurrency": 3});
    json!({
        "host": "reviews", "exportTo": ["."], "workloadSelector": {"matchLabels": {"a": "b"}},
        "subsets": [{"name": "v1", "labels": {"v": "1"}, "trafficPolicy": whole}],
        "trafficPolicy": whole,
    })
}

/// Pointers to all values within `value`.
pub(super) fn pointers(value: &Value, at: &str, found: &mut Vec<String>) {
    found.push(at.to_owned());
    let escape = |name: &str| name.replace('~', "~0").replace('/', "~1");
    for (name, inner) in value.as_object().into_iter().flatten() {
        pointers(inner, &format!("{at}/{}", escape(name)), found);
    }
    for (i, inner) in value.as_array().into_iter().flatten().enumerate() {
        pointers(inner, &format!("{at}/{i}"), found);
    }
}

/// Maps whose keys are the user's.
fn has_free_keys(pointer: &str) -> bool {
    let free = [
        "headers",
        "withoutHeaders",
        "queryParams",
        "sourceLabels",
        "set",
        "add",
        "labels",
        "matchLabels",
        "to",
    ];
    let last = pointer.rsplit('/').next().unwrap_or_default();
    let in_match = pointer.contains("/match/");
    free.contains(&last) && (last != "headers" || in_match)
}

fn check(whole: &Value, errors: impl Fn(Value) -> usize) {
    assert_eq!(errors(whole.clone()), 0, "the whole object is accepted");
    let junk: Vec<Value> = serde_json::from_str(JUNK).unwrap();
    let mut places = Vec::new();
    pointers(whole, "", &mut places);
    for place in places {
        for junk in &junk {
            let mut broken = whole.clone();
            *broken.pointer_mut(&place).unwrap() = junk.clone();
            // Only that it returns; what is wrong differs from place to place.
            errors(broken);
        }
        let mut stranger = whole.clone();
        let Some(fields) = stranger.pointer_mut(&place).unwrap().as_object_mut() else { continue };
        fields.insert("zebra".to_owned(), json!(1));
        if !has_free_keys(&place) {
            assert!(errors(stranger) > 0, "an unknown field at {place:?}");
        }
    }
}

#[test]
fn a_virtual_service_that_is_broken_anywhere() {
    let severe =
        |message: &&super::super::super::Message| message.severity == super::super::super::Severity::Error;
    check(&whole_virtual_service(), |spec| read("vs", 0, spec).messages.iter().filter(severe).count());
}

#[test]
fn a_destination_rule_that_is_broken_anywhere() {
    let severe =
        |message: &&super::super::super::Message| message.severity == super::super::super::Severity::Error;
    check(&whole_destination_rule(), |spec| {
        read_rule("dr", json!({}), spec).messages.iter().filter(severe).count()
    });
}
