//! What `kubectl kustomize` makes of `deploy/`: every object is one of its kind, as the Kubernetes API describes it, and
//! they fit each other.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use k8s_openapi::{
    api::{
        apps::v1::DaemonSet,
        core::v1::{ConfigMap, Namespace, ServiceAccount},
        rbac::v1::{ClusterRole, ClusterRoleBinding},
    },
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use sluice::redirector::LONGEST_END;
use sluice_tests::{
    container::read,
    kustomize::{OVERLAYS, render, render_with},
};

/// Whether `object` is all of a `T` and nothing else: what `T` does not know is lost on the way through it, what it wants
/// and the object lacks is added.
fn is<T: Serialize + DeserializeOwned>(object: &Value) {
    let typed: T = serde_json::from_value(object.clone()).unwrap_or_else(|error| panic!("{error}: {object}"));
    similar(object, &serde_json::to_value(typed).unwrap(), object["kind"].as_str().unwrap());
}

fn similar(written: &Value, read: &Value, path: &str) {
    match (written, read) {
        (Value::Object(a), Value::Object(b)) => {
            for name in b.keys() {
                assert!(a.contains_key(name), "{path}.{name} is missing");
            }
            for (name, written) in a {
                let read = b.get(name).unwrap_or_else(|| panic!("{path}.{name} is not in the API"));
                similar(written, read, &format!("{path}.{name}"));
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            a.iter()
                .zip(b)
                .enumerate()
                .for_each(|(index, (a, b))| similar(a, b, &format!("{path}[{index}]")));
        }
        // 1.0 and 1 are one number.
        (Value::Number(a), Value::Number(b)) if a.as_f64() == b.as_f64() => {}
        (a, b) => assert_eq!(a, b, "{path}"),
    }
}

fn check(object: &Value) {
    match object["kind"].as_str().unwrap() {
        "Namespace" => is::<Namespace>(object),
        "ServiceAccount" => is::<ServiceAccount>(object),
        "ClusterRole" => is::<ClusterRole>(object),
        "ClusterRoleBinding" => is::<ClusterRoleBinding>(object),
        "ConfigMap" => is::<ConfigMap>(object),
        "DaemonSet" => is::<DaemonSet>(object),
        "CustomResourceDefinition" => is::<CustomResourceDefinition>(object),
        other => panic!("no type is known for {other}"),
    }
}

fn one<'o>(objects: &'o [Value], kind: &str) -> &'o Value {
    let found: Vec<_> = objects.iter().filter(|object| object["kind"] == kind).collect();
    assert_eq!(found.len(), 1, "{kind}");
    found[0]
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

#[test]
fn every_overlay_is_of_the_kubernetes_api_and_fits_together() {
    for overlay in OVERLAYS {
        let objects = render(overlay);
        objects.iter().for_each(check);
        let config = one(&objects, "ConfigMap");
        let (agent, redirector) = (daemon(&objects, "sluice"), daemon(&objects, "sluice-redirector"));
        let spec = &agent["spec"]["template"]["spec"];
        let account = one(&objects, "ServiceAccount");
        assert_eq!(spec["serviceAccountName"], account["metadata"]["name"]);
        let subject = &one(&objects, "ClusterRoleBinding")["subjects"][0];
        assert_eq!(
            [&subject["name"], &subject["namespace"]],
            ["name", "namespace"].map(|key| &account["metadata"][key])
        );
        ports_fit(&spec["containers"][0], &config["data"]);
        for daemon in [agent, redirector] {
            fits(daemon, config);
            operable(daemon);
        }
        let rolling = |daemon: &Value| daemon["spec"]["updateStrategy"]["rollingUpdate"].clone();
        assert_eq!(rolling(agent), json!({"maxUnavailable": 1, "maxSurge": 0}));
        next_comes_first(redirector, agent, &config["data"]);
        assert_eq!(objects.iter().filter(|object| object["kind"] == "DaemonSet").count(), 2);
    }
}

fn daemon<'o>(objects: &'o [Value], name: &str) -> &'o Value {
    let mut found = objects.iter().filter(|object| object["kind"] == "DaemonSet");
    found.find(|object| object["metadata"]["name"] == name).unwrap_or_else(|| panic!("no {name}"))
}

/// It selects its own pods, mounts what there is, and has the settings and the image.
fn fits(daemon: &Value, config: &Value) {
    let (spec, name) = (&daemon["spec"]["template"]["spec"], &daemon["metadata"]["name"]);
    let labels = &daemon["spec"]["template"]["metadata"]["labels"];
    assert_eq!(&daemon["spec"]["selector"]["matchLabels"], labels);
    assert_eq!(&labels["app.kubernetes.io/name"], name, "of two DaemonSets neither has the other's pods");
    let volumes: Vec<_> = list(&spec["volumes"]).iter().map(|volume| &volume["name"]).collect();
    for container in list(&spec["containers"]).iter().chain(list(&spec["initContainers"])) {
        for mount in list(&container["volumeMounts"]) {
            assert!(volumes.contains(&&mount["name"]), "{name}: {mount}");
        }
        assert_eq!(container["envFrom"][0]["configMapRef"]["name"], config["metadata"]["name"]);
        assert_eq!(container["image"], format!("localhost/sluice:{}", env!("CARGO_PKG_VERSION")));
    }
}

/// What lets the next redirector take over before the last one is told to go.
fn next_comes_first(redirector: &Value, agent: &Value, config: &Value) {
    let spec = &redirector["spec"]["template"]["spec"];
    let rolling = &redirector["spec"]["updateStrategy"]["rollingUpdate"];
    assert_eq!(rolling, &json!({"maxUnavailable": 0, "maxSurge": 1}));
    let containers = list(&spec["containers"]);
    assert_eq!(containers.len(), 1);
    // On the node's network a port that is named is taken: the second pod would find no node.
    for what in ["ports", "readinessProbe", "livenessProbe", "startupProbe"] {
        assert!(containers[0].get(what).is_none(), "{what}");
    }
    // A container that ends is started again, and would take its place back.
    assert_eq!(
        (&config["SLUICE_ONCE_REPLACED"], &config["SLUICE_REDIRECTOR"]),
        (&json!("wait"), &json!("external"))
    );
    let grace = spec["terminationGracePeriodSeconds"].as_u64().unwrap();
    assert!(grace > LONGEST_END.as_secs(), "{grace}");
    assert_eq!(spec["automountServiceAccountToken"], false);
    assert!(spec["hostPID"] != true, "it needs to see nobody");
    let shared = |of: &Value, name: &str| {
        let volumes = list(&of["spec"]["template"]["spec"]["volumes"]);
        volumes.iter().find(|volume| volume["name"] == name).unwrap()["hostPath"]["path"].clone()
    };
    for name in ["bpffs", "run"] {
        assert_eq!(shared(redirector, name), shared(agent, name), "{name}");
    }
}

/// The agent listens where the probes and the PodMonitor ask.
fn ports_fit(agent: &Value, config: &Value) {
    let first = |name: &str| config[name].as_str().unwrap().split(',').next().unwrap().to_owned();
    let port = |name: &str| first(name).rsplit(':').next().unwrap().parse::<u16>().unwrap();
    let named = |name: &str| {
        let ports = list(&agent["ports"]).iter().filter(|port| port["name"] == name);
        ports.map(|port| port["containerPort"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(named("metrics"), [json!(port("SLUICE_ADMIN"))]);
    assert_eq!(named("healthz"), [json!(port("SLUICE_HEALTHZ"))]);
    for (probe, path) in [("readinessProbe", "/readyz"), ("livenessProbe", "/livez")] {
        let asked = &agent[probe]["httpGet"];
        assert_eq!(
            [&asked["port"], &asked["path"]],
            [&json!(port("SLUICE_HEALTHZ")), &json!(path)],
            "{probe}"
        );
    }
}

/// What keeps a cluster whole while this rolls.
fn operable(daemon: &Value) {
    let spec = &daemon["spec"]["template"]["spec"];
    assert_eq!(spec["tolerations"], json!([{"operator": "Exists"}]));
    assert_eq!(spec["priorityClassName"], "system-node-critical");
    assert_eq!((&spec["hostNetwork"], &spec["dnsPolicy"]), (&json!(true), &json!("Default")));
    assert_eq!(spec["securityContext"]["seccompProfile"]["type"], "RuntimeDefault");
    for container in list(&spec["containers"]) {
        let security = &container["securityContext"];
        assert_ne!(security["privileged"], true);
        assert_eq!(security["readOnlyRootFilesystem"], true);
        assert_eq!(security["capabilities"]["drop"], json!(["ALL"]));
        assert!(container["resources"]["requests"]["memory"].is_string());
        // Who has no filter by the runtime has one by itself.
        let unconfined = security["seccompProfile"]["type"] == "Unconfined";
        assert_eq!(unconfined, container["name"] == "redirector", "{container}");
    }
}

#[test]
fn an_overlay_changes_what_it_says_and_nothing_else() {
    let base = one(&render("base"), "ConfigMap")["data"].clone();
    for (overlay, changed) in [
        ("overlays/kind", &["SLUICE_API_SERVER", "SLUICE_CGROUP"][..]),
        ("overlays/kubeadm", &[]),
        ("overlays/beside-kube-proxy", &["SLUICE_ADMIN", "SLUICE_BESIDE_KUBE_PROXY", "SLUICE_HEALTHZ"]),
    ] {
        let data = one(&render(overlay), "ConfigMap")["data"].clone();
        let differs = data.as_object().unwrap().iter().filter(|(name, value)| base[*name] != **value);
        assert_eq!(differs.map(|(name, _)| name.as_str()).collect::<Vec<_>>(), changed, "{overlay}");
    }
}

#[test]
fn the_api_servers_address_is_said_once_for_all_overlays() {
    const PLACEHOLDER: &str = "control-plane.example";
    for overlay in OVERLAYS {
        let said = |change: &dyn Fn(&str, String) -> String| {
            one(&render_with(overlay, change), "ConfigMap")["data"]["SLUICE_API_SERVER"]
                .as_str()
                .unwrap()
                .to_owned()
        };
        let set = |name: &str, text: String| match name {
            "cluster.env" => text.replace(PLACEHOLDER, "10.9.8.7"),
            _ => text,
        };
        // kind knows its own. Elsewhere who forgets it meets a name that nobody has.
        let kind = "https://kind-control-plane:6443";
        let (unset, own) = match overlay {
            "overlays/kind" => (kind, kind),
            _ => ("https://control-plane.example:6443", "https://10.9.8.7:6443"),
        };
        assert_eq!((said(&|_, text| text).as_str(), said(&set).as_str()), (unset, own), "{overlay}");
    }
}

#[test]
fn a_label_says_which_nodes_have_kube_proxy_and_which_have_sluice() {
    let place = "/spec/template/spec/affinity/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution/\
                 nodeSelectorTerms/0/matchExpressions/0";
    let daemons = render("overlays/beside-kube-proxy");
    let kube_proxy = read("overlays/beside-kube-proxy/kube-proxy.yaml");
    let expression = |value: &str| json!({"key": "sluice.dev/proxy", "operator": "NotIn", "values": [value]});
    for daemon in daemons.iter().filter(|object| object["kind"] == "DaemonSet") {
        assert_eq!(daemon.pointer(place), Some(&expression("kube-proxy")), "{}", daemon["metadata"]["name"]);
    }
    assert_eq!(kube_proxy.pointer(place), Some(&expression("sluice")));
    // It is one of a DaemonSet, with what kube-proxy's has besides.
    let mut patched = daemon(&render("base"), "sluice").clone();
    patched["spec"]["template"]["spec"]["affinity"] =
        kube_proxy["spec"]["template"]["spec"]["affinity"].clone();
    check(&patched);
}

#[test]
fn definitions_and_the_pod_monitor_stand_apart() {
    let definitions = render("crds");
    assert_eq!(definitions.len(), 2);
    definitions.iter().for_each(check);
    // The Prometheus operator's kinds are not of the Kubernetes API: their few fields are looked at by hand.
    let objects = render("monitoring");
    let monitor = one(&objects, "PodMonitor");
    let objects = render("base");
    let daemon = daemon(&objects, "sluice");
    assert_eq!(monitor["spec"]["selector"]["matchLabels"], daemon["spec"]["selector"]["matchLabels"]);
    let port = &monitor["spec"]["podMetricsEndpoints"][0]["port"];
    let ports = &daemon["spec"]["template"]["spec"]["containers"][0]["ports"];
    assert!(list(ports).iter().any(|one| one["name"] == *port));
}

#[test]
fn the_operators_get_the_alerts_and_the_dashboard_that_are_tested() {
    let objects = render("monitoring");
    assert_eq!(objects.len(), 3);
    // promtool and the dashboard's test read these files.
    assert_eq!(one(&objects, "PrometheusRule")["spec"], read("monitoring/rules.yaml"), "change both files");
    let dashboard = one(&objects, "ConfigMap");
    check(dashboard);
    assert_eq!(dashboard["metadata"]["labels"]["grafana_dashboard"], "1");
    let text = dashboard["data"]["dashboard.json"].as_str().unwrap();
    assert_eq!(serde_json::from_str::<Value>(text).unwrap(), read("monitoring/dashboard.json"));
    // Where the namespace is.
    let namespace = &one(&render("base"), "Namespace")["metadata"]["name"].clone();
    assert!(objects.iter().all(|object| object["metadata"]["namespace"] == *namespace));
}

#[test]
fn an_image_of_ones_own_is_that_of_every_container() {
    let images = |overlay: &str, change: &dyn Fn(&str, String) -> String| {
        let objects = render_with(overlay, change);
        let daemons = objects.iter().filter(|object| object["kind"] == "DaemonSet");
        let containers = daemons.flat_map(|daemon| {
            let spec = &daemon["spec"]["template"]["spec"];
            list(&spec["containers"]).iter().chain(list(&spec["initContainers"])).cloned().collect::<Vec<_>>()
        });
        containers.map(|container| container["image"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let in_base = |_: &str, text: String| {
        text.replace("newName: localhost/sluice", "newName: registry.example/sluice")
            .replace("newTag: 0.1.0", "newTag: \"7\"")
    };
    let in_overlay = |_: &str, text: String| {
        let set = "images: [{name: localhost/sluice, newName: registry.example/sluice, newTag: \"7\"}]\n";
        if text.contains("../../base") { text + set } else { text }
    };
    for overlay in OVERLAYS.into_iter().filter(|overlay| *overlay != "base") {
        let count = if overlay == "overlays/kind" { 3 } else { 2 };
        assert_eq!(images(overlay, &in_base), vec!["registry.example/sluice:7"; count], "{overlay}");
        assert_eq!(images(overlay, &in_overlay), vec!["registry.example/sluice:7"; count], "{overlay}");
    }
}

#[test]
fn the_validator_refuses_what_the_api_does_not_know() {
    let daemon = daemon(&render("base"), "sluice").clone();
    for (path, value) in [
        ("/spec/template/spec/hostNetwrk", json!(true)),
        ("/spec/template/spec/containers/0/securityContext/capabilites", json!({})),
        ("/spec/minReadySeconds", json!("five")),
        ("/spec/selector", Value::Null),
    ] {
        let mut broken = daemon.clone();
        let (above, name) = path.rsplit_once('/').unwrap();
        broken.pointer_mut(above).unwrap()[name] = value;
        assert!(std::panic::catch_unwind(|| check(&broken)).is_err(), "{path}");
    }
}
