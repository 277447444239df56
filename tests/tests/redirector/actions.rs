//! What rules do with requests: match, rewrite, redirect, answer, fault, CORS, headers.

use serde_json::json;
use tokio::process::Command;

use super::world::{Endpoint, Setup, read, request, rule, whole};

#[tokio::test]
async fn a_header_match_decides_and_curl_agrees() {
    let (v1, v2) = (Endpoint::named("v1").await, Endpoint::named("v2").await);
    let to = |subset: &str| json!([{"destination": {"host": "reviews", "subset": subset}}]);
    let world = Setup {
        endpoints: vec![(&v1, json!({"version": "1"})), (&v2, json!({"version": "2"}))],
        subsets: json!([{"name": "v1", "labels": {"version": "1"}}, {"name": "v2", "labels": {"version": "2"}}]),
        rules: json!({"http": [
            {"match": [{"headers": {"end-user": {"exact": "jason"}}}], "route": to("v2")},
            {"route": to("v1")},
        ]}),
        ..Setup::default()
    }
    .start();
    for (case, arguments, want) in [
        ("met", &["-H", "end-user: jason"][..], "v2"),
        ("other value", &["-H", "end-user: tom"], "v1"),
        ("absent", &[], "v1"),
        ("HTTP/2 by prior knowledge", &["--http2-prior-knowledge", "-H", "end-user: jason"], "v2"),
        ("HTTP/2 by upgrade, which is not granted", &["--http2", "-H", "end-user: jason"], "v2"),
    ] {
        let url = format!("http://{}/", world.front);
        let output = Command::new("curl").arg("-sS").args(arguments).arg(url).output().await.unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout), want, "{case}: {output:?}");
    }
}

#[tokio::test]
async fn rewrite_changes_path_and_host_and_keeps_the_query() {
    let endpoint = Endpoint::named("a").await;
    let fields = json!({
        "match": [{"uri": {"prefix": "/api/"}}],
        "rewrite": {"uri": "/v2/", "authority": "internal"},
        "headers": {
            "request": {"set": {"x-set": "%REQ(:path)%"}, "remove": ["x-gone"]},
            "response": {"add": {"x-added": "yes"}},
        },
    });
    let world = Setup::http(&[&endpoint], json!([rule(fields)])).start();
    let got = world.ask("GET /api/books?page=2\nx-gone: 1\nx-forwarded-for: 1.2.3.4\nx-request-id: 7").await;
    assert_eq!((got.status, &*got.body, &got.headers["x-added"]), (200, "a", &"yes".parse().unwrap()));
    let seen = endpoint.last();
    assert_eq!(seen.uri, "/v2/books?page=2");
    for (name, want) in [
        ("host", Some("internal")),
        ("x-set", Some("/api/books?page=2")),
        ("x-gone", None),
        ("x-forwarded-for", Some("1.2.3.4, 127.0.0.1")),
        ("x-request-id", Some("7")),
    ] {
        assert_eq!(seen.headers.get(name).map(|value| value.to_str().unwrap()), want, "{name}");
    }
}

#[tokio::test]
async fn answers_of_rules_need_no_endpoint() {
    let rules = json!([
        {"match": [{"uri": {"prefix": "/old"}}], "redirect": {"uri": "/new", "redirectCode": 308}},
        {"match": [{"uri": {"prefix": "/direct"}}],
         "directResponse": {"status": 418, "body": {"string": "short"}},
         "headers": {"response": {"set": {"x-own": "1"}}}},
        rule(json!({"match": [{"uri": {"prefix": "/nobody"}}]})),
        {"match": [{"uri": {"prefix": "/subset"}}], "route": [{"destination": {"host": "reviews", "subset": "x"}}]},
        {"match": [{"uri": {"prefix": "/unknown"}}], "route": [{"destination": {"host": "elsewhere"}}]},
    ]);
    let world = Setup::http(&[], rules).start();
    for (case, path, status, body) in [
        ("redirect", "/old/x?q=1", 308, ""),
        ("direct response", "/direct", 418, "short"),
        ("no endpoints", "/nobody", 503, "no endpoint is ready\n"),
        ("unknown subset", "/subset", 503, "no endpoint is ready\n"),
        ("unknown service", "/unknown", 503, "no endpoint is ready\n"),
        ("no rule matches", "/else", 404, "no rule matches\n"),
    ] {
        let got = world.ask(&format!("GET {path}")).await;
        assert_eq!((got.status, &*got.body), (status, body), "{case}");
        let header = |name| got.headers.get(name).map(|value: &http::HeaderValue| value.to_str().unwrap());
        assert_eq!(header("location"), (status == 308).then_some("http://reviews/new?q=1"), "{case}");
        assert_eq!(header("x-own"), (status == 418).then_some("1"), "{case}");
    }
    assert_eq!((world.count("noRoute"), world.count("noEndpoints")), (1, 3));
}

#[tokio::test]
async fn faults_come_before_the_endpoint() {
    let endpoint = Endpoint::named("a").await;
    let abort = |prefix: &str, abort: serde_json::Value| {
        rule(json!({"match": [{"uri": {"prefix": prefix}}], "fault": {"abort": abort}}))
    };
    let all = json!({"value": 100});
    let rules = json!([
        abort("/http", json!({"httpStatus": 555, "percentage": all})),
        abort("/grpc", json!({"grpcStatus": "NOT_FOUND", "percentage": all})),
        abort("/never", json!({"httpStatus": 555, "percentage": {"value": 0}})),
        rule(json!({"fault": {"delay": {"fixedDelay": "300ms", "percentage": all}}, "timeout": "250ms"})),
    ]);
    let world = Setup::http(&[&endpoint], rules).start();
    for (case, text, status, grpc) in [
        ("http", "GET /http", 555, None),
        ("grpc to a plain client", "GET /grpc", 404, None),
        ("grpc", "POST /grpc\ncontent-type: application/grpc", 200, Some("5")),
        ("http to a grpc client", "POST /http\ncontent-type: application/grpc", 200, Some("2")),
        ("0 %", "GET /never", 200, None),
    ] {
        let got = world.ask(text).await;
        assert_eq!(got.status, status, "{case}");
        assert_eq!(got.headers.get("grpc-status").map(|v| v.to_str().unwrap()), grpc, "{case}");
    }
    assert_eq!(endpoint.hits(), 1);
    let before = std::time::Instant::now();
    // The delay is no part of the route's timeout.
    assert_eq!(world.ask("GET /slow").await.status, 200);
    assert!(before.elapsed().as_millis() >= 300);
    assert_eq!((world.count("faultAborts"), world.count("faultDelays")), (4, 1));
}

#[tokio::test]
async fn a_preflight_is_answered_and_other_answers_get_cors_headers() {
    let endpoint = Endpoint::named("a").await;
    let cors = json!({"allowOrigins": [{"exact": "http://shop"}], "allowMethods": ["PUT"], "maxAge": "60s"});
    let world = Setup::http(&[&endpoint], json!([rule(json!({"corsPolicy": cors}))])).start();
    let got = world.ask("OPTIONS /\norigin: http://shop\naccess-control-request-method: PUT").await;
    assert_eq!((got.status, endpoint.hits()), (200, 0));
    assert_eq!(got.headers["access-control-allow-methods"], "PUT");
    let got = world.ask("GET /\norigin: http://shop").await;
    assert_eq!((got.status, endpoint.hits()), (200, 1));
    assert_eq!(got.headers["access-control-allow-origin"], "http://shop");
    let got = world.ask("GET /\norigin: http://evil").await;
    assert!(!got.headers.contains_key("access-control-allow-origin"));
}

#[tokio::test]
async fn a_mirror_gets_a_copy_and_its_answer_is_ignored() {
    use http_body_util::BodyExt;
    let main = Endpoint::named("main").await;
    let (sender, mut bodies) = tokio::sync::mpsc::unbounded_channel();
    let shadow = Endpoint::serve(move |request| {
        let sender = sender.clone();
        async move {
            let body = request.into_body().collect().await.unwrap().to_bytes();
            sender.send(body).unwrap();
            http::Response::builder().status(500).body(whole("")).unwrap()
        }
    })
    .await;
    let subset = |name: &str| json!({"host": "reviews", "subset": name});
    let world = Setup {
        endpoints: vec![(&main, json!({"role": "main"})), (&shadow, json!({"role": "shadow"}))],
        subsets: json!([
            {"name": "main", "labels": {"role": "main"}},
            {"name": "shadow", "labels": {"role": "shadow"}},
        ]),
        rules: json!({"http": [{"route": [{"destination": subset("main")}], "mirror": subset("shadow")}]}),
        ..Setup::default()
    }
    .start();
    let got = world.http1().await.send(request("POST /x").body(whole("hello")).unwrap()).await;
    assert_eq!((got.status, &*got.body), (200, "main"));
    assert_eq!(bodies.recv().await.unwrap(), "hello");
    assert_eq!(shadow.last().uri, "/x");
    // Too long to keep: the request goes on, the copy does not.
    let long = vec![b'x'; 100_000];
    let got = world.http1().await.send(request("POST /x").body(whole(long)).unwrap()).await;
    assert_eq!(got.status, 200);
    world.until("mirrorsSkipped", 1).await;
    assert_eq!(shadow.hits(), 1);
}

#[tokio::test]
async fn a_mirror_keeps_no_client_waiting() {
    let (nobody, shadow) = (Endpoint::nobody().await, Endpoint::named("shadow").await);
    let subset = |name: &str| json!({"host": "reviews", "subset": name});
    let world = Setup {
        endpoints: vec![(&nobody, json!({"role": "main"})), (&shadow, json!({"role": "shadow"}))],
        subsets: json!([
            {"name": "main", "labels": {"role": "main"}},
            {"name": "shadow", "labels": {"role": "shadow"}},
        ]),
        rules: json!({"http": [{"route": [{"destination": subset("main")}], "mirror": subset("shadow")}]}),
        ..Setup::default()
    }
    .start();
    let body = vec![b'x'; 1_000_000];
    let got = world.http1().await.send(request("POST /").body(whole(body)).unwrap()).await;
    assert_eq!(got.status, 503);
    // Nobody read the body, so there is nothing to copy.
    world.until("mirrorsSkipped", 1).await;
    assert_eq!(world.ask("GET /").await.status, 503);
    world.until("mirrors", 1).await;
    assert_eq!(shadow.hits(), 1);
}

#[tokio::test]
async fn http2_requests_have_their_authority_matched_and_rewritten() {
    let endpoint = Endpoint::named("a").await;
    let fields = json!({"match": [{"authority": {"exact": "reviews:80"}}], "rewrite": {"authority": "b"}});
    let world = Setup::http(&[&endpoint], json!([rule(fields)])).start();
    let mut client = world.http2().await;
    let ask = |uri: &str| http::Request::builder().uri(uri).body(whole("")).unwrap();
    let got = read(client.send_request(ask("http://reviews:80/p?q")).await.unwrap()).await;
    assert_eq!(got.status, 200);
    assert_eq!(
        (endpoint.last().version, endpoint.last().uri),
        (http::Version::HTTP_2, "http://b/p?q".parse().unwrap())
    );
    let got = read(client.send_request(ask("http://other/")).await.unwrap()).await;
    assert_eq!(got.status, 404);
}

/// An endpoint that speaks one version of HTTP and closes at the other.
async fn of_one_version(http2: bool) -> Endpoint {
    Endpoint::speaking(http2, |request| async move {
        let _all = http_body_util::BodyExt::collect(request.into_body()).await;
        http::Response::new(whole("one"))
    })
    .await
}

#[tokio::test]
async fn a_mirror_gets_its_copy_in_the_version_that_it_speaks() {
    for (client_http2, main_http2, shadow_http2) in
        [(false, true, false), (false, false, true), (true, true, false), (true, false, true)]
    {
        let case = format!("client {client_http2}, destination {main_http2}, mirror {shadow_http2}");
        // A client's HTTP/2 is kept towards a destination that does not ask for it.
        let main = of_one_version(main_http2 || client_http2).await;
        let shadow = of_one_version(shadow_http2).await;
        let name = |http2: bool| if http2 { "http2" } else { "http" };
        let mut setup = Setup::http(&[&main], json!([rule(json!({"mirror": {"host": "shadow"}}))]));
        setup.port = json!({"name": name(main_http2)});
        setup.others = json!([{
            "namespace": "shop",
            "name": "shadow",
            "ports": [{"port": 80, "name": name(shadow_http2), "endpoints": [{"address": shadow.address}]}],
        }]);
        let world = setup.start();
        let body = || whole("hello");
        if client_http2 {
            let ask = http::Request::post("http://reviews:80/x?y").body(body()).unwrap();
            let got = read(world.http2().await.send_request(ask).await.unwrap()).await;
            assert_eq!(got.status, 200, "{case}");
        } else {
            let ask = request("POST /x?y\nhost: reviews:80").body(body()).unwrap();
            assert_eq!(world.http1().await.send(ask).await.status, 200, "{case}");
        }
        world.until("mirrors", 1).await;
        let seen = shadow.last();
        let (version, uri) = if shadow_http2 {
            (http::Version::HTTP_2, "http://reviews:80/x?y")
        } else {
            (http::Version::HTTP_11, "/x?y")
        };
        assert_eq!((seen.version, seen.uri), (version, uri.parse().unwrap()), "{case}");
        let host = seen.headers.get("host").map(|host| host.to_str().unwrap());
        assert_eq!(host, (!shadow_http2).then_some("reviews:80"), "{case}");
        assert_eq!(world.count("mirrorsSkipped"), 0, "{case}");
    }
}
