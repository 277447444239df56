//! What load balancers ask a node: health check ports of Services.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use serde_json::json;
use sluice_tests::{
    http::{Response, curl},
    manifest,
    peer::Peer,
    wait,
    world::{Pod, World, ip},
};

/// shop/cart, a LoadBalancer with a health check, in both IP families.
const LOCAL: &str = "  type: LoadBalancer\n  externalTrafficPolicy: Local\n  healthCheckNodePort: 31000\n";

fn service(spec: &str) -> String {
    manifest::service("cart", &["10.96.0.1", "fd00:96::1"], &["http:80:8080"])
        .replace("spec:\n", &format!("spec:\n{spec}"))
}

/// A slice of shop/cart: addresses of one family, `ready` or `terminating`, with their nodes.
fn slice(name: &str, endpoints: &[(String, &str, &str)]) -> String {
    let endpoint = |(address, state, node): &(String, &str, &str)| {
        let ready = *state == "ready";
        json!({"addresses": [address], "nodeName": node,
            "conditions": {"ready": ready, "serving": true, "terminating": !ready}})
    };
    let family =
        if endpoints.first().is_some_and(|(address, _, _)| address.contains(':')) { "IPv6" } else { "IPv4" };
    format!(
        "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: {name}, namespace: shop, \
         labels: {{kubernetes.io/service-name: cart}}}}\naddressType: {family}\n\
         ports: [{{name: http, port: 8080, protocol: TCP}}]\nendpoints: {}\n",
        json!(endpoints.iter().map(endpoint).collect::<Vec<_>>())
    )
}

struct Node {
    world: World,
    server: (Pod, Peer),
    client: (Pod, Peer),
}

impl Node {
    fn new() -> Self {
        let mut world = World::new();
        let server = world.server("cart-1", &[(8080, false)]);
        let pod = world.pod("client");
        let client = (pod.clone(), world.peer(&pod));
        Self { world, server, client }
    }

    /// What a load balancer gets at the node's IPv4 address.
    fn ask(&self, path: &str) -> Response {
        curl(&self.client.0, &[&format!("http://{}:31000{path}", self.world.node().v4)])
    }

    fn wait_status(&self, wanted: u16) -> Response {
        wait::until(&format!("status {wanted} of the health check"), || {
            let response = self.ask("/healthz");
            if response.status == wanted { Ok(response) } else { Err((response, self.world.log())) }
        })
    }
}

/// Word for word what kube-proxy says: controllers of load balancers parse it.
fn body(count: usize, healthy: bool) -> String {
    format!(
        "{{\n\t\"service\": {{\n\t\t\"namespace\": \"shop\",\n\t\t\"name\": \"cart\"\n\t}},\n\t\"localEndpoints\": {count},\n\t\
         \"serviceProxyHealthy\": {healthy}\n}}"
    )
}

#[test]
fn the_health_check_counts_ready_endpoints_of_this_node_in_each_family() {
    let mut node = Node::new();
    let (pod, _) = &node.server;
    let (v4, v6) = (pod.v4.to_string(), pod.v6.to_string());
    let other = "10.244.9.9".to_owned();
    node.world.apply("service", &service(LOCAL));
    node.world.apply("v4", &slice("cart-v4", &[(other.clone(), "ready", "node-2")]));
    let _agent = node.world.agent();
    for (case, endpoints, status, count) in [
        ("elsewhere only", vec![(other.clone(), "ready", "node-2")], 503, 0),
        ("one here", vec![(v4.clone(), "ready", "node-1"), (other, "ready", "node-2")], 200, 1),
        (
            "two here, one of them going",
            vec![
                (v4.clone(), "ready", "node-1"),
                ("10.244.9.8".to_owned(), "ready", "node-1"),
                ("10.244.9.7".to_owned(), "terminating", "node-1"),
            ],
            200,
            2,
        ),
        ("the last one going", vec![(v4, "terminating", "node-1")], 503, 0),
    ] {
        node.world.apply("v4", &slice("cart-v4", &endpoints));
        wait::until(case, || {
            let response = node.ask("/any/path");
            let right = response.status == status && response.body == body(count, true);
            if right { Ok(()) } else { Err((response, node.world.log())) }
        });
        let headers = node.ask("/").headers;
        assert_eq!(headers["content-type"], "application/json", "{case}");
        assert_eq!(headers["x-content-type-options"], "nosniff", "{case}");
        assert_eq!(headers["x-load-balancing-endpoint-weight"], count.to_string(), "{case}");
    }
    assert_eq!(node.client.1.tcp("10.96.0.1:80").unwrap().by, "cart-1", "who is going serves on");
    let at_v6 = format!("http://[{}]:31000/", node.world.node().v6);
    assert_eq!(curl(&node.client.0, &[&at_v6]).body, body(0, true), "no endpoints of that family");
    node.world.apply("v6", &slice("cart-v6", &[(v6, "ready", "node-1")]));
    wait::until("the other family counts for itself", || {
        let response = curl(&node.client.0, &[&at_v6]);
        if response.body == body(1, true) { Ok(()) } else { Err(response) }
    });
    assert_eq!(node.ask("/").status, 503);
    std::fs::remove_file(node.world.manifests().join("service.yaml")).unwrap();
    node.wait_status(0);
    assert_eq!(node.client.1.tcp(&format!("{}:31000", node.world.node().v4)).unwrap_err(), "ECONNREFUSED");
}

#[test]
fn only_load_balancers_with_the_policy_local_have_a_health_check() {
    let node = Node::new();
    node.world.apply("v4", &slice("cart-v4", &[(node.server.0.v4.to_string(), "ready", "node-1")]));
    node.world.apply("service", &service(LOCAL));
    let _agent = node.world.agent();
    for (from, to) in [
        ("externalTrafficPolicy: Local", "externalTrafficPolicy: Cluster"),
        ("LoadBalancer", "NodePort"),
        ("31000", "0"),
        ("31000", "31001"),
        ("  healthCheckNodePort: 31000\n", ""),
    ] {
        node.world.apply("service", &service(LOCAL));
        node.wait_status(200);
        node.world.apply("service", &service(&LOCAL.replace(from, to)));
        node.wait_status(0);
    }
    let elsewhere = curl(&node.client.0, &[&format!("http://{}:31001/", node.world.node().v4)]);
    assert_eq!(elsewhere.status, 0, "it went with the change that followed");
}

#[test]
fn a_health_check_port_that_is_taken_is_named_and_had_once_it_is_free() {
    let node = Node::new();
    let mut squatter = node.world.peer(node.world.node());
    squatter.serve("squatter", 31000, false);
    node.world.apply("v4", &slice("cart-v4", &[(node.server.0.v4.to_string(), "ready", "node-1")]));
    node.world.apply("service", &service(LOCAL));
    let _agent = node.world.agent();
    let v4 = node.world.node().v4;
    let wanted = format!("Service shop/cart: healthCheckNodePort 31000 is in use on {v4} by another program");
    let warnings = || node.world.json(&["status"])["warnings"].to_string();
    wait::until("status names Service, port and address", || {
        let warnings = warnings();
        if warnings.contains(&wanted) { Ok(()) } else { Err(warnings) }
    });
    // One that wants the same port besides: the older one, or here the first by name, has it.
    let rival = service(LOCAL).replace("name: cart,", "name: rival,").replace("96.0.1", "96.0.2");
    node.world.apply("rival", &rival.replace("fd00:96::1", "fd00:96::2"));
    wait::until("status names both", || {
        let warnings = warnings();
        let text = "Service shop/rival: healthCheckNodePort 31000 belongs to Service shop/cart";
        if warnings.contains(text) { Ok(()) } else { Err(warnings) }
    });
    let rows = node.world.json(&["config"]);
    let row = rows.as_array().unwrap().iter().find(|row| row["name"] == "cart").unwrap();
    assert_eq!(row["messages"][0]["path"], "spec.healthCheckNodePort");
    drop(squatter);
    assert_eq!(node.wait_status(200).body, body(1, true));
    std::fs::remove_file(node.world.manifests().join("rival.yaml")).unwrap();
    wait::until("nothing to warn of", || {
        let warnings = warnings();
        if warnings == "[]" { Ok(()) } else { Err(warnings) }
    });
}

#[test]
fn a_node_that_does_not_forward_says_so_in_its_health_checks() {
    let node = Node::new();
    node.world.apply("v4", &slice("cart-v4", &[(node.server.0.v4.to_string(), "ready", "node-1")]));
    node.world.apply("service", &service(LOCAL));
    let _agent = node.world.agent();
    node.wait_status(200);
    let netns = node.world.node().netns.clone();
    // Without a loopback the self-probe fails; pods reach the node all the same.
    ip(&format!("-n {netns} link set lo down"));
    assert_eq!(node.wait_status(503).body, body(1, false));
    ip(&format!("-n {netns} link set lo up"));
    assert_eq!(node.wait_status(200).body, body(1, true));
}
