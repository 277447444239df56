//! Delegates: finding them, merging matches and actions.

use super::*;

fn root(rule: Value) -> Arc<VirtualService> {
    accept("root", 0, json!({"hosts": ["reviews"], "http": [rule]}))
}

fn leaf(rules: Value) -> Arc<VirtualService> {
    accept("web/leaf", 0, json!({"http": rules}))
}

fn delegate(entries: Value) -> Value {
    json!({"match": entries, "delegate": {"name": "leaf", "namespace": "web"}})
}

#[test]
fn a_delegates_match_narrows_the_roots() {
    let uri = |kind: &str, text: &str| json!([{"uri": {kind: text}}]);
    for (case, outer, inner, request, want) in [
        ("root says nothing", json!([]), uri("prefix", "/a"), "GET /a", "leaf"),
        ("delegate says nothing", uri("prefix", "/a"), json!([]), "GET /a", "leaf"),
        ("delegate says nothing, other path", uri("prefix", "/a"), json!([]), "GET /b", "404"),
        ("narrower prefix", uri("prefix", "/a"), uri("prefix", "/a/b"), "GET /a/b", "leaf"),
        ("narrower prefix, outside", uri("prefix", "/a"), uri("prefix", "/a/b"), "GET /a/c", "404"),
        ("exact within prefix", uri("prefix", "/a"), uri("exact", "/a/b"), "GET /a/b", "leaf"),
        ("wider prefix is dropped", uri("prefix", "/a/b"), uri("prefix", "/a"), "GET /a/b", "service"),
        ("prefix in exact is dropped", uri("exact", "/a"), uri("prefix", "/a"), "GET /a", "service"),
        ("equal regexes conflict", uri("regex", "/a+"), uri("regex", "/a+"), "GET /a", "service"),
        (
            "regex within prefix cannot be told",
            uri("prefix", "/a"),
            uri("regex", "/ab"),
            "GET /ab",
            "service",
        ),
        (
            "headers add up",
            json!([{"headers": {"x": {"exact": "1"}}}]),
            json!([{"headers": {"y": {}}}]),
            "GET /\nx: 1\ny: 2",
            "leaf",
        ),
        (
            "headers add up, one missing",
            json!([{"headers": {"x": {"exact": "1"}}}]),
            json!([{"headers": {"y": {}}}]),
            "GET /\ny: 2",
            "404",
        ),
        (
            "other header value is dropped",
            json!([{"headers": {"x": {"exact": "1"}}}]),
            json!([{"headers": {"x": {"exact": "2"}}}]),
            "GET /\nx: 2",
            "service",
        ),
        ("other port is dropped", json!([{"port": 80}]), json!([{"port": 8080}]), "GET /", "service"),
        ("port of the root", json!([{"port": 80}]), uri("exact", "/a"), "GET /a", "leaf"),
        (
            "every pair",
            json!([{"uri": {"prefix": "/a"}}, {"uri": {"prefix": "/b"}}]),
            json!([{"uri": {"exact": "/b/c"}}, {"method": {"exact": "PUT"}}]),
            "PUT /b/x",
            "leaf",
        ),
    ] {
        let leaf = leaf(json!([{"name": "leaf", "match": inner, "route": to(REVIEWS)}]));
        let routes = routes(vec![root(delegate(outer)), leaf], Vec::new());
        assert_eq!(decide(&routes, &Pod::new(None, ""), request), want, "{case}");
    }
}

#[test]
fn a_delegate_must_be_there_and_visible() {
    let rule = json!([{"route": to(REVIEWS)}]);
    let other = |spec: Value| accept("web/leaf", 0, spec);
    for (case, leaf, want) in [
        ("visible", Some(other(json!({"http": rule}))), None),
        ("visible by name", Some(other(json!({"http": rule, "exportTo": ["shop"]}))), None),
        ("missing", None, Some("there is no VirtualService web/leaf; this rule is skipped")),
        (
            "private",
            Some(other(json!({"http": rule, "exportTo": ["."]}))),
            Some("VirtualService web/leaf is not exported to namespace shop; this rule is skipped"),
        ),
        (
            "with hosts",
            Some(other(json!({"http": rule, "hosts": ["a"]}))),
            Some("VirtualService web/leaf has hosts of its own; this rule is skipped"),
        ),
    ] {
        let objects = [root(delegate(json!([])))].into_iter().chain(leaf).collect();
        let set = RuleSet::new(Mesh::default(), objects, Vec::new());
        let found: Vec<_> = set.findings().values().flatten().map(ToString::to_string).collect();
        let want: Vec<_> = want.into_iter().map(|text| format!("spec.http[0].delegate: {text}")).collect();
        assert_eq!(found, want, "{case}");
    }
}

#[test]
fn an_object_without_hosts_that_nobody_delegates_to_is_told() {
    for (case, roots, want) in [
        ("delegated to", vec![root(delegate(json!([])))], 0),
        ("not delegated to", vec![root(json!({"route": to("reviews")}))], 1),
    ] {
        let leaf = leaf(json!([{"route": to(REVIEWS)}]));
        let set = RuleSet::new(Mesh::default(), roots.into_iter().chain([leaf]).collect(), Vec::new());
        assert_eq!(set.findings().len(), want, "{case}");
    }
}

#[test]
fn the_root_fills_what_the_delegate_leaves_open() {
    let mut rule = delegate(json!([]));
    rule["name"] = json!("root");
    rule["timeout"] = json!("5s");
    rule["retries"] = json!({"attempts": 7});
    let leaf = leaf(json!([
        {"name": "a", "match": [{"uri": {"exact": "/a"}}], "timeout": "1s", "route": to(REVIEWS)},
        {"match": [{"uri": {"exact": "/b"}}], "redirect": {"uri": "/c"}},
        {"route": to("ratings")},
    ]));
    let set = RuleSet::new(Mesh::default(), vec![root(rule), leaf], Vec::new());
    let rules = &set.virtual_services[0].http;
    let shape = |rule: &Arc<HttpRule>| {
        let route = rule.route().map(|route| {
            (
                route.timeout.unwrap().as_secs(),
                route.retries.attempts,
                route.destinations[0].name.host.to_string(),
            )
        });
        (rule.name.to_string(), rule.place.to_string(), route)
    };
    let shapes: Vec<_> = rules.iter().map(shape).collect();
    assert_eq!(
        shapes,
        [
            ("root-a".to_owned(), "http[0] > http[0]".to_owned(), Some((1, 7, REVIEWS.to_owned()))),
            ("root".to_owned(), "http[0] > http[1]".to_owned(), None),
            (
                "root".to_owned(),
                "http[0] > http[2]".to_owned(),
                Some((5, 7, "ratings.web.svc.cluster.local".to_owned()))
            ),
        ]
    );
}
