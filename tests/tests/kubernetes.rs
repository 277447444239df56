//! The agent on an API server: lists, watches, reconnects, and never deletes on partial knowledge. What needs no faults
//! but an absence runs on a real API server too, if there is one.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use serde_json::json;
use sluice_tests::{
    cluster::{Cluster, on_every_api_server},
    manifest, wait,
};

#[test]
fn services_and_slices_arrive_change_and_go() {
    on_every_api_server(|mut cluster| {
        cluster.cart(1);
        let _agent = cluster.agent();
        cluster.world.wait_verdict("10.96.0.1:80", "translate", 1);
        assert_eq!(cluster.client.tcp("10.96.0.1:80").unwrap().by, "cart-1");
        cluster.api.bookmark();
        cluster.cart(2);
        cluster.world.wait_verdict("10.96.0.1:80", "translate", 2);
        cluster.api.delete("EndpointSlice", "shop/cart-1");
        cluster.world.wait_verdict("10.96.0.1:80", "reject", 0);
        assert_eq!(cluster.client.tcp("10.96.0.1:80"), Err("ECONNREFUSED".to_owned()));
        cluster.api.delete("Service", "shop/cart");
        cluster.world.wait_verdict("10.96.0.1:80", "pass", 0);
        let sources = cluster.world.json(&["status"])["sources"].clone();
        assert_eq!(sources.as_array().unwrap().len(), 4);
        assert!(sources.as_array().unwrap().iter().all(|source| source["synced"] == true), "{sources}");
    });
}

#[test]
fn networks_of_cluster_ips_are_guarded_where_the_api_server_tells_them() {
    let cluster = Cluster::new();
    cluster.api.serve_service_cidrs();
    cluster.cart(1);
    let cidr = |name: &str, networks: &str| {
        format!(
            "---\napiVersion: networking.k8s.io/v1\nkind: ServiceCIDR\nmetadata: {{name: {name}}}\n\
             spec: {{cidrs: [{networks}]}}\n"
        )
    };
    cluster.api.apply(&cidr("kubernetes", "10.96.0.0/16, \"fd00:96::/112\", nonsense"));
    let _agent = cluster.agent();
    let guarded = |count: u64| {
        wait::until("networks", || {
            let maps = cluster.world.json(&["status"])["maps"].clone();
            let map = maps.as_array().unwrap().iter().find(|map| map["name"] == "SOURCE_RANGES").cloned();
            if map.as_ref().unwrap()["entries"] == count { Ok(()) } else { Err(maps) }
        });
    };
    guarded(2);
    assert!(cluster.world.json(&["config"]).to_string().contains("\\\"nonsense\\\" is not a network"));
    cluster.api.apply(&cidr("more", "10.98.0.0/16"));
    guarded(3);
    cluster.api.delete("ServiceCIDR", "kubernetes");
    guarded(1);
    cluster.api.delete("ServiceCIDR", "more");
    guarded(0);
    cluster.world.wait_healthy();
}

#[test]
fn many_objects_arrive_over_several_pages() {
    on_every_api_server(|cluster| {
        let address = |index: u32| format!("10.97.{}.{}", index / 250, index % 250 + 1);
        let service = |index| manifest::service(&format!("s{index}"), &[&address(index)], &["http:80:8080"]);
        cluster.api.apply(&(0..1100).map(service).collect::<String>());
        let _agent = cluster.agent();
        let rows = cluster.world.json(&["service"]);
        let ours = rows.as_array().unwrap().iter().filter(|row| row["namespace"] == "shop");
        assert_eq!(ours.count(), 1100, "a real API server has a Service of its own besides");
    });
}

#[test]
fn nothing_is_deleted_before_the_first_complete_listing() {
    let mut cluster = Cluster::new();
    cluster.cart(2);
    let agent = cluster.agent();
    cluster.world.wait_verdict("10.96.0.1:80", "translate", 2);
    agent.kill();
    for stalled in ["EndpointSlice", "Service"] {
        cluster.api.stall(stalled, true);
        let other = if stalled == "Service" { "EndpointSlice" } else { "Service" };
        let (lists, mut agent) = (cluster.api.lists(other), None);
        cluster.never_fails(|api, world| {
            agent = Some(world.spawn_agent(&["--kubeconfig", &api.kubeconfig()]));
            wait::until("one source is listed", || {
                if api.lists(other) > lists { Ok(()) } else { Err("not yet") }
            });
            wait::until("status says what is missing", || {
                let status = world.json(&["status"]);
                let text = status["problems"].to_string();
                if text.contains("not listed completely yet: ") { Ok(()) } else { Err(status) }
            });
        });
        cluster.world.wait_verdict("10.96.0.1:80", "translate", 2);
        cluster.api.stall(stalled, false);
        cluster.world.wait_healthy();
        cluster.world.wait_verdict("10.96.0.1:80", "translate", 2);
        agent.unwrap().kill();
    }
}

#[test]
fn an_api_server_that_is_absent_at_the_start_is_waited_for_and_named() {
    on_every_api_server(|mut cluster| {
        cluster.cart(1);
        cluster.api.down();
        let _agent = cluster.spawn();
        wait::until("status names the API server", || {
            let status = cluster.world.json(&["status"]);
            let text = status["problems"].to_string();
            if text.contains("the API server does not give services") { Ok(()) } else { Err(status) }
        });
        cluster.api.up();
        cluster.world.wait_healthy();
        assert!(cluster.client.tcp("10.96.0.1:80").is_ok());
    });
}

#[test]
fn lost_watches_compaction_and_restarts_are_caught_up_with_and_cause_no_flicker() {
    let mut cluster = Cluster::new();
    cluster.cart(2);
    let _agent = cluster.agent();
    cluster.world.wait_verdict("10.96.0.1:80", "translate", 2);
    let more = manifest::service("more", &["10.96.0.2"], &["http:80:8080"]);
    let less = cluster.slice("cart", 1, &[]);
    let lists = cluster.api.lists("Service");
    cluster.never_fails(|api, world| {
        api.drop_watches();
        api.apply(&more);
        world.wait_verdict("10.96.0.2:80", "reject", 0);
        api.compact();
        api.delete("Service", "shop/more");
        world.wait_verdict("10.96.0.2:80", "pass", 0);
        assert!(api.lists("Service") > lists, "410 leads to a new listing");
    });
    // Whoever is connected to the pod that goes is told so: nobody dials meanwhile.
    cluster.api.apply(&less);
    cluster.world.wait_verdict("10.96.0.1:80", "translate", 1);
    cluster.api.down();
    assert!(cluster.client.tcp("10.96.0.1:80").is_ok(), "without an API server the node serves on");
    cluster.cart(2);
    cluster.api.up();
    cluster.world.wait_verdict("10.96.0.1:80", "translate", 2);
    cluster.world.wait_healthy();
}

#[test]
fn hints_follow_the_zone_of_this_node() {
    on_every_api_server(|cluster| {
        let node = |zone: &str| {
            format!(
                "apiVersion: v1\nkind: Node\nmetadata: {{name: node-1, labels: {{topology.kubernetes.io/zone: {zone}}}}}\n"
            )
        };
        cluster.api.apply(&node("a"));
        cluster.api.apply(
        "apiVersion: v1\nkind: Node\nmetadata: {name: node-2, labels: {topology.kubernetes.io/zone: z}}\n",
    );
        cluster.cart(2);
        cluster.api.apply(&cluster.slice("cart", 2, &["a", "b"]));
        let _agent = cluster.agent();
        for (zone, endpoint) in [("a", 0), ("b", 1)] {
            cluster.api.apply(&node(zone));
            let wanted = cluster.pods[endpoint].0.v4.to_string();
            wait::until("the zone's endpoint", || {
                let answer = cluster.world.json(&["explain", "10.96.0.1:80"]);
                let excluded = answer["excluded"].as_array().unwrap();
                let right = answer["endpoints"][0]["address"] == wanted
                    && answer["endpoints"].as_array().unwrap().len() == 1
                    && excluded.len() == 1
                    && excluded[0]["reason"] == "topology";
                if right { Ok(()) } else { Err(answer) }
            });
        }
    });
}

#[test]
fn a_bad_object_is_named_and_the_good_ones_serve() {
    let mut cluster = Cluster::new();
    cluster.cart(1);
    cluster.api.apply(&manifest::service("bad", &["10.96.0.999"], &["http:80:8080"]));
    let _agent = cluster.agent();
    assert!(cluster.client.tcp("10.96.0.1:80").is_ok());
    let status = cluster.world.json(&["status"]);
    let warnings = status["warnings"].to_string();
    assert!(
        warnings.contains("Service shop/bad: spec.clusterIPs[0]: \\\"10.96.0.999\\\" is not an IP address"),
        "{warnings}"
    );
    let row = |name: &str| {
        let rows = cluster.world.json(&["config"]);
        rows.as_array().unwrap().iter().find(|row| row["name"] == name).cloned().unwrap()
    };
    assert_eq!((&row("cart")["state"], &row("cart")["messages"]), (&json!("accepted"), &json!([])));
    assert_eq!(row("bad")["messages"][0]["path"], "spec.clusterIPs[0]");
    cluster.api.apply(&manifest::service("bad", &["10.96.0.9"], &["http:80:8080"]));
    cluster.world.wait_verdict("10.96.0.9:80", "reject", 0);
    assert_eq!(cluster.world.json(&["status"])["warnings"], json!([]));
}

#[test]
fn when_one_api_server_fails_the_next_one_is_asked_and_nothing_flickers() {
    let mut cluster = Cluster::new();
    let (_other, _agent) = cluster.agent_on_two(&[]);
    cluster.world.wait_verdict("10.96.0.1:80", "translate", 1);
    cluster.api.down();
    cluster.never_fails(|_, world| world.wait_verdict("10.96.0.1:80", "translate", 2));
    cluster.world.wait_healthy();
}

#[test]
fn an_api_server_reached_by_its_own_cluster_ip_is_named() {
    let cluster = Cluster::new();
    cluster.cart(1);
    let own = cluster.world.node().v4.to_string();
    let service = manifest::service("kubernetes", &[&own], &["https:443:6443"]);
    cluster.api.apply(&service.replace("namespace: shop", "namespace: default"));
    let _agent = cluster.spawn();
    wait::until("status says so", || {
        let status = cluster.world.json(&["status"]);
        let text = status["problems"].to_string();
        if text.contains("which works only through this agent; name a direct address") {
            Ok(())
        } else {
            Err(status)
        }
    });
}
