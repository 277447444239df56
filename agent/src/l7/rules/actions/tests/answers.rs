//! Redirects, fixed answers, rewrites, CORS.

use http::Method;

use super::*;

#[test]
fn redirect() {
    let prefix = json!([{"uri": {"prefix": "/old"}}]);
    for (case, redirect, entries, request, want) in [
        (
            "uri, query kept",
            json!({"uri": "/new"}),
            json!([]),
            "GET reviews/old/a?b=c",
            "301 http://reviews/new?b=c",
        ),
        (
            "uri with its own query",
            json!({"uri": "/new?x"}),
            json!([]),
            "GET reviews/old?b=c",
            "301 http://reviews/new?x",
        ),
        (
            "authority",
            json!({"authority": "ratings"}),
            json!([]),
            "GET reviews:8080/a?b",
            "301 http://ratings/a?b",
        ),
        ("code", json!({"uri": "/", "redirectCode": 308}), json!([]), "GET reviews/a", "308 http://reviews/"),
        (
            "prefixRewrite",
            json!({"prefixRewrite": "/new"}),
            prefix,
            "GET reviews/old/a?b",
            "301 http://reviews/new/a?b",
        ),
        (
            "scheme drops the old default port",
            json!({"scheme": "https"}),
            json!([]),
            "GET reviews:80/a",
            "301 https://reviews/a",
        ),
        (
            "scheme keeps another port",
            json!({"scheme": "https"}),
            json!([]),
            "GET reviews:8080/a",
            "301 https://reviews:8080/a",
        ),
        ("port", json!({"port": 8080}), json!([]), "GET reviews:80/a", "301 http://reviews:8080/a"),
        (
            "port is the scheme's",
            json!({"scheme": "https", "port": 443}),
            json!([]),
            "GET reviews:80/a",
            "301 https://reviews/a",
        ),
        ("port 80 of http", json!({"port": 80}), json!([]), "GET reviews:8080/a", "301 http://reviews/a"),
        (
            "port replaces the authority's",
            json!({"authority": "a:1", "port": 2}),
            json!([]),
            "GET reviews/a",
            "301 http://a:2/a",
        ),
        (
            "derived from the protocol",
            json!({"derivePort": "FROM_PROTOCOL_DEFAULT"}),
            json!([]),
            "GET reviews:8080/a",
            "301 http://reviews/a",
        ),
        (
            "derived from the request",
            json!({"scheme": "https", "derivePort": "FROM_REQUEST_PORT"}),
            json!([]),
            "GET reviews/a",
            "301 https://reviews:80/a",
        ),
        (
            "address of version 6",
            json!({"port": 8080}),
            json!([]),
            "GET [fd00::1]:80/a",
            "301 http://[fd00::1]:8080/a",
        ),
        (
            "address of version 6, no port",
            json!({"port": 8080}),
            json!([]),
            "GET [fd00::1]/a",
            "301 http://[fd00::1]:8080/a",
        ),
    ] {
        let routes = routes(&json!({"route": [], "match": entries, "redirect": redirect}));
        let request = Request::new(request);
        let selected = selected(&routes, &request);
        let super::super::super::table::Action::Redirect(redirect) = &selected.rule().action else {
            panic!("{case}")
        };
        let location = selected.location(&request.view()).unwrap();
        assert_eq!(format!("{} {}", redirect.status.as_u16(), location.to_str().unwrap()), want, "{case}");
    }
}

#[test]
fn direct_response() {
    for (case, direct, want) in [
        ("no body", json!({"status": 204}), (204, "", None)),
        ("string", json!({"status": 503, "body": {"string": "wait"}}), (503, "wait", Some("text/plain"))),
        ("bytes", json!({"status": 200, "body": {"bytes": "aGk="}}), (200, "hi", None)),
        ("bytes without padding", json!({"status": 200, "body": {"bytes": "aGkh"}}), (200, "hi!", None)),
        ("bytes, URL-safe", json!({"status": 200, "body": {"bytes": "Pj4_"}}), (200, ">>?", None)),
    ] {
        let routes = routes(&json!({"route": [], "directResponse": direct}));
        let request = Request::new("GET /");
        let super::super::super::table::Action::Direct(direct) = &selected(&routes, &request).rule().action
        else {
            panic!("{case}")
        };
        let got = (direct.status.as_u16(), str::from_utf8(&direct.body).unwrap(), direct.content_type);
        assert_eq!(got, want, "{case}");
    }
}

#[test]
fn rewrite_of_the_path() {
    let uri = |kind: &str, text: &str| json!([{"uri": {kind: text}}]);
    let regex =
        |pattern: &str, rewrite: &str| json!({"uriRegexRewrite": {"match": pattern, "rewrite": rewrite}});
    for (case, entries, rewrite, request, want) in [
        ("prefix", uri("prefix", "/foo"), json!({"uri": "/new"}), "GET /foobar?q=1", Some("/newbar?q=1")),
        (
            "prefix of other case",
            json!([{"uri": {"prefix": "/foo"}, "ignoreUriCase": true}]),
            json!({"uri": "/new"}),
            "GET /FOO/a",
            Some("/new/a"),
        ),
        ("prefix by a slash", uri("prefix", "/foo/"), json!({"uri": "/"}), "GET /foo/a", Some("/a")),
        ("exact", uri("exact", "/foo"), json!({"uri": "/new"}), "GET /foo?q", Some("/new?q")),
        ("regex match", uri("regex", "/f.*"), json!({"uri": "/new"}), "GET /foo/bar", Some("/new")),
        ("no match", json!([]), json!({"uri": "/new"}), "GET /foo", Some("/newfoo")),
        (
            "match without uri",
            json!([{"method": {"exact": "GET"}}]),
            json!({"uri": "/new/"}),
            "GET /foo",
            Some("/new/foo"),
        ),
        ("slash is put back", uri("prefix", "/a/"), json!({"uri": "b"}), "GET /a/c", Some("/bc")),
        ("regex", json!([]), regex("/v([0-9]+)/(.*)", r"/\2/\1"), "GET /v1/a?q", Some("/a/1?q")),
        ("regex is not anchored, and global", json!([]), regex("o", "0"), "GET /foo", Some("/f00")),
        ("dollar is literal", json!([]), regex("foo", "$1"), "GET /foo", Some("/$1")),
        ("group before a digit", json!([]), regex("(a)", r"\10"), "GET /a", Some("/a0")),
        ("whole match", json!([]), regex("fo+", r"\0\\"), "GET /foo", Some("/foo\\")),
        ("authority only", json!([]), json!({"authority": "a"}), "GET /foo", None),
    ] {
        let routes = routes(&json!({"match": entries, "rewrite": rewrite}));
        let request = Request::new(request);
        let rewritten = selected(&routes, &request).rewritten(&request.view());
        assert_eq!(rewritten.as_deref(), want, "{case}");
    }
}

#[test]
fn cors() {
    let policy = |more: Value| {
        let origins = json!([{"exact": "http://a"}, {"regex": "http://.*\\.b"}, {"prefix": "https://"}]);
        let mut policy = json!({"allowOrigins": origins});
        for (key, value) in more.as_object().unwrap() {
            policy[key] = value.clone();
        }
        policy
    };
    let full = policy(
        json!({"allowMethods": ["GET", "PUT"], "allowHeaders": ["x-a", "x-b"], "exposeHeaders": ["x-c"],
            "maxAge": "24h", "allowCredentials": true}),
    );
    let preflight = "OPTIONS /\norigin: http://a\naccess-control-request-method: PUT";
    let unmatched = "OPTIONS /\norigin: http://z\naccess-control-request-method: PUT";
    for (case, policy, request, want) in [
        ("no origin", full.clone(), "GET /", "pass"),
        ("other origin", full.clone(), "GET /\norigin: http://z", "pass"),
        (
            "request",
            full.clone(),
            "GET /\norigin: http://a",
            "response\naccess-control-allow-credentials: true\naccess-control-allow-origin: \
             http://a\naccess-control-expose-headers: x-c",
        ),
        (
            "regex",
            policy(json!({})),
            "GET /\norigin: http://x.b",
            "response\naccess-control-allow-origin: http://x.b",
        ),
        (
            "prefix",
            policy(json!({})),
            "GET /\norigin: https://x",
            "response\naccess-control-allow-origin: https://x",
        ),
        (
            "star",
            json!({"allowOrigins": [{"exact": "*"}]}),
            "GET /\norigin: x",
            "response\naccess-control-allow-origin: x",
        ),
        (
            "old list",
            json!({"allowOrigin": ["x"]}),
            "GET /\norigin: x",
            "response\naccess-control-allow-origin: x",
        ),
        (
            "preflight",
            full,
            preflight,
            "preflight\naccess-control-allow-credentials: true\naccess-control-allow-headers: \
             x-a,x-b\naccess-control-allow-methods: GET,PUT\naccess-control-allow-origin: \
             http://a\naccess-control-max-age: 86400",
        ),
        ("bare preflight", policy(json!({})), preflight, "preflight\naccess-control-allow-origin: http://a"),
        (
            "options without the asked method",
            policy(json!({})),
            "OPTIONS /\norigin: http://a",
            "response\naccess-control-allow-origin: http://a",
        ),
        ("unmatched preflight", policy(json!({})), unmatched, "pass"),
        (
            "unmatched preflight, FORWARD",
            policy(json!({"unmatchedPreflights": "FORWARD"})),
            unmatched,
            "pass",
        ),
        (
            "unmatched preflight, IGNORE",
            policy(json!({"unmatchedPreflights": "IGNORE"})),
            unmatched,
            "preflight\n",
        ),
    ] {
        let routes = routes(&json!({"corsPolicy": policy}));
        let request = Request::new(request);
        let cors = selected(&routes, &request).rule().cors.as_ref().unwrap();
        let method = request.view().method.parse::<Method>().unwrap();
        let got = match cors.evaluate(&method, &request.headers, None) {
            CorsAnswer::Pass => "pass".to_owned(),
            CorsAnswer::Preflight(headers) => format!("preflight\n{}", lines(&headers)),
            CorsAnswer::Response(headers) => format!("response\n{}", lines(&headers)),
            CorsAnswer::Spent => "spent".to_owned(),
        };
        assert_eq!(got, want, "{case}");
    }
}
