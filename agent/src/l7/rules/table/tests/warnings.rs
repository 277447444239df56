//! What is accepted with a warning, and where destinations are unknown.

use super::*;

#[test]
fn a_rule_is_accepted_with_a_note() {
    for (case, fields, want) in [
        ("nothing to say", json!({}), ""),
        (
            "https",
            json!({"match": [{"scheme": {"exact": "https"}}]}),
            ".match[0].scheme: never matches: plain requests are `http`, and TLS passes through undecrypted",
        ),
        (
            "header uri",
            json!({"match": [{"headers": {"uri": {"exact": "/"}}}]}),
            ".match[0].headers.uri: is ignored; the field `uri` of the match is meant, or `:uri`",
        ),
        (
            "gateway match",
            json!({"match": [{"gateways": ["gw"]}]}),
            ".match[0].gateways: not bound to mesh: this match does nothing on this node",
        ),
        (
            "prefix of metrics",
            json!({"match": [{"statPrefix": "a"}]}),
            ".match[0].statPrefix: names nothing in metrics, which have the names of the VirtualService and of the rule",
        ),
        (
            "gateways and source",
            json!({"match": [{"gateways": ["mesh"], "sourceNamespace": "a"}]}),
            ".match[0]: names gateways, so that sourceLabels and sourceNamespace are not looked at",
        ),
        (
            "empty header",
            json!({"headers": {"request": {"set": {"x": ""}}}}),
            ".headers.request.set.x: an empty value changes nothing; use remove",
        ),
        (
            "fault that never happens",
            json!({"fault": {"abort": {"httpStatus": 500}}}),
            ".fault.abort.percentage: is absent, which means 0: this fault never happens",
        ),
        (
            "old percent",
            json!({"fault": {"delay": {"percent": 5, "fixedDelay": "1s"}}}),
            ".fault.delay.percent: is deprecated; use percentage.value",
        ),
        (
            "old mirror percent",
            json!({"mirror": {"host": "reviews"}, "mirrorPercent": 5}),
            ".mirrorPercent: is deprecated; use mirrorPercentage.value",
        ),
        (
            "old origins",
            json!({"corsPolicy": {"allowOrigin": ["*"]}}),
            ".corsPolicy.allowOrigin: is deprecated; use allowOrigins",
        ),
        (
            "redirect with a timeout",
            json!({"route": [], "redirect": {"uri": "/"}, "timeout": "1s"}),
            ".timeout: has no effect beside redirect",
        ),
        (
            "redirect to where the client is",
            json!({"route": [], "redirect": {"redirectCode": 302}}),
            ".redirect: leads clients back to where they are: set uri, prefixRewrite, authority, port or scheme",
        ),
        (
            "large body",
            json!({"route": [], "directResponse": {"status": 200, "body": {"string": "a".repeat(102_401)}}}),
            ".directResponse.body: has 102401 bytes, which every node keeps in memory",
        ),
    ] {
        let mut rule = json!({"route": to("reviews")});
        for (key, value) in fields.as_object().unwrap() {
            rule[key] = value.clone();
        }
        let read = read("vs", 0, json!({"hosts": ["reviews"], "http": [rule]}));
        let want: Vec<_> = want.lines().map(|line| format!("spec.http[0]{line}")).collect();
        assert_eq!(texts(&read.messages), want, "{case}");
        assert!(read.value.is_some(), "{case}");
    }
}

#[test]
fn a_rule_that_no_request_reaches() {
    let rule = |entries: Value| json!({"match": entries, "route": to("reviews")});
    let uri = |kind: &str, text: &str| json!([{"uri": {kind: text}}]);
    for (case, first, second, want) in [
        ("after a catch-all", rule(json!([])), rule(uri("exact", "/a")), true),
        ("after an empty match", rule(json!([{}])), rule(json!([])), true),
        ("after the root prefix", rule(uri("prefix", "/")), rule(uri("regex", "/a+")), true),
        ("after a shorter prefix", rule(uri("prefix", "/a")), rule(uri("prefix", "/ab")), true),
        ("after a longer prefix", rule(uri("prefix", "/ab")), rule(uri("prefix", "/a")), false),
        ("after the same regex", rule(uri("regex", "/a+")), rule(uri("regex", "/a+")), true),
        ("after another regex", rule(uri("regex", "/a+")), rule(uri("regex", "/aa+")), false),
        ("after one with a port", rule(json!([{"port": 80}])), rule(json!([])), false),
        ("after one with a source", rule(json!([{"sourceLabels": {"a": "b"}}])), rule(json!([])), false),
        ("after one for a gateway", rule(json!([{"gateways": ["gw"]}])), rule(json!([])), false),
        (
            "fewer headers first",
            rule(json!([{"headers": {"A": {}}}])),
            rule(json!([{"headers": {"a": {"exact": "1"}, "b": {}}}])),
            true,
        ),
        (
            "one entry of two is reached",
            rule(uri("prefix", "/a")),
            rule(json!([{"uri": {"exact": "/a"}}, {"uri": {"exact": "/b"}}])),
            false,
        ),
    ] {
        let read = read("vs", 0, json!({"hosts": ["reviews"], "http": [first, second]}));
        let warned = texts(&read.messages)
            .iter()
            .any(|text| text.starts_with("spec.http[1]: no request reaches this rule: http[0]"));
        assert_eq!(warned, want, "{case}");
    }
}

#[test]
fn a_destination_that_does_not_exist() {
    for (case, destination, want) in [
        ("fine", json!({"host": "ratings", "port": {"number": 8080}}), json!({})),
        (
            "service",
            json!({"host": "nobody"}),
            json!({"shop/vs": ["spec.http[0].route[0].destination: there is no Service \
                                nobody.shop.svc.cluster.local: requests get 503"]}),
        ),
        (
            "port",
            json!({"host": "ratings", "port": {"number": 1}}),
            json!({"shop/vs": ["spec.http[0].route[0].destination: Service ratings.shop.svc.cluster.local \
                                has no port 1: requests get 503"]}),
        ),
        (
            "subset",
            json!({"host": "reviews", "subset": "v1"}),
            json!({"shop/vs": ["spec.http[0].route[0].destination: no DestinationRule for \
                                reviews.shop.svc.cluster.local has subset \"v1\": requests get 503"]}),
        ),
    ] {
        let spec = json!({"hosts": ["reviews"], "http": [{"route": [{"destination": destination}]}]});
        let set = RuleSet::new(Mesh::default(), vec![accept("vs", 0, spec)], Vec::new());
        assert_eq!(json!(findings(&set)), want, "{case}");
    }
}
