//! Everything that rejects a VirtualService, and the path and words that say so.

use super::*;

/// For each row: an HTTP rule laid over a plain one, and the error.
fn check(rows: &[(&str, Value, &str)]) {
    for (case, fields, want) in rows {
        let mut rule = json!({"route": to("reviews")});
        for (key, value) in fields.as_object().unwrap() {
            rule[key] = value.clone();
        }
        let read = read("vs", 0, json!({"hosts": ["reviews"], "http": [rule]}));
        let errors =
            read.messages.iter().filter(|message| message.severity == super::super::super::Severity::Error);
        let errors: Vec<_> = errors.map(|message| message.to_string()).collect();
        let want: Vec<_> = want.lines().map(|line| format!("spec.http[0]{line}")).collect();
        assert_eq!(errors, want, "{case}");
        assert_eq!(read.value.is_some(), errors.is_empty(), "{case}");
    }
}

#[test]
fn matches() {
    let entry = |entry: Value| json!({"match": [entry]});
    check(&[
        (
            "two kinds",
            entry(json!({"uri": {"exact": "/", "prefix": "/"}})),
            ".match[0].uri: has more than one of exact, prefix and regex; keep one",
        ),
        (
            "bad regex",
            entry(json!({"uri": {"regex": "(" }})),
            ".match[0].uri.regex: \"(\" does not compile: unclosed group",
        ),
        (
            "long regex",
            entry(json!({"headers": {"a": {"regex": "a".repeat(1025)}}})),
            ".match[0].headers.a.regex: a regex has 1 to 1024 characters, this one 1025",
        ),
        (
            "claims",
            entry(json!({"headers": {"@request.auth.claims.sub": {"exact": "a"}}})),
            ".match[0].headers.@request.auth.claims.sub: is not supported: claims exist on gateways only",
        ),
        (
            "header name",
            entry(json!({"headers": {"a b": {"exact": "a"}}})),
            ".match[0].headers.a b: \"a b\" is no name of a header",
        ),
        ("port", entry(json!({"port": 70000})), ".match[0].port: 70000 is not within 1 to 65535"),
    ]);
}

#[test]
fn exclusive_fields() {
    let redirect = json!({"uri": "/"});
    let direct = json!({"status": 200});
    let none = json!([]);
    check(&[
        (
            "nothing",
            json!({"route": none}),
            ": does nothing: set route, redirect, directResponse or delegate",
        ),
        ("redirect and route", json!({"redirect": redirect}), ": has both redirect and route; keep one"),
        (
            "redirect and directResponse",
            json!({"route": none, "redirect": redirect, "directResponse": direct}),
            ": has both redirect and directResponse; keep one",
        ),
        (
            "redirect and rewrite",
            json!({"route": none, "redirect": redirect, "rewrite": {"uri": "/"}}),
            ": has both redirect and rewrite; keep one",
        ),
        (
            "redirect and fault",
            json!({"route": none, "redirect": redirect, "fault": {}}),
            ": has both redirect and fault; keep one",
        ),
        (
            "directResponse and route",
            json!({"directResponse": direct}),
            ": has both directResponse and route; keep one",
        ),
        (
            "directResponse and rewrite",
            json!({"route": none, "directResponse": direct, "rewrite": {"uri": "/"}}),
            ": has both directResponse and rewrite; keep one",
        ),
        (
            "directResponse and fault",
            json!({"route": none, "directResponse": direct, "fault": {}}),
            ": has both directResponse and fault; keep one",
        ),
        ("delegate and route", json!({"delegate": {"name": "a"}}), ": has both delegate and route; keep one"),
        (
            "mirror and mirrors",
            json!({"mirror": {"host": "a"}, "mirrors": [{"destination": {"host": "a"}}]}),
            ": has both mirror and mirrors; keep mirrors",
        ),
    ]);
}

#[test]
fn route() {
    let routes = |entries: Value| json!({"route": entries});
    let a = json!({"host": "a"});
    check(&[
        ("no destination", routes(json!([{"weight": 1}])), ".route[0].destination: is missing"),
        ("no host", routes(json!([{"destination": {}}])), ".route[0].destination.host: \"\": is missing"),
        (
            "wildcard",
            routes(json!([{"destination": {"host": "*.a"}}])),
            ".route[0].destination.host: \"*.a\": a destination is one host, not a wildcard",
        ),
        (
            "no name",
            routes(json!([{"destination": {"host": "a_/b"}}])),
            ".route[0].destination.host: \"a_/b\": is no DNS name",
        ),
        (
            "port",
            routes(json!([{"destination": {"host": "a", "port": {"number": 0}}}])),
            ".route[0].destination.port.number: 0 is not within 1 to 65535",
        ),
        (
            "all zero",
            routes(json!([{"destination": a, "weight": 0}, {"destination": a}])),
            ".route: total destination weight = 0",
        ),
        (
            "negative",
            routes(json!([{"destination": a, "weight": -1}, {"destination": a, "weight": 1}])),
            ".route[0].weight: -1 is not within 0 to 2147483647",
        ),
        ("one, zero", routes(json!([{"destination": a, "weight": 0}])), ""),
    ]);
}

#[test]
fn headers() {
    let request = |operations: Value| json!({"headers": {"request": operations}});
    check(&[
        (
            "unknown variable",
            request(json!({"set": {"x": "%START_TIME%"}})),
            ".headers.request.set.x: \"%START_TIME%\": %START_TIME% is unknown; known are \
             %DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%, %PROTOCOL%, %REQ(header)% and %% for a percent sign",
        ),
        (
            "lonely percent",
            request(json!({"add": {"x": "50%"}})),
            ".headers.request.add.x: \"50%\": `%` begins a variable that does not end; a percent sign is \
             written `%%`",
        ),
        (
            "host removed",
            request(json!({"remove": ["Host"]})),
            ".headers.request.remove[0]: the host can only be set, and only on the request",
        ),
        (
            "host added",
            request(json!({"add": {":authority": "a"}})),
            ".headers.request.add.:authority: the host can only be set, and only on the request",
        ),
        (
            "host on the response",
            json!({"headers": {"response": {"set": {"host": "a"}}}}),
            ".headers.response.set.host: the host can only be set, and only on the request",
        ),
        (
            "pseudo-header",
            request(json!({"set": {":path": "/"}})),
            ".headers.request.set.:path: \":path\" is no name of a header",
        ),
        (
            "host twice",
            json!({"headers": {"request": {"set": {"Host": "a"}}}, "rewrite": {"authority": "b"}}),
            ".rewrite.authority: stands beside a Host in headers.request.set; keep one",
        ),
        (
            "no host",
            request(json!({"set": {"Host": "a b"}})),
            ".headers.request.set.Host: \"a b\" is no host",
        ),
    ]);
}

#[test]
fn redirect_and_direct_response() {
    let redirect = |redirect: Value| json!({"route": [], "redirect": redirect});
    let direct = |direct: Value| json!({"route": [], "directResponse": direct});
    check(&[
        (
            "code",
            redirect(json!({"uri": "/", "redirectCode": 304})),
            ".redirect.redirectCode: 304 is none of 301, 302, 303, 307, 308",
        ),
        (
            "two ports",
            redirect(json!({"port": 80, "derivePort": "FROM_REQUEST_PORT"})),
            ".redirect: has both port and derivePort; keep one",
        ),
        ("scheme", redirect(json!({"scheme": "ftp"})), ".redirect.scheme: \"ftp\" is neither http nor https"),
        (
            "two paths",
            redirect(json!({"uri": "/", "prefixRewrite": "/"})),
            ".redirect: has both uri and prefixRewrite; keep one",
        ),
        (
            "prefixRewrite without prefix",
            redirect(json!({"prefixRewrite": "/"})),
            ".redirect.prefixRewrite: needs a uri prefix in every match of the rule",
        ),
        ("status", direct(json!({"status": 100})), ".directResponse.status: 100 is not within 200 to 599"),
        (
            "two bodies",
            direct(json!({"status": 200, "body": {"string": "", "bytes": ""}})),
            ".directResponse.body: has both string and bytes; keep one",
        ),
        (
            "no base64",
            direct(json!({"status": 200, "body": {"bytes": "!"}})),
            ".directResponse.body.bytes: is not base64",
        ),
        (
            "large",
            direct(json!({"status": 200, "body": {"string": "a".repeat((1 << 20) + 1)}})),
            ".directResponse.body: has 1048577 bytes, at most 1048576 are allowed",
        ),
    ]);
}

#[test]
fn rewrite_timeout_and_retries() {
    let rewrite = |rewrite: Value| json!({"rewrite": rewrite});
    let retries = |retries: Value| json!({"retries": retries});
    check(&[
        (
            "two rewrites",
            rewrite(json!({"uri": "/", "uriRegexRewrite": {"match": "a", "rewrite": "b"}})),
            ".rewrite: has both uri and uriRegexRewrite; keep one",
        ),
        ("no rewrite", rewrite(json!({})), ".rewrite: says nothing: set uri, uriRegexRewrite or authority"),
        (
            "rewrite's regex",
            rewrite(json!({"uriRegexRewrite": {"match": "(", "rewrite": "b"}})),
            ".rewrite.uriRegexRewrite.match: \"(\" does not compile: unclosed group",
        ),
        (
            "no such group",
            rewrite(json!({"uriRegexRewrite": {"match": "(a)", "rewrite": r"\2"}})),
            ".rewrite.uriRegexRewrite.rewrite: \"\\\\2\": there is no group 2, match has 1",
        ),
        (
            "backslash",
            rewrite(json!({"uriRegexRewrite": {"match": "a", "rewrite": r"\x"}})),
            ".rewrite.uriRegexRewrite.rewrite: \"\\\\x\": `\\` must be followed by a digit or `\\`",
        ),
        ("timeout", json!({"timeout": "100us"}), ".timeout: is less than 1ms; leave the field out for none"),
        ("attempts", retries(json!({"attempts": -1})), ".retries.attempts: -1 is negative"),
        (
            "off, and more",
            retries(json!({"attempts": 0, "retryOn": "5xx"})),
            ".retries: attempts 0 turns retries off; then perTryTimeout, retryOn and retryRemoteLocalities \
             make no sense",
        ),
        (
            "perTryTimeout",
            retries(json!({"attempts": 1, "perTryTimeout": "0s"})),
            ".retries.perTryTimeout: is less than 1ms; leave the field out for none",
        ),
        (
            "retryOn",
            retries(json!({"attempts": 1, "retryOn": "5xx,often"})),
            ".retries.retryOn: \"often\" is neither a retry condition nor a status code",
        ),
        (
            "retryOn, no code",
            retries(json!({"attempts": 1, "retryOn": "1000"})),
            ".retries.retryOn: \"1000\" is neither a retry condition nor a status code",
        ),
    ]);
}

#[test]
fn fault_mirror_and_cors() {
    let delay = |delay: Value| json!({"fault": {"delay": delay}});
    let abort = |abort: Value| json!({"fault": {"abort": abort}});
    check(&[
        ("empty fault", json!({"fault": {}}), ".fault: says nothing: set delay or abort"),
        (
            "exponential",
            delay(json!({"exponentialDelay": "1s"})),
            ".fault.delay.exponentialDelay: is not supported: use fixedDelay",
        ),
        ("no delay", delay(json!({"percentage": {"value": 1}})), ".fault.delay.fixedDelay: is missing"),
        (
            "percentage",
            delay(json!({"percentage": {"value": 101}, "fixedDelay": "1s"})),
            ".fault.delay.percentage.value: 101 is not within 0 to 100",
        ),
        (
            "http2Error",
            abort(json!({"http2Error": "REFUSED"})),
            ".fault.abort.http2Error: is not supported: use httpStatus or grpcStatus",
        ),
        (
            "no status",
            abort(json!({"percentage": {"value": 1}})),
            ".fault.abort: needs exactly one of httpStatus and grpcStatus",
        ),
        (
            "two statuses",
            abort(json!({"httpStatus": 500, "grpcStatus": "OK"})),
            ".fault.abort: needs exactly one of httpStatus and grpcStatus",
        ),
        (
            "httpStatus",
            abort(json!({"httpStatus": 601})),
            ".fault.abort.httpStatus: 601 is not within 200 to 600",
        ),
        (
            "grpcStatus",
            abort(json!({"grpcStatus": "14"})),
            ".fault.abort.grpcStatus: \"14\" is no gRPC status; they read like UNAVAILABLE or NOT_FOUND",
        ),
        (
            "mirror's share",
            json!({"mirror": {"host": "a"}, "mirrorPercentage": {"value": -1}}),
            ".mirrorPercentage.value: -1 is not within 0 to 100",
        ),
        (
            "mirror's host",
            json!({"mirrors": [{"percentage": {"value": 1}}]}),
            ".mirrors[0].destination: is missing",
        ),
        ("maxAge", json!({"corsPolicy": {"maxAge": "1.5s"}}), ".corsPolicy.maxAge: must be whole seconds"),
        (
            "origin",
            json!({"corsPolicy": {"allowOrigins": [{"regex": "("}]}}),
            ".corsPolicy.allowOrigins[0].regex: \"(\" does not compile: unclosed group",
        ),
    ]);
}

#[test]
fn the_whole_object() {
    let rule = json!({"route": to("reviews")});
    for (case, spec, want) in [
        ("no rules", json!({"hosts": ["a"]}), "spec: has no rules: set http, tls or tcp"),
        (
            "delegate with gateways",
            json!({"gateways": ["mesh"], "http": [rule]}),
            "spec.gateways: cannot be set without hosts, in an object that others delegate to",
        ),
        (
            "delegate that delegates",
            json!({"http": [{"delegate": {"name": "a"}}]}),
            "spec.http[0].delegate: a delegate cannot delegate: only one level is allowed",
        ),
        (
            "delegate without a name",
            json!({"hosts": ["a"], "http": [{"delegate": {}}]}),
            "spec.http[0].delegate.name: is missing",
        ),
        (
            "star on mesh",
            json!({"hosts": ["*"], "http": [rule]}),
            "spec.hosts[0]: `*` is not allowed on mesh: name the hosts, or bind to a gateway only",
        ),
    ] {
        let read = read("vs", 0, spec);
        assert!(read.value.is_none(), "{case}");
        assert_eq!(texts(&read.messages), [want], "{case}");
    }
}
