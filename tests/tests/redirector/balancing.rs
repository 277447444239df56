//! Which endpoint gets a request: weights, in turn, at random, sticky, spread over one connection.

use std::collections::BTreeMap;

use serde_json::json;

use super::world::{Endpoint, Setup, read, rule, whole};

#[tokio::test]
async fn weights_split_requests_of_one_connection() {
    let (v1, v2) = (Endpoint::named("v1").await, Endpoint::named("v2").await);
    let to = |subset: &str, weight: u32| json!({"destination": {"host": "reviews", "subset": subset}, "weight": weight});
    let world = Setup {
        endpoints: vec![(&v1, json!({"version": "1"})), (&v2, json!({"version": "2"}))],
        subsets: json!([{"name": "v1", "labels": {"version": "1"}}, {"name": "v2", "labels": {"version": "2"}}]),
        rules: json!({"http": [{"route": [to("v1", 3), to("v2", 1)]}]}),
        ..Setup::default()
    }
    .start();
    let mut client = world.http1().await;
    for _ in 0..1000 {
        assert_eq!(client.ask("GET /").await.status, 200);
    }
    assert_eq!(v1.hits() + v2.hits(), 1000);
    assert!((200..300).contains(&v2.hits()), "{}", v2.hits());
    // Both were reached over connections that stayed open.
    assert_eq!(world.count("upstreamConnections"), 2);
}

#[tokio::test]
async fn balancers_choose_as_they_are_named() {
    for (case, balancer, low, high) in [
        ("default", json!(null), 15, 45),
        ("random", json!({"loadBalancer": {"simple": "RANDOM"}}), 15, 45),
        ("in turn", json!({"loadBalancer": {"simple": "ROUND_ROBIN"}}), 30, 30),
        ("one client", json!({"loadBalancer": {"consistentHash": {"useSourceIp": true}}}), 0, 90),
    ] {
        let all = [Endpoint::named("a").await, Endpoint::named("b").await, Endpoint::named("c").await];
        let endpoints: Vec<_> = all.iter().collect();
        let world = Setup { traffic: balancer, ..Setup::http(&endpoints, json!([rule(json!({}))])) }.start();
        let mut client = world.http1().await;
        for _ in 0..90 {
            client.ask("GET /").await;
        }
        let hits: Vec<_> = all.iter().map(Endpoint::hits).collect();
        assert!(hits.iter().all(|hits| (low..=high).contains(hits)), "{case}: {hits:?}");
        assert_eq!(hits.contains(&90), case == "one client", "{hits:?}");
    }
}

#[tokio::test]
async fn a_client_stays_with_its_endpoint_where_the_service_has_affinity() {
    let (a, b) = (Endpoint::named("a").await, Endpoint::named("b").await);
    let port = json!({"name": "http", "affinityTimeoutS": 60});
    let world = Setup { port, ..Setup::http(&[&a, &b], json!([rule(json!({}))])) }.start();
    for _ in 0..20 {
        assert_eq!(world.ask("GET /").await.status, 200);
    }
    assert!([a.hits(), b.hits()].contains(&20), "{} {}", a.hits(), b.hits());
}

#[tokio::test]
async fn one_http2_connection_is_spread_without_rules() {
    let (a, b) = (Endpoint::named("a").await, Endpoint::named("b").await);
    let world = Setup {
        endpoints: vec![(&a, json!({})), (&b, json!({}))],
        port: json!({"name": "api", "appProtocol": "kubernetes.io/h2c"}),
        ..Setup::default()
    }
    .start();
    let mut client = world.http2().await;
    let mut answers = BTreeMap::new();
    for _ in 0..40 {
        let ask = http::Request::builder().uri("http://reviews/").body(whole("")).unwrap();
        let got = read(client.send_request(ask).await.unwrap()).await;
        *answers.entry(got.body).or_insert(0) += 1;
    }
    assert!(answers.len() == 2 && answers.values().all(|count| *count >= 8), "{answers:?}");
    assert_eq!(world.count("upstreamConnections"), 2);
}

#[tokio::test]
async fn an_external_name_does_not_lead_to_the_node_itself() {
    let endpoint = Endpoint::named("a daemon of the node").await;
    let port = endpoint.address.port();
    let rules = json!([{"route": [{"destination": {"host": "outside", "port": {"number": port}}}]}]);
    let setup = || Setup::http(&[], rules.clone());
    let world = setup().start();
    assert_eq!(world.ask("GET /").await.body, "no endpoint is ready\n");
    let names = ["127.0.0.1", "localhost", "0.0.0.0", "169.254.169.254", "::1", "::ffff:127.0.0.1"];
    for (number, name) in (1..).zip(names) {
        let mut snapshot = setup().snapshot(world.front);
        let outside =
            json!({"namespace": "shop", "name": "outside", "externalName": name, "ports": [{"port": port}]});
        snapshot.services.push(serde_json::from_value(outside).unwrap());
        world.redirector.apply(snapshot);
        let got = world.ask("GET /").await;
        assert_eq!(
            (got.status, &*got.body),
            (503, "the destination's name leads to the node itself\n"),
            "{name}"
        );
        assert_eq!(world.count("namesRefused"), number, "{name}");
    }
    assert_eq!((endpoint.hits(), world.count("upstreamConnections")), (0, 0));
}
