//! Rows of the table of TLS and TCP rules.

use super::*;

fn tls_routes(rules: Value) -> Routes {
    let spec = json!({"hosts": ["reviews", "*.example.com"], "tls": rules});
    routes(vec![accept("vs", 0, spec)], Vec::new())
}

fn tcp_routes(rules: Value) -> Routes {
    routes(vec![accept("vs", 0, json!({"hosts": ["reviews"], "tcp": rules}))], Vec::new())
}

#[test]
fn tls_match() {
    let rule = |entry: Value| json!({"match": [entry], "route": to("reviews")});
    let routes = tls_routes(json!([
        rule(json!({"sniHosts": ["a.example.com"], "port": 8443})),
        rule(json!({"sniHosts": ["a.example.com"], "sourceLabels": {"app": "web"}})),
        rule(json!({"sniHosts": ["A.example.com", REVIEWS]})),
        rule(json!({"sniHosts": ["*.example.com"]})),
    ]));
    assert!(routes.has_tls() && !routes.has_tcp() && !routes.has_http());
    for (case, labels, name, want) in [
        ("exact", "", Some("a.example.com"), Some("tls[2]")),
        ("upper case", "", Some("A.EXAMPLE.com"), Some("tls[2]")),
        ("own name", "", Some(REVIEWS), Some("tls[2]")),
        ("wildcard", "", Some("x.y.example.com"), Some("tls[3]")),
        ("wildcard is not its suffix", "", Some("example.com"), None),
        ("first match, by label", "app=web", Some("a.example.com"), Some("tls[1]")),
        ("no name", "", None, None),
    ] {
        let pod = Pod::new(Some("shop"), labels);
        let client_routes = routes.for_client(&pod.client());
        let chosen = client_routes.select_tls(name).map(|rule| rule.rule.place.as_ref());
        assert_eq!(chosen, want, "{case}");
    }
}

#[test]
fn tcp_match() {
    let rule = |entry: Value| json!({"match": [entry], "route": to("reviews")});
    let pod = Pod::new(Some("shop"), "app=web");
    let dialled = Some("10.96.0.1".parse().unwrap());
    for (case, rules, want) in [
        ("no match takes all", json!([{"route": to("reviews")}]), Some("tcp[0]")),
        ("port", json!([rule(json!({"port": 81})), rule(json!({"port": 80}))]), Some("tcp[1]")),
        ("label", json!([rule(json!({"sourceLabels": {"app": "web"}}))]), Some("tcp[0]")),
        ("other label", json!([rule(json!({"sourceLabels": {"app": "api"}}))]), None),
        ("namespace", json!([rule(json!({"sourceNamespace": "shop"}))]), Some("tcp[0]")),
        ("other namespace", json!([rule(json!({"sourceNamespace": "web"}))]), None),
        ("gateway", json!([rule(json!({"gateways": ["gw"]}))]), None),
        ("subnet", json!([rule(json!({"destinationSubnets": ["10.96.0.0/16"]}))]), Some("tcp[0]")),
        ("other subnet", json!([rule(json!({"destinationSubnets": ["10.0.0.0/24", "fd00::/8"]}))]), None),
    ] {
        let client_routes = tcp_routes(rules).for_client(&Client { dialled, ..pod.client() });
        assert_eq!(client_routes.select_tcp().map(|rule| rule.rule.place.as_ref()), want, "{case}");
    }
}

#[test]
fn connections_are_spread_by_weight() {
    let route = json!([
        {"destination": {"host": "reviews"}, "weight": 1},
        {"destination": {"host": "ratings"}, "weight": 3},
    ]);
    let client_routes = tcp_routes(json!([{"route": route}])).for_client(&Pod::new(None, "").client());
    let rule = client_routes.select_tcp().unwrap();
    let host = |draw| rule.pick(draw).unwrap().host.split('.').next().unwrap().to_owned();
    assert_eq!(host(0), "reviews");
    assert_eq!(host((1 << 30) - 1), "reviews");
    assert_eq!(host(1 << 30), "ratings");
    assert_eq!(host(u32::MAX), "ratings");
}

#[test]
fn what_is_refused() {
    for (case, spec, want) in [
        (
            "no match",
            json!({"tls": [{"route": to("a")}]}),
            "spec.tls[0].match: is missing: tls rules match by sniHosts",
        ),
        (
            "no names",
            json!({"tls": [{"match": [{"port": 1}], "route": to("a")}]}),
            "spec.tls[0].match[0].sniHosts: is missing",
        ),
        (
            "other name",
            json!({"tls": [{"match": [{"sniHosts": ["b.com"]}], "route": to("a")}]}),
            "spec.tls[0].match[0].sniHosts[0]: \"b.com\" is not among spec.hosts",
        ),
        ("no route", json!({"tcp": [{}]}), "spec.tcp[0].route: is missing"),
        (
            "sourceSubnet",
            json!({"tcp": [{"match": [{"sourceSubnet": "10.0.0.0/8"}], "route": to("a")}]}),
            "spec.tcp[0].match[0].sourceSubnet: is not supported: use sourceLabels or sourceNamespace",
        ),
        (
            "subnet",
            json!({"tcp": [{"match": [{"destinationSubnets": ["ten"]}], "route": to("a")}]}),
            "spec.tcp[0].match[0].destinationSubnets[0]: \"ten\" is no address or prefix",
        ),
        (
            "weights",
            json!({"tcp": [{"route": [{"destination": {"host": "a"}}, {"destination": {"host": "b"}}]}]}),
            "spec.tcp[0].route: total destination weight = 0",
        ),
        (
            "HTTP field",
            json!({"tcp": [{"match": [{"uri": {}}], "route": to("a")}]}),
            "spec.tcp[0].match[0].uri: unknown field",
        ),
    ] {
        let mut spec = spec;
        spec["hosts"] = json!(["a"]);
        let read = read("vs", 0, spec);
        assert!(read.value.is_none(), "{case}");
        assert_eq!(texts(&read.messages), [want], "{case}");
    }
}

#[test]
fn a_rule_that_no_connection_reaches() {
    let rule = |entry: Value| json!({"match": [entry], "route": to("reviews")});
    let all = || json!({"route": to("reviews")});
    let sni = |names: &[&str]| rule(json!({"sniHosts": names}));
    for (case, list, first, second, want) in [
        ("after a catch-all", "tcp", all(), rule(json!({"port": 80})), true),
        ("two catch-alls", "tcp", all(), all(), true),
        ("after the same port", "tcp", rule(json!({"port": 80})), rule(json!({"port": 80})), true),
        ("after another port", "tcp", rule(json!({"port": 81})), rule(json!({"port": 80})), false),
        ("after a port", "tcp", rule(json!({"port": 80})), all(), false),
        ("after one for a gateway", "tcp", rule(json!({"gateways": ["gw"]})), all(), false),
        (
            "fewer labels first",
            "tcp",
            rule(json!({"sourceLabels": {"a": "b"}})),
            rule(json!({"sourceLabels": {"a": "b", "c": "d"}})),
            true,
        ),
        (
            "more labels first",
            "tcp",
            rule(json!({"sourceLabels": {"a": "b", "c": "d"}})),
            rule(json!({"sourceLabels": {"a": "b"}})),
            false,
        ),
        (
            "within the same subnet",
            "tcp",
            rule(json!({"destinationSubnets": ["10.0.0.0/8"]})),
            rule(json!({"destinationSubnets": ["10.0.0.0/8"], "port": 80})),
            true,
        ),
        (
            "after a subnet",
            "tcp",
            rule(json!({"destinationSubnets": ["10.0.0.0/8"]})),
            rule(json!({"port": 80})),
            false,
        ),
        ("after its wildcard", "tls", sni(&["*.example.com"]), sni(&["a.example.com"]), true),
        ("before its wildcard", "tls", sni(&["a.example.com"]), sni(&["*.example.com"]), false),
        ("one name of two", "tls", sni(&["a.example.com"]), sni(&["a.example.com", "b.example.com"]), false),
    ] {
        let spec = json!({"hosts": ["reviews", "*.example.com"], list: [first, second]});
        let messages = texts(&read("vs", 0, spec).messages);
        let text =
            format!("spec.{list}[1]: no connection reaches this rule: {list}[0] takes all that it wants");
        assert_eq!(messages.iter().any(|message| message.starts_with(&text)), want, "{case}: {messages:?}");
    }
}
