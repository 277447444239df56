//! Every row of the table of HTTP matches: what matches, and in which words what does not.

use super::*;

/// For each row: the match, the request, and whether it matches.
fn check(rows: &[(&str, Value, &str, bool)]) {
    for (case, entry, request, want) in rows {
        let routes = http_routes(json!([{"name": "hit", "match": [entry], "route": to("reviews")}]));
        let want = if *want { "hit" } else { "404" };
        assert_eq!(decide(&routes, &Pod::new(None, ""), request), want, "{case}");
    }
}

#[test]
fn string_match() {
    check(&[
        ("exact", json!({"uri": {"exact": "/a"}}), "GET /a", true),
        ("exact is the whole", json!({"uri": {"exact": "/a"}}), "GET /a/", false),
        ("regex is the whole", json!({"uri": {"regex": "/a|/b"}}), "GET /ab", false),
        ("regex", json!({"uri": {"regex": "/v[0-9]+/.*"}}), "GET /v12/x", true),
        ("empty header match is presence", json!({"headers": {"x-a": {}}}), "GET /\nX-A:", true),
        ("regex star is presence", json!({"headers": {"x-a": {"regex": "*"}}}), "GET /\nx-a: 1", true),
        ("presence, absent", json!({"headers": {"x-a": {"regex": "*"}}}), "GET /", false),
    ]);
}

#[test]
fn uri() {
    check(&[
        ("without the query", json!({"uri": {"exact": "/a"}}), "GET /a?b=c", true),
        ("prefix is a string", json!({"uri": {"prefix": "/foo"}}), "GET /foobar", true),
        ("prefix, other", json!({"uri": {"prefix": "/foo"}}), "GET /fo", false),
        ("not decoded", json!({"uri": {"exact": "/a b"}}), "GET /a%20b", false),
    ]);
}

#[test]
fn ignore_uri_case() {
    let any_case = |uri: Value| json!({"uri": uri, "ignoreUriCase": true});
    check(&[
        ("exact", any_case(json!({"exact": "/Foo"})), "GET /fOO", true),
        ("prefix", any_case(json!({"prefix": "/Foo"})), "GET /fOObar", true),
        ("regex is not concerned", any_case(json!({"regex": "/Foo"})), "GET /foo", false),
        ("off", json!({"uri": {"exact": "/Foo"}}), "GET /foo", false),
    ]);
}

#[test]
fn scheme() {
    check(&[
        ("http", json!({"scheme": {"exact": "http"}}), "GET http://reviews/", true),
        ("https", json!({"scheme": {"exact": "https"}}), "GET http://reviews/", false),
    ]);
}

#[test]
fn method_and_authority() {
    check(&[
        ("method", json!({"method": {"exact": "GET"}}), "GET /", true),
        ("method minds case", json!({"method": {"exact": "get"}}), "GET /", false),
        ("method by regex", json!({"method": {"regex": "GET|HEAD"}}), "HEAD /", true),
        ("authority", json!({"authority": {"exact": "reviews"}}), "GET reviews/", true),
        ("authority with its port", json!({"authority": {"exact": "reviews"}}), "GET reviews:80/", false),
        ("authority minds case", json!({"authority": {"prefix": "reviews"}}), "GET Reviews:80/", false),
    ]);
}

#[test]
fn headers() {
    let end_user = |raw: Value| json!({"headers": {"End-User": raw}});
    check(&[
        ("exact, name in any case", end_user(json!({"exact": "jason"})), "GET /\nend-user: jason", true),
        ("value minds case", end_user(json!({"exact": "jason"})), "GET /\nend-user: Jason", false),
        ("absent", end_user(json!({"prefix": ""})), "GET /", false),
        ("several values", end_user(json!({"exact": "a,b"})), "GET /\nend-user: a\nend-user: b", true),
        ("pseudo-header :method", json!({"headers": {":method": {"exact": "GET"}}}), "GET /", true),
        (
            "pseudo-header :path has the query",
            json!({"headers": {":path": {"exact": "/a?b"}}}),
            "GET /a?b",
            true,
        ),
        (
            "pseudo-header :authority",
            json!({"headers": {":authority": {"exact": "x"}}}),
            "GET reviews/",
            false,
        ),
        ("pseudo-header :scheme", json!({"headers": {":scheme": {"exact": "http"}}}), "GET /", true),
        ("the key uri is ignored", json!({"headers": {"uri": {"exact": "/x"}}}), "GET /a", true),
    ]);
}

#[test]
fn without_headers() {
    let without = |raw: Value| json!({"withoutHeaders": {"x-a": raw}});
    check(&[
        ("other value", without(json!({"exact": "jason"})), "GET /\nx-a: bob", true),
        ("same value", without(json!({"exact": "jason"})), "GET /\nx-a: jason", false),
        ("absent counts as empty: exact", without(json!({"exact": "jason"})), "GET /", true),
        ("absent counts as empty: any", without(json!({"regex": ".*"})), "GET /", false),
        ("absent counts as empty: prefix", without(json!({"prefix": ""})), "GET /", false),
        ("presence form, absent", without(json!({})), "GET /", true),
        ("presence form, there", without(json!({})), "GET /\nx-a: 1", false),
        ("pseudo-header", json!({"withoutHeaders": {":method": {"exact": "GET"}}}), "GET /", false),
    ]);
}

#[test]
fn query_params() {
    let param = |raw: Value| json!({"queryParams": {"a": raw}});
    check(&[
        ("exact", param(json!({"exact": "1"})), "GET /?b=2&a=1", true),
        ("other value", param(json!({"exact": "1"})), "GET /?a=2", false),
        ("first value counts", param(json!({"exact": "1"})), "GET /?a=2&a=1", false),
        ("exact empty is present and empty", param(json!({"exact": ""})), "GET /?a=", true),
        ("exact empty, no equals sign", param(json!({"exact": ""})), "GET /?a", true),
        ("exact empty, absent", param(json!({"exact": ""})), "GET /", false),
        ("exact empty, with a value", param(json!({"exact": ""})), "GET /?a=1", false),
        ("presence", param(json!({})), "GET /?a=1", true),
        ("presence, absent", param(json!({})), "GET /?ab=1", false),
        ("regex is the whole", param(json!({"regex": "[0-9]"})), "GET /?a=12", false),
        ("prefix", param(json!({"prefix": "1"})), "GET /?a=12", true),
    ]);
}

#[test]
fn entries_are_alternatives_and_fields_are_not() {
    let entries = json!([
        {"name": "one", "uri": {"prefix": "/a"}, "method": {"exact": "GET"}},
        {"name": "two", "headers": {"x": {"exact": "1"}}},
    ]);
    let routes = http_routes(json!([{"name": "rule", "match": entries, "route": to("reviews")}]));
    for (case, request, want) in [
        ("both fields", "GET /a", "rule.one"),
        ("one field of two", "POST /a", "404"),
        ("the other entry", "POST /b\nx: 1", "rule.two"),
        ("both entries: the first", "GET /a\nx: 1", "rule.one"),
    ] {
        assert_eq!(decide(&routes, &Pod::new(None, ""), request), want, "{case}");
    }
}

#[test]
fn the_first_match_wins() {
    let routes = http_routes(json!([
        {"match": [{"uri": {"prefix": "/a/b"}}], "route": to("reviews")},
        {"name": "named", "match": [{"uri": {"prefix": "/a"}}], "route": to("reviews")},
        {"route": to("reviews")},
    ]));
    for (request, want) in [("GET /a/b/c", "http[0]"), ("GET /a/c", "named"), ("GET /c", "http[2]")] {
        assert_eq!(decide(&routes, &Pod::new(None, ""), request), want, "{request}");
    }
}

#[test]
fn port_source_and_gateways() {
    for (case, entry, pod, want) in [
        ("port addressed", json!({"port": 80}), Pod::new(None, ""), "http[0]"),
        ("other port", json!({"port": 8080}), Pod::new(None, ""), "service"),
        (
            "labels are a subset",
            json!({"sourceLabels": {"app": "web"}}),
            Pod::new(Some("shop"), "app=web,v=1"),
            "http[0]",
        ),
        (
            "label differs",
            json!({"sourceLabels": {"app": "web"}}),
            Pod::new(Some("shop"), "app=api"),
            "service",
        ),
        ("no pod", json!({"sourceLabels": {"app": "web"}}), Pod::new(None, ""), "service"),
        ("namespace", json!({"sourceNamespace": "web"}), Pod::new(Some("web"), ""), "http[0]"),
        ("other namespace", json!({"sourceNamespace": "web"}), Pod::new(Some("shop"), ""), "service"),
        ("namespace, no pod", json!({"sourceNamespace": "web"}), Pod::new(None, ""), "service"),
        ("gateways with mesh", json!({"gateways": ["gw", "mesh"]}), Pod::new(None, ""), "http[0]"),
        ("gateways without mesh", json!({"gateways": ["gw"]}), Pod::new(None, ""), "service"),
        (
            "gateways hide the source",
            json!({"gateways": ["mesh"], "sourceNamespace": "web", "sourceLabels": {"a": "b"}}),
            Pod::new(Some("shop"), ""),
            "http[0]",
        ),
    ] {
        let routes = http_routes(json!([{"match": [entry], "route": to("reviews")}]));
        assert_eq!(decide(&routes, &pod, "GET /"), want, "{case}");
    }
}

#[test]
fn why_an_earlier_rule_did_not_match() {
    let get = "GET reviews:80/a?q=1\nend-user: bob";
    for (case, entry, want) in [
        (
            "header",
            json!({"headers": {"end-user": {"exact": "jason"}}}),
            "header \"end-user\" is \"bob\", wanted exact \"jason\"",
        ),
        ("no header", json!({"headers": {"x": {}}}), "header \"x\" is absent, wanted any value"),
        ("uri", json!({"uri": {"prefix": "/b"}}), "uri is \"/a\", wanted prefix \"/b\""),
        ("method", json!({"method": {"regex": "PUT|POST"}}), "method is \"GET\", wanted regex \"PUT|POST\""),
        (
            "authority",
            json!({"authority": {"exact": "reviews"}}),
            "authority is \"reviews:80\", wanted exact \"reviews\"",
        ),
        (
            "query",
            json!({"queryParams": {"q": {"exact": "2"}}}),
            "query parameter \"q\" is \"1\", wanted exact \"2\"",
        ),
        ("no query", json!({"queryParams": {"p": {}}}), "query parameter \"p\" is absent, wanted any value"),
        (
            "without",
            json!({"withoutHeaders": {"end-user": {"prefix": "b"}}}),
            "header \"end-user\" is \"bob\", wanted anything but prefix \"b\"",
        ),
        (
            "without, absent",
            json!({"withoutHeaders": {"x": {"regex": ".*"}}}),
            "header \"x\" is absent, which counts as empty, wanted anything but regex \".*\"",
        ),
        ("port", json!({"port": 8080}), "port is 80, wanted 8080"),
        (
            "label",
            json!({"sourceLabels": {"app": "web"}}),
            "the client's label \"app\" is \"api\", wanted \"web\"",
        ),
        ("no label", json!({"sourceLabels": {"v": "1"}}), "the client has no label \"v\", wanted \"1\""),
        (
            "namespace",
            json!({"sourceNamespace": "web"}),
            "the client's namespace is \"shop\", wanted \"web\"",
        ),
        ("gateway", json!({"gateways": ["gw"]}), "gateways do not include mesh"),
    ] {
        let routes = http_routes(json!([
            {"match": [{"uri": {"exact": "/x"}}, entry], "route": to("reviews")},
            {"route": to("reviews")},
        ]));
        let (pod, request) = (Pod::new(Some("shop"), "app=api"), Request::new(get));
        let explained = explain(&routes, &pod.client(), &request.view());
        let verdict = Verdict::Rule { name: "http[1]".into(), place: "http[1]".into(), match_index: None };
        assert_eq!(explained.verdict, verdict, "{case}");
        let skipped: Vec<_> = explained
            .skipped
            .iter()
            .map(|skipped| (skipped.rule.as_str(), skipped.reason.as_str()))
            .collect();
        assert_eq!(
            skipped,
            [("http[0].match[0]", "uri is \"/a\", wanted exact \"/x\""), ("http[0].match[1]", want)],
            "{case}"
        );
    }
}
