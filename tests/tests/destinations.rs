//! Where rules may lead beside Services with an address: names outside the cluster, and headless Services.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use sluice_tests::{
    http::{curl, nginx},
    manifest, wait,
    world::{Pod, World},
};

/// An ExternalName Service; `ports` are YAML.
fn external(name: &str, of: &str, ports: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: shop}}\n\
         spec: {{type: ExternalName, externalName: \"{of}\", ports: {ports}}}\n"
    )
}

#[test]
fn names_aliases_and_headless_services_are_destinations() {
    let mut world = World::new();
    let (front, inside, outside) = (world.pod("front"), world.pod("inside"), world.pod("outside"));
    let client = world.pod("client");
    let servers = [(&front, 8080), (&inside, 8080), (&outside, 8081)];
    let _servers = servers.map(|(pod, port)| nginx(&world, pod, port));
    let _on_node = nginx(&world, world.node(), 8082);
    let pod = |pod: &Pod, app: &str| manifest::pod(&pod.name, app, &[&pod.v4.to_string()]);
    let services = manifest::service("front", &["10.96.0.1"], &["http:80:8080"])
        + &manifest::service("plain", &["10.96.0.2"], &["http:80:8080"]).replace("app: plain", "app: front")
        + &manifest::headless("inside", &["http:80:8080"])
        + &external("outside", &outside.v4.to_string(), "[{name: http, port: 8081}]")
        + &external("node", "localhost", "[]")
        + &external("alias", "plain.shop.svc.cluster.local.", "[{name: http, port: 80}]")
        + &external("loop", "10.96.0.1", "[{name: http, port: 80}]");
    let routes = ["inside", "outside", "node", "alias", "loop", "nobody"].map(|name| {
        let port = if name == "node" { ", port: {number: 8082}" } else { "" };
        format!(
            "  - match: [{{uri: {{prefix: /{name}}}}}]\n    route: [{{destination: {{host: {name}{port}}}}}]\n"
        )
    });
    let rules = "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\n\
        metadata: {name: front, namespace: shop}\nspec:\n  hosts: [front]\n  http:\n"
        .to_owned()
        + &routes.concat()
        + "  - route: [{destination: {host: front}}]\n";
    let pods = pod(&front, "front") + &pod(&inside, "inside") + &pod(&client, "client");
    world.apply("shop", &(services + &pods + &rules));
    let _agent = world.agent();
    wait::until("rules hold", || {
        let path = world.json(&["explain", "10.96.0.1:80"])["path"].clone();
        if path == "redirector" { Ok(()) } else { Err((path, world.log())) }
    });
    world.wait_healthy();
    let node = world.node().name.clone();
    for (path, want) in [
        ("/", "front"),
        ("/inside", "inside"),
        ("/outside", "outside"),
        ("/node", node.as_str()),
        ("/alias", "front"),
    ] {
        let response = curl(&client, &[&format!("http://10.96.0.1{path}")]);
        assert_eq!((response.status, response.seen("by")), (200, want), "{path}: {response:?}");
    }
    for path in ["/loop", "/nobody"] {
        let response = curl(&client, &[&format!("http://10.96.0.1{path}")]);
        assert_eq!(response.status, 503, "{path}: {response:?}");
    }
    let run_dir = world.folder().join("run").display().to_string();
    let explained = world.json(&["explain", "--run-dir", &run_dir, "http://10.96.0.1/node"]);
    assert_eq!(explained["verdict"], "translate", "{explained}");
    assert!(explained["steps"].to_string().contains("the addresses that localhost has"), "{explained}");
    // A name is nobody's frontend, and headless Services stay in the kernel.
    let rows = world.json(&["service"]);
    let known: Vec<_> = rows.as_array().unwrap().iter().map(|row| row["name"].as_str().unwrap()).collect();
    assert!(!known.contains(&"outside") && known.contains(&"front"), "{known:?}");
    let messages = world.json(&["status"])["warnings"].to_string();
    assert!(messages.contains("nobody") && !messages.contains("outside"), "{messages}");
}
