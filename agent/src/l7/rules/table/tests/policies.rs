//! Rows of the table of DestinationRules: lookup, merging, what is refused.

use super::super::super::{SimpleBalancer, TlsMode};
use super::*;

fn simple(name: &str) -> Value {
    json!({"loadBalancer": {"simple": name}})
}

/// The balancer that holds for a client of a destination.
fn balancer(
    rules: Vec<Arc<DestinationRule>>,
    pod: &Pod,
    subset: Option<&str>,
) -> (TargetState, Option<SimpleBalancer>) {
    let destination = json!({"host": "reviews", "subset": subset});
    let spec = json!({"hosts": ["reviews"], "http": [{"route": [{"destination": destination}]}]});
    let client_routes = routes(vec![accept("vs", 0, spec)], rules).for_client(&pod.client());
    let request = Request::new("GET /");
    let Selection::Rule(selected) = client_routes.select(&request.view()) else { panic!("no rule") };
    let (_, target) = selected.pick(0).unwrap();
    let policy = target.policy.as_ref();
    (target.state, policy.and_then(|policy| policy.traffic.load_balancer.as_ref()?.simple))
}

#[test]
fn lookup() {
    let rule = |name: &str, host: &str, export: &str, kind: &str| {
        accept_rule(name, json!({"host": host, "exportTo": [export], "trafficPolicy": simple(kind)}))
    };
    let random = |name, host, export| rule(name, host, export, "RANDOM");
    let robin = |name, host, export| rule(name, host, export, "ROUND_ROBIN");
    let (is_random, is_robin) = (Some(SimpleBalancer::Random), Some(SimpleBalancer::RoundRobin));
    for (case, rules, namespace, want) in [
        ("Service's namespace", vec![random("dr", "reviews", "*")], Some("web"), is_random),
        ("Service's namespace, no pod", vec![random("dr", "reviews", "*")], None, is_random),
        ("not exported", vec![random("dr", "reviews", ".")], Some("web"), None),
        (
            "client's namespace first",
            vec![random("dr", "reviews", "*"), robin("web/dr", REVIEWS, ".")],
            Some("web"),
            is_robin,
        ),
        (
            "client's namespace, even by wildcard",
            vec![random("dr", "reviews", "*"), robin("web/dr", "*.local", "*")],
            Some("web"),
            is_robin,
        ),
        ("others' namespaces do not count", vec![robin("api/dr", REVIEWS, "*")], Some("web"), None),
        ("root namespace last", vec![robin("istio-system/dr", "*.local", "*")], Some("web"), is_robin),
        (
            "root namespace after the Service's",
            vec![robin("istio-system/dr", REVIEWS, "*"), random("dr", "*.local", "*")],
            Some("web"),
            is_random,
        ),
        (
            "most specific host",
            vec![random("a", "*.local", "*"), robin("b", "reviews", "*")],
            Some("web"),
            is_robin,
        ),
    ] {
        assert_eq!(balancer(rules, &Pod::new(namespace, ""), None), (TargetState::Ready, want), "{case}");
    }
}

#[test]
fn workload_selector() {
    let general = accept_rule("a", json!({"host": "reviews", "trafficPolicy": simple("RANDOM")}));
    let selector = json!({"matchLabels": {"app": "web"}});
    let policy = simple("ROUND_ROBIN");
    let selected = json!({"host": "reviews", "trafficPolicy": policy, "workloadSelector": selector});
    let rules = vec![general, accept_rule("b", selected)];
    for (case, pod, want) in [
        ("selected", Pod::new(Some("shop"), "app=web"), SimpleBalancer::RoundRobin),
        ("other labels", Pod::new(Some("shop"), "app=api"), SimpleBalancer::Random),
        ("other namespace", Pod::new(Some("web"), "app=web"), SimpleBalancer::Random),
        ("no pod", Pod::new(None, ""), SimpleBalancer::Random),
    ] {
        assert_eq!(balancer(rules.clone(), &pod, None).1, Some(want), "{case}");
    }
}

#[test]
fn rules_for_the_same_host_are_merged() {
    let robin = simple("ROUND_ROBIN");
    let rules = vec![
        accept_rule(
            "a",
            json!({"host": "reviews", "trafficPolicy": simple("RANDOM"), "subsets": [{"name": "v1"}]}),
        ),
        accept_rule(
            "b",
            json!({"host": REVIEWS, "trafficPolicy": robin,
                "subsets": [{"name": "v1", "trafficPolicy": robin}, {"name": "v2"}]}),
        ),
    ];
    let pod = Pod::new(None, "");
    for (case, subset, want) in [
        ("first policy", None, (TargetState::Ready, Some(SimpleBalancer::Random))),
        ("first of two subsets", Some("v1"), (TargetState::Ready, Some(SimpleBalancer::Random))),
        ("second's subset", Some("v2"), (TargetState::Ready, Some(SimpleBalancer::Random))),
        ("nobody's subset", Some("v3"), (TargetState::UnknownSubset, None)),
    ] {
        assert_eq!(balancer(rules.clone(), &pod, subset), want, "{case}");
    }
    let set = RuleSet::new(Mesh::default(), Vec::new(), rules);
    assert_eq!(
        json!(findings(&set)),
        json!({"shop/b": [
            "spec.subsets[0]: DestinationRule shop/a, which is older, has this subset already",
            "spec.trafficPolicy: DestinationRule shop/a, which is older, has the policy of this host",
        ]})
    );
}

#[test]
fn a_subset_and_a_port_override_group_by_group() {
    let pool = |most: u32| json!({"tcp": {"maxConnections": most}});
    let rule = accept_rule(
        "a",
        json!({
            "host": "reviews",
            "trafficPolicy": {
                "loadBalancer": {"simple": "RANDOM"},
                "connectionPool": pool(1),
                "portLevelSettings": [{"port": {"number": 80}, "connectionPool": pool(2)}],
            },
            "subsets": [
                {"name": "plain"},
                {"name": "pool", "trafficPolicy": {"connectionPool": pool(3)}},
                {"name": "port", "trafficPolicy": {
                    "connectionPool": pool(4),
                    "portLevelSettings": [
                        {"port": {"number": 80}, "loadBalancer": {"simple": "ROUND_ROBIN"}},
                    ],
                }},
            ],
        }),
    );
    let (random, robin) = (Some(SimpleBalancer::Random), Some(SimpleBalancer::RoundRobin));
    for (case, subset, port, want) in [
        ("rule", None, 81, (random, Some(1))),
        ("port replaces four groups whole", None, 80, (None, Some(2))),
        ("subset without policy", Some("plain"), 81, (random, Some(1))),
        ("subset overrides one group", Some("pool"), 81, (random, Some(3))),
        ("subset over port", Some("pool"), 80, (None, Some(3))),
        ("port of the subset", Some("port"), 80, (robin, None)),
        ("other port of the subset", Some("port"), 81, (random, Some(4))),
    ] {
        let traffic = rule.policy(subset, port).unwrap().traffic;
        let simple = traffic.load_balancer.and_then(|balancer| balancer.simple);
        let most = traffic.connection_pool.and_then(|pool| pool.tcp).map(|tcp| tcp.max_connections);
        assert_eq!((simple, most), want, "{case}");
        assert!(traffic.port_level_settings.is_empty());
    }
}

#[test]
fn istio_mutual_is_never_silently_plaintext() {
    let policy = json!({"tls": {"mode": "ISTIO_MUTUAL"}});
    let spec = json!({"host": "reviews", "trafficPolicy": policy, "subsets": [{"name": "v1"}]});
    let refused = read_rule("a", json!({}), spec.clone());
    assert!(refused.value.is_none());
    assert!(
        texts(&refused.messages)[0]
            .starts_with("spec.trafficPolicy.tls.mode: is not supported: ISTIO_MUTUAL needs mesh identity")
    );
    let allowed = read_rule("a", json!({"sluice.dev/allow-plaintext": "true"}), spec);
    let policy = allowed.value.unwrap().policy(Some("v1"), 80).unwrap();
    assert_eq!(policy.traffic.tls.unwrap().mode, TlsMode::Disable);
    assert_eq!(
        texts(&allowed.messages),
        ["spec.trafficPolicy.tls.mode: ISTIO_MUTUAL is sent in plain text, as sluice.dev/allow-plaintext \
             says"]
    );
}

#[test]
fn what_is_refused_or_not_honoured() {
    let policy = |policy: Value| json!({"host": "a", "trafficPolicy": policy});
    for (case, spec, accepted, want) in [
        ("wildcard host", json!({"host": "*.a.com"}), true, ""),
        ("no host", json!({}), false, "spec.host: \"\": is no DNS name"),
        (
            "unknown field",
            json!({"host": "a", "subset": []}),
            false,
            "spec.subset: unknown field; did you mean `subsets`?",
        ),
        (
            "subset twice",
            json!({"host": "a", "subsets": [{"name": "v"}, {"name": "v"}]}),
            false,
            "spec.subsets[1].name: \"v\" is there twice",
        ),
        (
            "subset without a name",
            json!({"host": "a", "subsets": [{}]}),
            false,
            "spec.subsets[0].name: is missing",
        ),
        (
            "selector and exportTo",
            json!({"host": "a", "exportTo": ["*"], "workloadSelector": {"matchLabels": {"a": "b"}}}),
            false,
            "spec.exportTo: must be `.` beside workloadSelector, which concerns pods of this namespace only",
        ),
        (
            "tunnel",
            policy(json!({"tunnel": {}})),
            false,
            "spec.trafficPolicy.tunnel: is not supported: destinations are reached directly",
        ),
        (
            "zoneAware",
            policy(json!({"loadBalancer": {"zoneAwareLbSetting": {}}})),
            false,
            "spec.trafficPolicy.loadBalancer.zoneAwareLbSetting: is not supported: use localityLbSetting",
        ),
        (
            "balancer",
            policy(simple("FASTEST")),
            false,
            "spec.trafficPolicy.loadBalancer.simple: unknown variant `FASTEST`, expected one of \
             `UNSPECIFIED`, `LEAST_REQUEST`, `LEAST_CONN`, `RANDOM`, `ROUND_ROBIN`, `PASSTHROUGH`",
        ),
        (
            "LEAST_CONN",
            policy(simple("LEAST_CONN")),
            true,
            "spec.trafficPolicy.loadBalancer.simple: LEAST_CONN is deprecated and means LEAST_REQUEST",
        ),
        (
            "hash by two keys",
            policy(json!({"loadBalancer": {"consistentHash": {"useSourceIp": true, "httpHeaderName": "a"}}})),
            false,
            "spec.trafficPolicy.loadBalancer.consistentHash: needs exactly one of httpHeaderName, \
             httpCookie, useSourceIp and \
             httpQueryParameterName",
        ),
        ("hash", policy(json!({"loadBalancer": {"consistentHash": {"useSourceIp": true}}})), true, ""),
        (
            "cookie that ends early",
            policy(
                json!({"loadBalancer": {"consistentHash": {"httpCookie": {"name": "a", "path": "/; x"}}}}),
            ),
            false,
            "spec.trafficPolicy.loadBalancer.consistentHash.httpCookie.path: \"/; x\" cannot stand in a cookie",
        ),
        (
            "cookie of two words",
            policy(json!({"loadBalancer": {"consistentHash": {"httpCookie": {"name": "a b"}}}})),
            false,
            "spec.trafficPolicy.loadBalancer.consistentHash.httpCookie.name: \"a b\" is no name of a cookie",
        ),
        (
            "limits",
            policy(json!({"connectionPool": {"http": {"http1MaxPendingRequests": 1, "http2MaxRequests": 2,
                "maxRequestsPerConnection": 3, "maxRetries": 4, "idleTimeout": "1s"}},
                "retryBudget": {"percent": 25}})),
            true,
            "",
        ),
        ("streams", policy(json!({"connectionPool": {"http": {"maxConcurrentStreams": 1}}})), true, ""),
        (
            "pings",
            policy(
                json!({"connectionPool": {"http": {"http2KeepAlive": {"interval": "5s", "timeout": "1s"}}}}),
            ),
            true,
            "",
        ),
        (
            "pings without pause",
            policy(json!({"connectionPool": {"http": {"http2KeepAlive": {"interval": "0s"}}}})),
            false,
            "spec.trafficPolicy.connectionPool.http.http2KeepAlive.interval: is less than 1ms",
        ),
        (
            "pings at no time",
            policy(json!({"connectionPool": {"http": {"http2KeepAlive": {"timeout": "1s"}}}})),
            true,
            "spec.trafficPolicy.connectionPool.http.http2KeepAlive: has no interval: no pings are sent",
        ),
        (
            "retry budget",
            policy(json!({"retryBudget": {"percent": 101}})),
            false,
            "spec.trafficPolicy.retryBudget.percent: 101 is not within 0 to 100",
        ),
        (
            "outliers",
            policy(json!({"outlierDetection": {"consecutive5xxErrors": 1, "maxEjectionPercent": 50}})),
            true,
            "",
        ),
        (
            "outliers among few",
            policy(json!({"outlierDetection": {"consecutive5xxErrors": 1}})),
            true,
            "spec.trafficPolicy.outlierDetection.maxEjectionPercent: with less than 10 endpoints none is \
             left out: that would be more than 10 %",
        ),
        (
            "outliers, never",
            policy(json!({"outlierDetection": {"maxEjectionPercent": 0}})),
            true,
            "spec.trafficPolicy.outlierDetection.maxEjectionPercent: is 0: no endpoint is ever left out",
        ),
        (
            "connections",
            policy(json!({"connectionPool": {"tcp": {"maxConnections": 5}}})),
            true,
            "spec.trafficPolicy.connectionPool.tcp.maxConnections: counts per client pod on this node",
        ),
        (
            "upgrade",
            policy(json!({"connectionPool": {"http": {"h2UpgradePolicy": "UPGRADE"}}})),
            true,
            "spec.trafficPolicy.connectionPool.http.h2UpgradePolicy: is not honoured: endpoints are spoken \
             to as the client speaks",
        ),
        (
            "ejection percent",
            policy(json!({"outlierDetection": {"maxEjectionPercent": 101}})),
            false,
            "spec.trafficPolicy.outlierDetection.maxEjectionPercent: 101 is not within 0 to 100",
        ),
        (
            "tls",
            json!({"host": "a", "subsets": [{"name": "v", "trafficPolicy": {"tls": {"mode": "SIMPLE"}}}]}),
            true,
            "spec.subsets[0].trafficPolicy.tls.mode: is not honoured yet: requests are answered 503 rather \
             than sent in plain text",
        ),
        (
            "port's tls",
            policy(json!({"portLevelSettings": [{"port": {"number": 80}, "tls": {"mode": "ISTIO_MUTUAL"}}]})),
            false,
            "spec.trafficPolicy.portLevelSettings[0].tls.mode: is not supported: ISTIO_MUTUAL needs mesh \
             identity; use DISABLE, SIMPLE or MUTUAL, or annotate the rule with sluice.dev/allow-plaintext: \
             \"true\"",
        ),
        (
            "port",
            policy(json!({"portLevelSettings": [{}]})),
            false,
            "spec.trafficPolicy.portLevelSettings[0].port.number: 0 is not within 1 to 65535",
        ),
    ] {
        let read = read_rule("a", json!({}), spec);
        assert_eq!(read.value.is_some(), accepted, "{case}");
        assert_eq!(texts(&read.messages).join("\n"), want, "{case}");
    }
}
