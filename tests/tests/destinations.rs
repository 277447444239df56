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
    let own = world.node().v4.to_string();
    let pod = |pod: &Pod, app: &str| manifest::pod(&pod.name, app, &[&pod.v4.to_string()]);
    let services = manifest::service("front", &["10.96.0.1"], &["http:80:8080"])
        + &manifest::service("plain", &["10.96.0.2"], &["http:80:8080"]).replace("app: plain", "app: front")
        + &manifest::headless("inside", &["http:80:8080"])
        + &external("outside", &outside.v4.to_string(), "[{name: http, port: 8081}]")
        + &external("bare", &outside.v4.to_string(), "[]")
        + &external("local", "localhost", "[]")
        + &external("node", &own, "[]")
        + &external("alias", "plain.shop.svc.cluster.local.", "[{name: http, port: 80}]")
        + &external("loop", "10.96.0.1", "[{name: http, port: 80}]");
    let names = ["inside", "outside", "bare", "local", "node", "alias", "loop", "nobody"];
    let routes = names.map(|name| {
        let port = match name {
            "bare" => ", port: {number: 8081}",
            "local" | "node" => ", port: {number: 8082}",
            _ => "",
        };
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
    for (path, want) in [
        ("/", "front"),
        ("/inside", "inside"),
        ("/outside", "outside"),
        ("/bare", "outside"),
        ("/alias", "front"),
    ] {
        let response = curl(&client, &[&format!("http://10.96.0.1{path}")]);
        assert_eq!((response.status, response.seen("by")), (200, want), "{path}: {response:?}");
    }
    for path in ["/loop", "/nobody"] {
        let response = curl(&client, &[&format!("http://10.96.0.1{path}")]);
        assert_eq!(response.status, 503, "{path}: {response:?}");
    }
    // What the node alone may reach, nobody reaches by a name of their own.
    for path in ["/local", "/node"] {
        let response = curl(&client, &[&format!("http://10.96.0.1{path}")]);
        let said = response.body.as_str();
        assert_eq!(
            (response.status, said),
            (503, "the destination's name leads to the node itself\n"),
            "{path}"
        );
    }
    let run_dir = world.folder().join("run").display().to_string();
    let explained = world.json(&["explain", "--run-dir", &run_dir, "http://10.96.0.1/bare"]);
    assert_eq!(explained["verdict"], "translate", "{explained}");
    assert!(
        explained["steps"].to_string().contains(&format!("the addresses that {} has", outside.v4)),
        "{explained}"
    );
    // A name is nobody's frontend, and headless Services stay in the kernel.
    let rows = world.json(&["service"]);
    let known: Vec<_> = rows.as_array().unwrap().iter().map(|row| row["name"].as_str().unwrap()).collect();
    assert!(!known.contains(&"outside") && known.contains(&"front"), "{known:?}");
    let messages = world.json(&["status"])["warnings"].to_string();
    assert!(messages.contains("nobody") && !messages.contains("outside"), "{messages}");
}

#[test]
fn zones_are_those_of_the_node_and_of_the_slices() {
    let mut world = World::new();
    let (near, far, client) = (world.pod("near"), world.pod("far"), world.pod("client"));
    let _servers = [&near, &far].map(|pod| nginx(&world, pod, 8080));
    let service = manifest::service("front", &["10.96.0.1"], &["http:80:8080"])
        .replace("  selector: {app: front}\n", "");
    let node = "---\napiVersion: v1\nkind: Node\nmetadata: {name: node-1, labels: {topology.kubernetes.io/zone: a}}\n";
    let endpoint = |pod: &Pod, zone: &str| format!("  - {{addresses: [\"{}\"], zone: {zone}}}\n", pod.v4);
    let slice = "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: front-1, namespace: shop, \
        labels: {kubernetes.io/service-name: front}}\naddressType: IPv4\nports: [{name: http, port: 8080}]\nendpoints:\n"
        .to_owned()
        + &endpoint(&near, "a")
        + &endpoint(&far, "b");
    let rules = |to: &str| {
        format!(
            "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: front, namespace: shop}}\n\
             spec: {{hosts: [front], http: [{{route: [{{destination: {{host: front}}}}]}}]}}\n\
             ---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: front, namespace: shop}}\n\
             spec: {{host: front, trafficPolicy: {{loadBalancer: {{localityLbSetting: {{distribute: \
             [{{from: r/a/*, to: {{\"r/{to}/*\": 100}}}}]}}}}}}}}\n"
        )
    };
    world.apply("shop", &(service + node + &slice));
    world.apply("rules", &rules("a"));
    let _agent = world.agent();
    for (zone, by) in [("a", "near"), ("b", "far")] {
        world.apply("rules", &rules(zone));
        let ask = || curl(&client, &["http://10.96.0.1/"]).seen("by").to_owned();
        wait::until("the zone's endpoint answers", || {
            let got: Vec<String> = (0..8).map(|_| ask()).collect();
            if got.iter().all(|got| got == by) { Ok(()) } else { Err((got, world.log())) }
        });
        let run_dir = world.folder().join("run").display().to_string();
        let explained =
            world.json(&["explain", "--run-dir", &run_dir, "http://10.96.0.1/"])["steps"].to_string();
        assert!(explained.contains(&format!("by zone, by weight: 100 to r/{zone}/*")), "{explained}");
    }
}
