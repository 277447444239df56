//! What pods ask for: to be left alone, and their headless Services' ports.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use serde_json::Value;
use sluice_tests::{
    cluster::Cluster,
    manifest,
    peer::Peer,
    shop::{Dial, WAYS, assert_peer, shop},
    wait,
    world::{Pod, World, ip, text},
};

const UID: &str = "0f0e0d0c-1111-2222-3333-444455556666";

fn annotated(pod: &Pod, socket_lb: &str) -> String {
    manifest::pod("mesh", "mesh", &[&pod.v4.to_string()]).replace(
        "metadata: {name: mesh,",
        &format!(
            "metadata: {{name: mesh, uid: \"{UID}\", annotations: {{sluice.dev/socket-lb: \"{socket_lb}\"}},"
        ),
    )
}

/// Waits until `explain` says that the pod is left alone, or that it is not.
fn wait_left_alone(world: &World, from: &str, is_left_alone: bool) {
    wait::until(from, || {
        let output = world.sluice(&["explain", "--from", from, "10.96.0.1:80", "-o", "json"]);
        let answer: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        let told = answer["steps"].to_string().contains("(opted_out)");
        let by = if is_left_alone { "packet_translated" } else { "connect_translated" };
        if told == is_left_alone && answer["reason"] == by { Ok(()) } else { Err(text(&output)) }
    });
}

/// Something in the pod that catches what goes to the Service's address, as a sidecar does.
fn sidecar(world: &World, pod: &Pod) -> Peer {
    for address in ["10.96.0.1/32", "fd00:96::1/128"] {
        ip(&format!("-n {} addr add {address} dev lo", pod.netns));
    }
    let mut sidecar = world.peer(pod);
    sidecar.serve("sidecar", 80, false);
    sidecar.serve("sidecar", 53, true);
    sidecar
}

fn assert_ways(peer: &mut Peer, case: &str, left_alone: bool) {
    for (way, dial, to) in WAYS {
        let dial: Dial = dial;
        let answer = dial(peer, to).unwrap_or_else(|error| panic!("{case}, {way}: {error}"));
        assert_eq!(answer.by == "sidecar", left_alone, "{case}, {way}: {answer:?}");
        assert_peer(way, &answer, to);
    }
}

#[test]
fn a_pod_that_asks_to_be_left_alone_sees_the_services_address_itself() {
    let mut shop = shop(2);
    let pod = shop.world.pod(&format!("pod{UID}"));
    shop.world.apply("mesh", &annotated(&pod, "false"));
    // Its sandbox comes up after the object, as it does in a cluster.
    let _sidecar = sidecar(&shop.world, &pod);
    let mut mesh = shop.world.peer(&pod);
    wait_left_alone(&shop.world, "mesh", true);
    wait_left_alone(&shop.world, "shop/mesh", true);
    assert_ways(&mut mesh, "annotated", true);
    assert_ways(&mut shop.client, "another pod", false);
    let reasons = shop.world.json(&["reasons"]);
    let counted = reasons.as_array().unwrap().iter().find(|row| row["name"] == "opted_out").unwrap();
    assert!(counted["count"].as_u64() >= Some(WAYS.len() as u64), "every way: {counted}");
    shop.restart_agent();
    assert_ways(&mut mesh, "after a restart of the agent", true);
    shop.world.apply("mesh", &annotated(&pod, "true"));
    wait_left_alone(&shop.world, "mesh", false);
    assert_ways(&mut mesh, "the annotation taken back", false);
}

#[test]
fn who_dials_is_a_pod_that_this_node_has_where_pods_are_known() {
    let mut shop = shop(1);
    let explain = |world: &World, from: &str| {
        let output = world.sluice(&["explain", "--from", from, "10.96.0.1:80"]);
        (output.status.code(), text(&output))
    };
    let strangers = manifest::pod("away", "away", &["10.244.9.9"]).replace("node-1", "node-2")
        + &manifest::pod("twin", "twin", &["10.244.0.98"])
        + &manifest::pod("twin", "twin", &["10.244.0.99"]).replace("namespace: shop", "namespace: yard");
    shop.world.apply("strangers", &strangers);
    wait::until("pods are known", || {
        let (code, printed) = explain(&shop.world, "yard/twin");
        if code == Some(0) { Ok(()) } else { Err(printed) }
    });
    for (from, code, want) in [
        ("host", 0, "translate"),
        ("10.244.0.2", 0, "translate"),
        ("203.0.113.1", 0, "translate"),
        ("cart-1", 0, "translate"),
        ("shop/cart-1", 0, "translate"),
        ("nobody", 1, "this node has no pod nobody"),
        ("yard/cart-1", 1, "this node has no pod yard/cart-1"),
        ("away", 1, "this node has no pod away"),
        ("twin", 1, "twin may be any of the pods shop/twin, yard/twin"),
        ("No-Body", 2, "write a pod's name, NAMESPACE/NAME, an address, ADDRESS:PORT, or host"),
    ] {
        let (got, printed) = explain(&shop.world, from);
        assert_eq!(got, Some(code), "{from}: {printed}");
        assert!(printed.contains(want), "{from}: {printed}");
    }
    shop.kill_agent();
    assert_eq!(explain(&shop.world, "nobody").0, Some(0), "without an agent nobody can know");
}

#[test]
fn a_pod_in_the_nodes_own_network_cannot_be_left_alone_and_is_named() {
    let shop = shop(1);
    let folder = shop.world.node().cgroup.join(format!("pod{}", UID.replace('-', "_")));
    std::fs::create_dir(&folder).unwrap();
    let inside = Pod { cgroup: folder, ..shop.world.node().clone() };
    let mut peer = shop.world.peer(&inside);
    shop.world.apply("mesh", &annotated(&inside, "false"));
    wait::until("a warning", || {
        let warnings = shop.world.json(&["status"])["warnings"].to_string();
        let named = warnings.contains("Pod shop/mesh: it lives in the node's own network");
        if named { Ok(()) } else { Err(warnings) }
    });
    assert_eq!(peer.tcp("10.96.0.1:80").unwrap().by, "cart-1");
}

fn sources(cluster: &Cluster) -> Vec<Value> {
    cluster.world.json(&["status"])["sources"].as_array().unwrap().clone()
}

#[test]
fn headless_ports_are_translated_by_what_pods_declare_which_is_watched_only_then() {
    let mut cluster = Cluster::new();
    cluster.cart(1);
    let _agent = cluster.agent();
    let names = |cluster: &Cluster| {
        sources(cluster).iter().map(|source| source["name"].to_string()).collect::<Vec<_>>()
    };
    assert_eq!(cluster.api.lists("Pod"), 1, "the pods of this node: {:?}", names(&cluster));
    cluster.api.apply(&manifest::headless("db", &["http:80:8080"]));
    cluster.api.apply(&cluster.slice("db", 2, &[]));
    let pods = [0, 1].map(|index: usize| {
        let address = cluster.pods[index].0.v4.to_string();
        manifest::pod(&format!("db-{}", index + 1), "db", &[&address])
    });
    cluster.api.apply(&pods.concat());
    let address = |index: usize| format!("{}:80", cluster.pods[index].0.v4);
    let (first, second) = (address(0), address(1));
    for to in [&first, &second] {
        cluster.world.wait_verdict(to, "translate", 1);
        let answer = cluster.client.tcp(to).unwrap();
        assert_peer("headless", &answer, to);
    }
    assert!(names(&cluster).contains(&"\"all pods\"".to_owned()));
    // The second pod says that it uses port 80 itself.
    let declared = "containers: [{name: main, ports: [{containerPort: 80}]}]";
    cluster.api.apply(&pods[1].replace("containers: [{name: main}]", declared));
    cluster.world.wait_verdict(&second, "pass", 0);
    assert_eq!(cluster.client.tcp(&second), Err("ECONNREFUSED".to_owned()), "nobody listens there");
    assert_eq!(cluster.client.tcp(&first).unwrap().by, "cart-1");
    cluster.api.apply(&pods[1]);
    cluster.world.wait_verdict(&second, "translate", 1);
    cluster.api.delete("Pod", "shop/db-2");
    cluster.world.wait_verdict(&second, "pass", 0);
    cluster.api.delete("Service", "shop/db");
    wait::until("pods are not watched any more", || {
        let names = names(&cluster);
        if names.contains(&"\"all pods\"".to_owned()) { Err(names) } else { Ok(()) }
    });
    cluster.world.wait_verdict(&first, "pass", 0);
}

/// Whoever may write EndpointSlices writes whatever addresses they like.
#[test]
fn a_headless_service_takes_no_port_of_a_node_or_of_another_namespaces_pod() {
    let mut cluster = Cluster::new();
    let (own, theirs, node) = (cluster.pods[0].0.v4, cluster.pods[1].0.v4, cluster.world.node().v4);
    let mut on_node = cluster.world.peer(&cluster.world.node().clone());
    on_node.serve("node", 2380, false);
    cluster.pods[1].1.serve("theirs", 2380, false);
    let endpoints = [own, theirs, node].map(|address| {
        format!("{{addresses: [\"{address}\"], targetRef: {{kind: Pod, name: own, namespace: shop}}}}")
    });
    let slice = format!(
        "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: grab-1, namespace: shop, labels: \
         {{kubernetes.io/service-name: grab}}}}\naddressType: IPv4\nports: [{{name: http, port: 8080, protocol: TCP}}]\n\
         endpoints: [{}]\n",
        endpoints.join(", ")
    );
    let pod = |name: &str, address: std::net::Ipv4Addr| manifest::pod(name, "any", &[&address.to_string()]);
    let pods = pod("own", own)
        + &pod("theirs", theirs).replace("namespace: shop", "namespace: yard")
        + &pod("agent", node).replace("spec: {", "spec: {hostNetwork: true, ");
    cluster.api.apply(&(manifest::headless("grab", &["http:2380:8080"]) + &slice + &pods));
    let _agent = cluster.agent();
    cluster.world.wait_verdict(&format!("{own}:2380"), "translate", 1);
    assert_eq!(cluster.client.tcp(&format!("{own}:2380")).unwrap().by, "cart-1");
    for (address, by) in [(theirs, "theirs"), (node, "node")] {
        let to = format!("{address}:2380");
        assert_eq!(cluster.world.json(&["explain", &to])["verdict"], "pass", "{to}");
        assert_eq!(cluster.client.tcp(&to).unwrap().by, by, "whoever listens there is asked");
        assert_eq!(on_node.tcp(&to).unwrap().by, by, "by the node's own processes too");
    }
}

#[test]
fn on_an_api_server_too_a_pod_is_left_alone_by_its_annotation() {
    let mut cluster = Cluster::new();
    cluster.cart(1);
    let pod = cluster.world.pod(&format!("pod{UID}"));
    let mut mesh = cluster.world.peer(&pod);
    cluster.api.apply(&annotated(&pod, "false").replace("node-1", "node-2"));
    let _agent = cluster.agent();
    assert_eq!(mesh.tcp("10.96.0.1:80").unwrap().by, "cart-1", "a pod of another node has no say");
    cluster.api.apply(&annotated(&pod, "false"));
    wait_left_alone(&cluster.world, "mesh", true);
    let nobody = text(&cluster.world.sluice(&["explain", "--from", "nobody", "10.96.0.1:80"]));
    assert!(nobody.contains("this node has no pod nobody"), "{nobody}");
    cluster.api.delete("Pod", "shop/mesh");
    wait_left_alone(&cluster.world, "mesh", false);
    assert_eq!(mesh.tcp("10.96.0.1:80").unwrap().by, "cart-1");
}
