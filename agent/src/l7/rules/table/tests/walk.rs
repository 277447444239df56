//! One connection and one request from end to end, in the order in which a redirector asks.

use http::{Method, StatusCode};

use super::super::super::actions::{CorsAnswer, Facts, Outcome, capped_grpc_timeout, request_deadline};
use super::*;

#[test]
fn a_request_from_connection_to_response() {
    let virtual_service = accept(
        "bookinfo",
        0,
        json!({
            "hosts": ["reviews"],
            "http": [{
                "name": "canary",
                "match": [{"uri": {"prefix": "/api"}, "headers": {"end-user": {"exact": "jason"}}}],
                "route": [
                    {"destination": {"host": "reviews", "subset": "v1"}, "weight": 90},
                    {"destination": {"host": "reviews", "subset": "v2"}, "weight": 10,
                     "headers": {"response": {"set": {"x-version": "v2"}}}},
                ],
                "rewrite": {"uri": "/", "authority": "internal"},
                "headers": {"request": {"set": {"x-client": "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%"}}},
                "timeout": "3s",
                "retries": {"attempts": 2, "retryOn": "5xx"},
                "corsPolicy": {"allowOrigins": [{"exact": "http://shop"}]},
                "fault": {"delay": {"fixedDelay": "1s", "percentage": {"value": 0}}},
            }],
        }),
    );
    let subsets =
        json!([{"name": "v1", "labels": {"version": "1"}}, {"name": "v2", "labels": {"version": "2"}}]);
    let rule = accept_rule("reviews", json!({"host": "reviews", "subsets": subsets}));

    // Once per change of the configuration, and once per connection.
    let table = routes(vec![virtual_service], vec![rule]);
    let pod = Pod::new(Some("shop"), "app=web");
    let connection = table.for_client(&pod.client());

    // Once per request.
    let mut request = Request::new("GET reviews/api/books?page=2\nend-user: jason\norigin: http://shop");
    let Selection::Rule(selected) = connection.select(&request.view()) else { panic!("no rule") };
    let Action::Route(route) = &selected.rule().action else { panic!("no route") };
    let cors = selected.rule().cors.as_ref().map(|cors| cors.evaluate(&Method::GET, &request.headers, None));
    let Some(CorsAnswer::Response(cors)) = cors else { panic!("CORS does not apply") };
    assert!(route.fault.as_ref().unwrap().decide(7, 7).delay.is_none());
    let (index, target) = selected.pick(u32::MAX).unwrap();
    assert_eq!((index, target.state, target.port), (1, TargetState::Ready, 80));
    assert_eq!(target.policy.as_ref().unwrap().labels["version"], "2");
    assert_eq!(selected.rewritten(&request.view()).as_deref(), Some("//books?page=2"));
    assert_eq!(selected.authority(index).unwrap(), "internal");
    let facts = Facts {
        method: "GET",
        scheme: "http",
        authority: "reviews",
        path_and_query: "/api/books?page=2",
        client: [10, 0, 0, 7].into(),
        protocol: "HTTP/1.1",
    };
    let received = request.headers.clone();
    selected.change_request(index, &mut request.headers, &facts);
    assert_eq!(request.headers["x-client"], "10.0.0.7");
    let deadline = request_deadline(route.timeout, &received);
    assert_eq!(deadline.unwrap().as_secs(), 3);
    assert_eq!(capped_grpc_timeout(deadline, &received), None);

    // Once per try.
    let mut response = HeaderMap::new();
    assert!(route.retries.should_retry(Outcome::Response(StatusCode::SERVICE_UNAVAILABLE, &response), 0));
    assert!(route.retries.backoff(1, u32::MAX).as_millis() < 25);

    // Once per response.
    selected.change_response(Some(index), &mut response, &received, &facts);
    response.extend(cors);
    assert_eq!(response["x-version"], "v2");
    assert_eq!(response["access-control-allow-origin"], "http://shop");
}
