//! What load balancers, the kubelet and monitoring ask a node: health, metrics, health check ports of Services.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use serde_json::{Value, json};
use sluice_tests::{
    apiserver::access::rights,
    cluster::Cluster,
    http::{Response, curl},
    manifest,
    peer::Peer,
    wait,
    world::{Pod, World, ip, sluice_binary, text},
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
fn status_names_the_kernel_and_what_stands_in_for_what_it_lacks() {
    let mut world = World::new();
    let _pod = world.pod("client");
    let _agent = world.agent();
    let status = wait::until("programs at devices", || {
        let status = world.json(&["status"]);
        let hooks = status["programs"].to_string();
        if hooks.contains("\"tc/") || hooks.contains("\"clsact/") { Ok(status) } else { Err(status) }
    });
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    assert_eq!(status["kernel"]["release"], release);
    let lacks = status["kernel"]["lacks"].as_array().unwrap();
    let lacks_tcx = lacks.iter().any(|row| row["feature"] == "TCX" && row["instead"].is_string());
    assert_eq!(lacks_tcx, status["programs"].to_string().contains("clsact/"), "{status}");
    let shown = text(&world.sluice(&["status"]));
    assert!(shown.contains(&format!("kernel   {release}")), "{shown}");
    assert_eq!(shown.contains("without TCX (Linux 6.6)"), lacks_tcx, "{shown}");
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
fn on_an_api_server_a_health_check_port_that_is_taken_is_an_event_too_and_told_once() {
    let cluster = Cluster::new();
    let mut squatter = cluster.world.peer(cluster.world.node());
    squatter.serve("squatter", 31000, false);
    let spec = LOCAL.to_owned() + "  clusterIP: 10.96.0.1\n";
    let service = |name: &str| {
        manifest::service(name, &["10.96.0.1"], &["http:80:8080"])
            .replace("  clusterIP: \"10.96.0.1\"\n", &spec)
            .replace("metadata: {name:", "metadata: {uid: uid-1, name:")
    };
    cluster.api.apply(&service("cart"));
    cluster.api.apply(&cluster.slice("cart", 1, &[]));
    let _agent = cluster.agent();
    let about = |name: &str| -> Vec<Value> {
        let all = cluster.api.published().into_iter();
        all.filter(|event| event["regarding"]["name"] == name).collect()
    };
    let published = |name: &str| {
        wait::until(name, || {
            let events = about(name);
            if events.is_empty() { Err((events, cluster.world.log())) } else { Ok(events) }
        })
    };
    let event = published("cart").remove(0);
    for (field, want) in [
        ("/type", "Warning"),
        ("/reason", "HealthCheckNodePortUnavailable"),
        ("/regarding/kind", "Service"),
        ("/regarding/namespace", "shop"),
        ("/regarding/uid", "uid-1"),
        ("/metadata/namespace", "shop"),
        ("/reportingController", "sluice"),
        ("/reportingInstance", "node-1"),
    ] {
        assert_eq!(event.pointer(field), Some(&json!(want)), "{field}: {event}");
    }
    let note = event["note"].as_str().unwrap();
    assert!(note.contains("healthCheckNodePort 31000 is in use"), "{note}");
    // Told after the port was tried again.
    cluster.api.apply(&service("rival").replace("10.96.0.1", "10.96.0.2"));
    let _told = published("rival");
    let events = about("cart");
    assert!(events.len() == 1 && events[0]["series"].is_null(), "once, and not again: {events:?}");
    // An API server that takes no events is in nobody's way.
    cluster.api.allow_only(rights(&json!({"rules": [{"apiGroups": ["", "discovery.k8s.io"],
        "resources": ["services", "endpointslices", "nodes", "pods"], "verbs": ["list", "watch"]}]})));
    cluster.api.apply(&service("third").replace("10.96.0.1", "10.96.0.3"));
    wait::until("it is only in the log", || {
        let log = cluster.world.log();
        let refused = "the event HealthCheckNodePortUnavailable of Service shop/third is not published";
        if log.contains(refused) { Ok(()) } else { Err(log) }
    });
    cluster.catch_up();
    assert_eq!(cluster.world.json(&["status"])["healthy"], true);
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

/// What the node says of itself at this port and path: status and body.
fn node_says(world: &World, port: u16, path: &str) -> (u16, Value) {
    let response = curl(world.node(), &[&format!("http://127.0.0.1:{port}{path}")]);
    (response.status, serde_json::from_str(&response.body).unwrap_or(Value::Null))
}

fn wait_says(world: &World, path: &str, status: u16) -> Value {
    wait::until(&format!("{status} of {path}"), || {
        let (got, body) = node_says(world, 10256, path);
        if got == status { Ok(body) } else { Err((got, body, world.log())) }
    })
}

#[test]
fn an_agent_that_starts_is_healthy_and_a_node_that_leaves_is_alive_but_not_eligible() {
    let cluster = Cluster::new();
    let node = |metadata: &str, taint: &str| {
        let spec = format!("{{taints: [{{key: {taint}, effect: NoSchedule}}]}}");
        cluster.api.apply(&format!(
            "apiVersion: v1\nkind: Node\nmetadata: {{name: node-1{metadata}}}\nspec: {spec}\n"
        ));
    };
    cluster.cart(1);
    cluster.api.stall("Service", true);
    let _agent = cluster.spawn();
    wait_says(&cluster.world, "/healthz", 200);
    wait::until("status knows better", || {
        let text = cluster.world.json(&["status"])["problems"].to_string();
        if text.contains("not listed completely yet: services") { Ok(()) } else { Err(text) }
    });
    assert_eq!(node_says(&cluster.world, 10256, "/healthz").0, 200, "still");
    cluster.api.stall("Service", false);
    cluster.world.wait_healthy();
    let gone = ", deletionTimestamp: 2026-01-01T00:00:00Z";
    for (case, metadata, taint, eligible) in [
        ("the autoscaler's taint", "", "ToBeDeletedByClusterAutoscaler", false),
        ("another taint", "", "node.kubernetes.io/unschedulable", true),
        ("being deleted", gone, "a", false),
        ("neither", "", "a", true),
    ] {
        node(metadata, taint);
        let body = wait_says(&cluster.world, "/healthz", if eligible { 200 } else { 503 });
        assert_eq!(body["nodeEligible"], eligible, "{case}");
        assert_eq!(node_says(&cluster.world, 10256, "/livez").0, 200, "{case}: alive");
        assert_eq!(node_says(&cluster.world, 10249, "/healthz").0, 200, "{case}: kube-proxy's says no more");
        let warnings = cluster.world.json(&["status"])["warnings"].to_string();
        assert_eq!(warnings.contains("this node is about to be deleted"), !eligible, "{case}: {warnings}");
        assert!(cluster.world.sluice(&["status"]).status.success(), "{case}: nothing is wrong");
    }
}

#[test]
fn an_agent_that_is_stuck_is_neither_healthy_nor_alive() {
    let world = World::new();
    // From outside the cgroup of the sockets, it probes them by a child, which can be frozen.
    let place = Pod { cgroup: sluice::loader::find_cgroup(None).unwrap(), ..world.node().clone() };
    let mut command = place.command(&sluice_binary().display().to_string());
    command
        .args(["run", "--node-name", "node-1", "--sync-timeout", "1", "--manifests"])
        .arg(world.manifests());
    command.arg("--cgroup").arg(world.cgroup()).arg("--bpffs").arg(world.bpffs());
    command.arg("--run-dir").arg(world.folder().join("run")).stderr(std::process::Stdio::null());
    let mut agent = command.spawn().unwrap();
    world.wait_healthy();
    let leaf = world.cgroup().join(format!("sluice-probe-{}", agent.id()));
    wait::until("a probe that is frozen", || {
        // The agent removes it after each probe.
        let _there_already = std::fs::create_dir(&leaf);
        std::fs::write(leaf.join("cgroup.freeze"), "1").map_err(|error| error.to_string())?;
        match std::fs::read_to_string(leaf.join("cgroup.procs")) {
            Ok(processes) if !processes.is_empty() => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
    let body = wait_says(&world, "/healthz", 503);
    assert_ne!(body["lastUpdated"], body["currentTime"]);
    assert_eq!(node_says(&world, 10256, "/livez").0, 503, "the kubelet should start it anew");
    let problems = world.json(&["status"])["problems"].to_string();
    assert!(problems.contains("an update has not reached the maps for "), "{problems}");
    std::fs::write(leaf.join("cgroup.freeze"), "0").unwrap();
    wait_says(&world, "/healthz", 200);
    sluice_tests::world::kill(&mut agent);
}
