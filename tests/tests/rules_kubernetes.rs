//! Rules from an API server: definitions that are there or not, changes, and restarts that nobody notices.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use sluice_tests::{
    cluster::Cluster,
    http::{Nginx, curl, nginx},
    manifest, wait,
    world::Pod,
};

fn rule(subset: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1beta1\nkind: VirtualService\nmetadata: {{name: cart, namespace: shop}}\n\
         spec:\n  hosts: [cart]\n  http:\n  - route: [{{destination: {{host: cart, subset: {subset}}}}}]\n"
    )
}

const SUBSETS: &str = "apiVersion: networking.istio.io/v1beta1\nkind: DestinationRule\n\
    metadata: {name: cart, namespace: shop}\nspec:\n  host: cart\n  subsets:\n\
    \x20 - {name: v1, labels: {version: v1}}\n  - {name: v2, labels: {version: v2}}\n";

/// A cluster whose pods are nginx with a label each, and who answers a request.
fn cluster() -> (Cluster, Vec<Nginx>, Pod) {
    let mut cluster = Cluster::new();
    let web = ["v1", "v2"].map(|name| cluster.world.pod(name));
    let servers = web.iter().map(|pod| nginx(&cluster.world, pod, 8080)).collect();
    cluster.api.apply(&manifest::service("cart", &["10.96.0.1"], &["http:80:8080"]));
    let addresses: Vec<String> =
        web.iter().map(|pod| format!("{{\"addresses\": [\"{}\"]}}", pod.v4)).collect();
    cluster.api.apply(&format!(
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: cart-1, namespace: shop, \
         labels: {{kubernetes.io/service-name: cart}}}}\naddressType: IPv4\n\
         ports: [{{name: http, port: 8080, protocol: TCP}}]\nendpoints: [{}]\n",
        addresses.join(", ")
    ));
    for pod in &web {
        let text = manifest::pod(&pod.name, "cart", &[&pod.v4.to_string()]);
        cluster.api.apply(&text.replace("app: cart}", &format!("app: cart, version: {}}}", pod.name)));
    }
    let client = cluster.world.find("client").clone();
    (cluster, servers, client)
}

fn wait_by(client: &Pod, by: &str) {
    wait::until(by, || {
        // Without rules each of two answers half of the time.
        let answers: Vec<_> = (0..16).map(|_| curl(client, &["http://10.96.0.1/"])).collect();
        if answers.iter().all(|answer| answer.seen("by") == by) { Ok(()) } else { Err(answers) }
    });
}

#[test]
fn rules_come_change_and_go_and_no_restart_is_noticed() {
    let (cluster, _servers, client) = cluster();
    cluster.api.serve_rules();
    let agent = cluster.agent();
    assert_eq!(cluster.world.json(&["explain", "10.96.0.1:80"])["path"], "kernel", "no rules");
    cluster.api.apply(SUBSETS);
    cluster.api.apply(&rule("v2"));
    wait::until("rules hold", || {
        // In this order: what was healthy before the rules came says nothing about them.
        let path = cluster.world.json(&["explain", "10.96.0.1:80"])["path"].clone();
        let status = cluster.world.json(&["status"]);
        if path == "redirector" && status["healthy"] == true { Ok(()) } else { Err((path, status)) }
    });
    for _ in 0..10 {
        assert_eq!(curl(&client, &["http://10.96.0.1/"]).seen("by"), "v2");
    }
    cluster.api.apply(&rule("v1"));
    wait_by(&client, "v1");
    // From the kill to the end of the next agent's first round, every request is served under the rules.
    agent.kill();
    cluster.api.stall("VirtualService", true);
    let _agent = cluster.spawn();
    wait::until("the other listings are done", || {
        let status = cluster.world.json(&["status"]);
        let attached = status["programs"].to_string().contains("true");
        assert_eq!(curl(&client, &["http://10.96.0.1/"]).seen("by"), "v1", "while the rules are not listed");
        let synced =
            status["sources"].as_array().unwrap().iter().filter(|source| source["synced"] == true).count();
        if attached && synced >= 4 { Ok(()) } else { Err(status) }
    });
    cluster.api.stall("VirtualService", false);
    cluster.world.wait_healthy();
    for _ in 0..10 {
        assert_eq!(curl(&client, &["http://10.96.0.1/"]).seen("by"), "v1");
    }
    cluster.api.delete("VirtualService", "shop/cart");
    wait::until("the kernel serves again", || {
        let path = cluster.world.json(&["explain", "10.96.0.1:80"])["path"].clone();
        if path == "kernel" { Ok(()) } else { Err(path) }
    });
    assert_eq!(curl(&client, &["http://10.96.0.1/"]).status, 200);
}

/// A rule with something in its spec that nests this deep, of an age.
fn nested(name: &str, levels: usize) -> serde_json::Value {
    let deep = (0..levels).fold(serde_json::json!(1), |inner, _| serde_json::json!({ "a": inner }));
    serde_json::json!({
        "apiVersion": "networking.istio.io/v1beta1", "kind": "VirtualService",
        "metadata": {"name": name, "namespace": "shop", "managedFields": [{"manager": "m", "fieldsV1": deep}]},
        "spec": {"hosts": ["cart"], "deep": deep},
    })
}

/// What `config` says of a VirtualService: its state and messages.
fn said(cluster: &Cluster, name: &str) -> (String, String) {
    let rows = cluster.world.json(&["config"]);
    let row =
        rows.as_array().unwrap().iter().find(|row| row["name"] == name && row["kind"] == "VirtualService");
    row.map_or_else(Default::default, |row| (row["state"].to_string(), row["messages"].to_string()))
}

#[test]
fn an_object_that_nests_too_deep_or_is_too_long_concerns_nobody_else() {
    // Lists in pages, and streamed ones.
    for minor in [26, 34] {
        let (cluster, _servers, client) = cluster();
        cluster.api.version(minor, false);
        cluster.api.serve_rules();
        cluster.api.apply(SUBSETS);
        cluster.api.apply(&rule("v2"));
        cluster.api.put(nested("hostile", 300));
        let mut long = nested("long", 1);
        long["spec"]["deep"] = "x".repeat(2 << 20).into();
        cluster.api.put(long);
        let _agent = cluster.agent();
        wait_by(&client, "v2");
        for (name, why) in
            [("hostile", "nested deeper than 128 levels"), ("long", "more than 1048576 are not read")]
        {
            wait::until(name, || {
                let (state, messages) = said(&cluster, name);
                let right = state.contains("rejected") && messages.contains(why);
                if right { Ok(()) } else { Err((minor, state, messages)) }
            });
        }
        // What was good stays in force when it becomes hostile, and others change.
        cluster.api.put(nested("cart", 300));
        wait::until("the object is refused", || {
            let (state, messages) = said(&cluster, "cart");
            if state.contains("rejected") { Ok(()) } else { Err((minor, state, messages)) }
        });
        assert_eq!(curl(&client, &["http://10.96.0.1/"]).seen("by"), "v2", "{minor}");
        cluster.api.apply(&rule("v1"));
        wait_by(&client, "v1");
        let problems = cluster.world.json(&["status"])["problems"].to_string();
        assert!(!problems.contains("does not give"), "{minor}: {problems}");
    }
}

#[test]
fn without_the_definitions_there_are_no_rules_and_nothing_is_wrong() {
    let (cluster, _servers, client) = cluster();
    let _agent = cluster.agent();
    assert_eq!(curl(&client, &["http://10.96.0.1/"]).status, 200);
    let status = cluster.world.json(&["status"]);
    assert_eq!((&status["healthy"], &status["warnings"]), (&true.into(), &serde_json::json!([])), "{status}");
}
