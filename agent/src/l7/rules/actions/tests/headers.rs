//! Header operations: order, Host, variables.

use std::net::IpAddr;

use super::*;

const CLIENT: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 7));

fn facts() -> Facts<'static> {
    Facts {
        method: "GET",
        scheme: "http",
        authority: "reviews",
        path_and_query: "/a?b",
        client: CLIENT,
        protocol: "HTTP/1.1",
    }
}

/// The request's headers after the rule, and the Host that it gets.
fn changed(fields: &Value, request: &str) -> (String, Option<String>) {
    let routes = routes(fields);
    let mut request = Request::new(request);
    let mut headers = std::mem::take(&mut request.headers);
    let selected = selected(&routes, &request);
    selected.change_request(0, &mut headers, &facts());
    let authority = selected.authority(0).map(|value| value.to_str().unwrap().to_owned());
    (lines(&headers), authority)
}

fn request(operations: Value) -> Value {
    json!({"request": operations})
}

#[test]
fn set_add_remove() {
    for (case, operations, before, want) in [
        ("set overwrites", json!({"set": {"X-A": "1"}}), "x-a: 8\nx-a: 9", "x-a: 1"),
        ("set makes", json!({"set": {"x-a": "1"}}), "", "x-a: 1"),
        ("add appends", json!({"add": {"x-a": "1"}}), "x-a: 8", "x-a: 8\nx-a: 1"),
        ("remove", json!({"remove": ["X-A"]}), "x-a: 8\nx-a: 9\nx-b: 1", "x-b: 1"),
        ("remove runs first", json!({"remove": ["x-a"], "add": {"x-a": "1"}}), "x-a: 8", "x-a: 1"),
        ("set before add", json!({"add": {"x-a": "2"}, "set": {"x-a": "1"}}), "x-a: 8", "x-a: 1\nx-a: 2"),
    ] {
        let (got, _) = changed(&json!({"headers": request(operations)}), &format!("GET /\n{before}"));
        assert_eq!(got, want, "{case}");
    }
}

#[test]
fn route_and_destination() {
    let both = |route: Value, own: Value, others: usize| {
        let mut entries =
            vec![json!({"destination": {"host": "reviews"}, "weight": 1, "headers": request(own)})];
        entries.extend((0..others).map(|_| json!({"destination": {"host": "ratings"}, "weight": 1})));
        json!({"headers": request(route), "route": entries})
    };
    let set = |value: &str| json!({"set": {"x-a": value}});
    let add = |value: &str| json!({"add": {"x-a": value}});
    let remove = json!({"remove": ["x-a"]});
    for (case, fields, want) in [
        ("single: the destination's set comes last", both(set("r"), set("d"), 0), "x-a: d"),
        ("single: adds in order", both(add("r"), add("d"), 0), "x-a: 0\nx-a: r\nx-a: d"),
        ("single: removes come before all writes", both(add("r"), remove.clone(), 0), "x-a: r"),
        ("weighted: the route's set wins", both(set("r"), set("d"), 1), "x-a: r"),
        ("weighted: adds in order", both(add("r"), add("d"), 1), "x-a: 0\nx-a: d\nx-a: r"),
        ("weighted: the route removes what the destination wrote", both(remove, add("d"), 1), ""),
    ] {
        assert_eq!(changed(&fields, "GET /\nx-a: 0").0, want, "{case}");
    }
}

#[test]
fn host() {
    let own = |host: &str| {
        let headers = request(json!({"set": {"host": host}}));
        json!([{"destination": {"host": "reviews"}, "headers": headers}])
    };
    let route = |name: &str| request(json!({"set": {name: "route"}}));
    for (case, fields, want) in [
        ("as it is", json!({}), None),
        ("rewrite", json!({"rewrite": {"authority": "literal:80"}}), Some("literal:80")),
        ("set", json!({"headers": route("Host")}), Some("route")),
        ("set by pseudo-header", json!({"headers": route(":authority")}), Some("route")),
        ("destination", json!({"route": own("own")}), Some("own")),
        ("route beats destination", json!({"headers": route("host"), "route": own("own")}), Some("route")),
        ("rewrite beats destination", json!({"rewrite": {"authority": "a"}, "route": own("own")}), Some("a")),
    ] {
        let (headers, authority) = changed(&fields, "GET /\nx: 1");
        assert_eq!((headers.as_str(), authority.as_deref()), ("x: 1", want), "{case}");
    }
}

#[test]
fn variables() {
    for (case, value, want) in [
        ("plain", "a b", "x: a b"),
        ("percent sign", "50%%", "x: 50%"),
        ("client", "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%", "x: 10.0.0.7"),
        ("protocol", "<%PROTOCOL%>", "x: <HTTP/1.1>"),
        ("header", "%REQ(User-Agent)%!", "x: curl!"),
        (
            "pseudo-headers",
            "%REQ(:METHOD)% %REQ(:SCHEME)% %REQ(:AUTHORITY)% %REQ(:PATH)%",
            "x: GET http reviews /a?b",
        ),
        ("absent header is not written", "%REQ(nothing)%", "x: old"),
        ("two", "%PROTOCOL%%PROTOCOL%", "x: HTTP/1.1HTTP/1.1"),
    ] {
        let fields = json!({"headers": request(json!({"set": {"x": value}, "remove": []}))});
        let (got, _) = changed(&fields, "GET /\nuser-agent: curl\nx: old");
        assert_eq!(got, format!("user-agent: curl\n{want}"), "{case}");
    }
}

#[test]
fn response() {
    let fields = json!({
        "headers": {"response": {"set": {"x-a": "%REQ(x-q)%"}, "remove": ["server"]}},
        "route": [{"destination": {"host": "reviews"}, "headers": {"response": {"add": {"x-a": "2"}}}}],
    });
    let headers = json!({"response": {"set": {"x-a": "1"}}});
    let direct = json!({"route": [], "directResponse": {"status": 200}, "headers": headers});
    for (case, fields, destination, want) in [
        ("of an endpoint", fields, Some(0), "x-a: q\nx-a: 2"),
        ("of the rule itself", direct, None, "server: s\nx-a: 1"),
    ] {
        let routes = routes(&fields);
        let request = Request::new("GET /\nx-q: q");
        let mut headers = Request::new("GET /\nserver: s\nx-a: 0").headers;
        selected(&routes, &request).change_response(destination, &mut headers, &request.headers, &facts());
        assert_eq!(lines(&headers), want, "{case}");
    }
}
