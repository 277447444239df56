//! Metrics of a node at work, as Prometheus' own tool reads them, and what dashboard and alerts make of them.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::{
    collections::BTreeSet,
    io::Write as _,
    path::PathBuf,
    process::{Command, Output, Stdio},
};

use serde_json::Value;
use sluice_tests::{
    cluster::Cluster,
    http::{Nginx, curl, nginx},
    manifest, wait,
    world::{Pod, text, tool},
};

const RULES: &str = "apiVersion: networking.istio.io/v1\nkind: VirtualService\n\
    metadata: {name: cart, namespace: shop}\nspec:\n  hosts: [cart]\n  http:\n\
    \x20 - {name: gone, match: [{uri: {prefix: /gone}}], directResponse: {status: 410}}\n\
    \x20 - {name: rest, route: [{destination: {host: cart}}]}\n";

fn metrics(cluster: &Cluster) -> String {
    let response = curl(cluster.world.node(), &["http://127.0.0.1:10249/metrics"]);
    assert_eq!(response.status, 200);
    response.body
}

/// The value of the one sample that begins so.
fn value(metrics: &str, sample: &str) -> Option<f64> {
    let line = metrics.lines().find(|line| line.starts_with(sample))?;
    line.rsplit(' ').next()?.parse().ok()
}

fn slice(address: &str, at: &str) -> String {
    format!(
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: cart-1, namespace: shop, \
         labels: {{kubernetes.io/service-name: cart}}, \
         annotations: {{endpoints.kubernetes.io/last-change-trigger-time: \"{at}\"}}}}\naddressType: IPv4\n\
         ports: [{{name: http, port: 8080, protocol: TCP}}]\nendpoints: [{{addresses: [\"{address}\"]}}]\n"
    )
}

/// A Service of one pod, reached through rules.
fn cluster() -> (Cluster, Nginx, Pod) {
    let mut cluster = Cluster::new();
    let web = cluster.world.pod("web");
    let server = nginx(&cluster.world, &web, 8080);
    cluster.api.apply(&manifest::service("cart", &["10.96.0.1"], &["http:80:8080"]));
    // Long before the agent started.
    cluster.api.apply(&slice(&web.v4.to_string(), "2026-01-01T00:00:00Z"));
    cluster.api.serve_rules();
    cluster.api.apply(RULES);
    let client = cluster.world.find("client").clone();
    (cluster, server, client)
}

#[test]
fn a_node_at_work_tells_what_dashboard_and_alerts_ask_for() {
    let (cluster, _server, client) = cluster();
    let _agent = cluster.agent();
    wait::until("rules hold", || {
        let answers = curl(&client, &["http://10.96.0.1/gone"]);
        if answers.status == 410 { Ok(()) } else { Err(answers) }
    });
    (0..5).for_each(|_| assert_eq!(curl(&client, &["http://10.96.0.1/"]).status, 200));
    let programmed = "kubeproxy_network_programming_duration_seconds_count";
    assert_eq!(
        value(&metrics(&cluster), programmed),
        Some(0.0),
        "what came before the agent is not its doing"
    );
    let now = jiff::Timestamp::now();
    cluster.api.apply(&slice("10.244.77.7", &now.to_string()));
    let to_web = "sluice_redirector_requests_total{virtual_service=\"shop/cart\",rule=\"rest\",\
                  destination=\"cart.shop.svc.cluster.local:80\",code=\"2xx\"}";
    let open = |what: &str| {
        let destination = "cart.shop.svc.cluster.local:80";
        format!("sluice_redirector_destination_open{{destination=\"{destination}\",what=\"{what}\"}}")
    };
    let page = wait::until("what happened is told", || {
        let page = metrics(&cluster);
        let told = value(&page, programmed) == Some(1.0)
            && value(&page, to_web) == Some(5.0)
            && value(&page, &open("connections")) >= Some(1.0)
            && value(&page, &open("requests")) == Some(0.0);
        if told { Ok(page) } else { Err(page) }
    });
    let took = value(&page, "kubeproxy_network_programming_duration_seconds_sum").unwrap();
    assert!((0.0..60.0).contains(&took), "{took} s");
    let gone = "sluice_redirector_requests_total{virtual_service=\"shop/cart\",rule=\"gone\",destination=\"\",code=\"4xx\"}";
    assert!(value(&page, gone) >= Some(1.0), "{page}");
    let seen = "sluice_redirector_request_duration_seconds_count{virtual_service=\"shop/cart\",rule=\"rest\"";
    assert_eq!(value(&page, seen), Some(5.0));
    assert_eq!(value(&page, "sluice_redirector_open{what=\"requests\"}"), Some(0.0));
    assert!(value(&page, "process_resident_memory_bytes") > Some(1e6));
    well_formed(&page);
    asked_for(&page);
}

/// Prometheus' own linter has nothing to say.
fn well_formed(page: &str) {
    let mut promtool = tool("promtool");
    promtool.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = promtool.spawn().unwrap();
    child.stdin.take().unwrap().write_all(page.as_bytes()).unwrap();
    said_nothing(&child.wait_with_output().unwrap());
}

fn said_nothing(output: &Output) {
    assert!(output.status.success() && output.stdout.is_empty(), "{}", text(output));
}

fn monitoring() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../deploy/monitoring")
}

/// Every metric that an expression of ours names is on the page.
fn asked_for(page: &str) {
    let rules = std::fs::read_to_string(monitoring().join("rules.yaml")).unwrap();
    let dashboard = std::fs::read_to_string(monitoring().join("dashboard.json")).unwrap();
    let there: BTreeSet<&str> =
        page.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
    let mut asked = 0;
    for word in (rules + &dashboard).split(|c: char| !c.is_alphanumeric() && c != '_') {
        let ours = ["sluice_", "kubeproxy_", "process_"].iter().any(|prefix| word.starts_with(prefix));
        let base = word.trim_end_matches("_bucket").trim_end_matches("_count").trim_end_matches("_sum");
        if ours {
            assert!(there.contains(word) || there.contains(base), "{word} is not told by a node");
            asked += 1;
        }
    }
    assert!(asked > 20, "expressions are looked through");
}

#[test]
fn alerts_are_what_prometheus_takes_and_fire_when_they_should() {
    let run = |args: &[&str]| {
        let mut promtool: Command = tool("promtool");
        let output = promtool.args(args).current_dir(monitoring()).output().unwrap();
        assert!(output.status.success(), "{}", text(&output));
    };
    run(&["check", "rules", "rules.yaml"]);
    run(&["test", "rules", "rules_test.yaml"]);
}

#[test]
fn the_dashboard_is_whole() {
    let text = std::fs::read_to_string(monitoring().join("dashboard.json")).unwrap();
    let dashboard: Value = serde_json::from_str(&text).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    assert!(panels.len() >= 8);
    let mut ids = BTreeSet::new();
    for panel in panels {
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "an id for each panel");
        let title = panel["title"].as_str().unwrap();
        assert!(!panel["description"].as_str().unwrap_or("").is_empty(), "{title} says what it means");
        for target in panel["targets"].as_array().unwrap() {
            let expression = target["expr"].as_str().unwrap();
            assert_eq!(target["datasource"]["uid"], "${datasource}", "{title}");
            let mut promtool = tool("promtool");
            // A rule file with the expression: this version has no other way to check one.
            let folder = std::env::temp_dir().join(format!("sluice-dashboard-{}", std::process::id()));
            std::fs::create_dir_all(&folder).unwrap();
            let file = folder.join("rule.yaml");
            let expression = expression.replace("$__rate_interval", "5m").replace("$node", ".*");
            let rule = serde_json::json!({"groups": [{"name": "g", "rules": [{"record": "r", "expr": expression}]}]});
            std::fs::write(&file, rule.to_string()).unwrap();
            let output = promtool.args(["check", "rules"]).arg(&file).output().unwrap();
            std::fs::remove_dir_all(&folder).unwrap();
            assert!(output.status.success(), "{title}: {expression}: {}", self::text(&output));
        }
    }
}
