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
    \x20 - {name: rest, route: [{destination: {host: cart}}]}\n---\n\
    apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: cart, namespace: shop}\n\
    spec: {host: cart, trafficPolicy: {outlierDetection: {consecutive5xxErrors: 5}}}\n";

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
    for name in ["process_start_time_seconds", "kubeproxy_sync_proxy_rules_last_timestamp_seconds"] {
        let ago = now.as_second() as f64 - value(&page, &format!("{name} ")).unwrap();
        assert!(ago.abs() < 300.0, "{name}: {ago} s ago");
    }
    let last = "kubeproxy_sync_proxy_rules_duration_seconds_bucket{le=\"16.384\"}";
    assert!(value(&page, last) >= Some(1.0), "kube-proxy's bounds: {page}");
    well_formed(&page);
    asked_for(&page);
    documented(&page);
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

/// What an expression asks for: a metric, and labels that its samples must have.
type Asked<'e> = (&'e str, BTreeSet<&'e str>);

fn asked(expression: &str) -> Vec<Asked<'_>> {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let mut asked = Vec::new();
    let mut rest = expression;
    while let Some(start) = rest.find(is_word) {
        let end = rest[start..].find(|c| !is_word(c)).map_or(rest.len(), |end| start + end);
        let word = &rest[start..end];
        rest = &rest[end..];
        if !PREFIXES.iter().any(|prefix| word.starts_with(prefix)) {
            continue;
        }
        let matchers = rest.strip_prefix('{').and_then(|rest| rest.split('}').next()).unwrap_or("");
        let labels = matchers.split(',').filter_map(|matcher| Some(matcher.split_once(['=', '!'])?.0.trim()));
        // Prometheus adds these.
        asked.push((word, labels.filter(|label| !["instance", "job"].contains(label)).collect()));
    }
    asked
}

const PREFIXES: [&str; 3] = ["sluice_", "kubeproxy_", "process_"];

/// Every metric that an expression of ours names has a sample on the page, with the labels that are asked for.
fn asked_for(page: &str) {
    let mut looked_at = 0;
    for expression in expressions() {
        for (name, labels) in asked(&expression) {
            let mut samples = page.lines().filter_map(|line| line.strip_prefix(name));
            let has = |sample: &str, label: &&str| {
                [format!("{{{label}=\""), format!(",{label}=\"")].iter().any(|text| sample.contains(text))
            };
            let is_it = |sample: &str| {
                sample.starts_with(['{', ' ']) && labels.iter().all(|label| has(sample, label))
            };
            assert!(samples.any(is_it), "no node tells {name} with {labels:?}, as {expression} wants");
            looked_at += 1;
        }
    }
    assert!(looked_at > 30, "expressions are looked through: {looked_at}");
}

/// Those of alerts and of the dashboard.
fn expressions() -> Vec<String> {
    let dashboard: Value =
        serde_json::from_str(&std::fs::read_to_string(monitoring().join("dashboard.json")).unwrap()).unwrap();
    let panels = dashboard["panels"].as_array().unwrap().iter();
    let targets = panels.flat_map(|panel| panel["targets"].as_array().unwrap());
    let rules = yaml("rules.yaml");
    let rules =
        rules["groups"].as_array().unwrap().iter().flat_map(|group| group["rules"].as_array().unwrap());
    let text = |value: &Value| value["expr"].as_str().unwrap().to_owned();
    targets.map(text).chain(rules.map(text)).collect()
}

fn yaml(file: &str) -> Value {
    serde_saphyr::from_str(&std::fs::read_to_string(monitoring().join(file)).unwrap()).unwrap()
}

/// README's table has the metrics of the page, each by its name, and no other.
fn documented(page: &str) {
    let readme = concat!(env!("CARGO_MANIFEST_DIR"), "/../README.md");
    let readme = std::fs::read_to_string(readme).unwrap();
    let table = readme.split("\n### Metrics\n").nth(1).unwrap().split("\n### ").next().unwrap();
    let cells = table.lines().filter_map(|line| line.strip_prefix("| `")?.split(" | ").next());
    let names = cells.flat_map(|cell| cell.split('`')).filter_map(|code| code.split('{').next());
    let documented: BTreeSet<&str> =
        names.filter(|name| PREFIXES.iter().any(|prefix| name.starts_with(prefix))).collect();
    // Only with --service-metrics, and where there was traffic: `service_bytes.rs` and `flows.rs` see them.
    let besides = ["sluice_service_bytes_total", "sluice_service_connections"];
    let told = page.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next());
    let told: BTreeSet<&str> = told.chain(besides).collect();
    assert_eq!(documented, told);
}

#[test]
fn every_alert_is_seen_to_fire() {
    let rules = yaml("rules.yaml");
    let rules =
        rules["groups"].as_array().unwrap().iter().flat_map(|group| group["rules"].as_array().unwrap());
    let alerts: BTreeSet<String> = rules.map(|rule| rule["alert"].as_str().unwrap().to_owned()).collect();
    let tests = yaml("rules_test.yaml");
    let tests = tests["tests"].as_array().unwrap().iter();
    let tests = tests.flat_map(|test| test["alert_rule_test"].as_array().unwrap());
    let fires = tests.filter(|test| test["exp_alerts"].as_array().is_some_and(|alerts| !alerts.is_empty()));
    let seen: BTreeSet<String> = fires.map(|test| test["alertname"].as_str().unwrap().to_owned()).collect();
    assert_eq!(alerts, seen);
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
