//! What is served at the agent's own ports, and to whom: whoever holds connections to them takes no answer from load balancers
//! and the kubelet.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::{
    io::{BufRead, BufReader},
    process::{Child, ChildStdout, Stdio},
    time::Instant,
};

use serde_json::{Value, json};
use sluice_tests::{
    http::{Response, curl},
    manifest, wait,
    world::{Pod, World, kill, text},
};

/// Many times what a listener holds.
const MANY: usize = 400;

/// A client with [`MANY`] connections, each of which asked for something or nothing.
struct Holder {
    child: Child,
    says: BufReader<ChildStdout>,
}

impl Holder {
    fn new(pod: &Pod, address: &str, port: u16, asks: &str) -> Self {
        let script = "ulimit -n 2000; for n in $(seq $3); do exec {fd}<>/dev/tcp/$1/$2; printf \"$4\" >&$fd; done; \
                      echo held; read -r -t 60 -u $fd line; cat <&$fd >/dev/null; echo closed; read line";
        let mut command = pod.command("bash");
        command.args(["-c", script, "bash", address, &port.to_string(), &MANY.to_string(), asks]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut says = BufReader::new(child.stdout.take().unwrap());
        assert_eq!(line(&mut says), "held");
        Self { child, says }
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        kill(&mut self.child);
    }
}

fn line(says: &mut impl BufRead) -> String {
    let mut line = String::new();
    says.read_line(&mut line).unwrap();
    line.trim().to_owned()
}

fn ask(pod: &Pod, address: &str, port: u16, path: &str) -> Response {
    let address = if address.contains(':') { format!("[{address}]") } else { address.to_owned() };
    curl(pod, &["--max-time", "2", &format!("http://{address}:{port}{path}")])
}

/// What the node says of itself at this port and path: status and body.
fn node_says(world: &World, port: u16, path: &str) -> (u16, Value) {
    let response = ask(world.node(), "127.0.0.1", port, path);
    (response.status, serde_json::from_str(&response.body).unwrap_or(Value::Null))
}

#[test]
fn the_urls_that_kube_proxy_serves_are_served() {
    let world = World::new();
    let _agent = world.agent();
    for (port, path, status) in [
        (10256, "/healthz", 200),
        (10256, "/livez", 200),
        (10256, "/metrics", 404),
        (10256, "/state", 404),
        (10249, "/healthz", 200),
        (10249, "/livez", 200),
        (10249, "/metrics", 200),
        (10249, "/proxyMode", 200),
        (10249, "/state", 200),
        (10249, "/other", 404),
    ] {
        assert_eq!(node_says(&world, port, path).0, status, "{port}{path}");
    }
    let keys = |body: &Value| body.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    let (_, health) = node_says(&world, 10256, "/healthz");
    assert_eq!(keys(&health), ["currentTime", "lastUpdated", "nodeEligible"], "{health}");
    assert_eq!((&health["lastUpdated"], &health["nodeEligible"]), (&health["currentTime"], &json!(true)));
    assert!(health["currentTime"].as_str().unwrap().ends_with('Z'), "{health}");
    assert_eq!(keys(&node_says(&world, 10256, "/livez").1), ["currentTime", "lastUpdated"]);
    let says = |words: &[&str]| curl(world.node(), words);
    let v6 = format!("http://[{}]:10256/livez", world.node().v6);
    assert_eq!(says(&[&v6]).status, 200, "load balancers may ask by IPv6");
    for (path, content, body) in [
        (":10256/healthz", "application/json", None),
        (":10256/livez", "application/json", None),
        (":10249/healthz", "text/plain; charset=utf-8", Some("ok")),
        (":10249/proxyMode", "text/plain; charset=utf-8", Some("ebpf")),
        (":10249/metrics", "text/plain; version=0.0.4; charset=utf-8", None),
    ] {
        let response = says(&[&format!("http://127.0.0.1{path}")]);
        assert_eq!(response.headers["content-type"], content, "{path}");
        assert_eq!(response.headers["x-content-type-options"], "nosniff", "{path}");
        assert!(body.is_none_or(|body| response.body == body), "{path}: {}", response.body);
    }
    assert_eq!(says(&["-X", "POST", "http://127.0.0.1:10256/healthz"]).status, 405);
    let metrics = says(&["http://127.0.0.1:10249/metrics"]).body;
    for line in [
        "sluice_healthy 1",
        "sluice_forwarding 1",
        "sluice_node_eligible 1",
        "sluice_source_synced{source=\"manifests\"} 1",
        // Asked at --healthz, and not what was asked at --admin.
        "kubeproxy_proxy_healthz_total{code=\"200\"} 3",
        "kubeproxy_proxy_healthz_total{code=\"503\"} 0",
        "kubeproxy_proxy_livez_total{code=\"200\"} 4",
    ] {
        assert!(metrics.lines().any(|found| found == line), "{line}: {metrics}");
    }
}

#[test]
fn whoever_holds_connections_takes_no_answer_from_others() {
    let mut world = World::new();
    let (server, _serves) = world.server("cart-1", &[(8080, false)]);
    let (holder, other) = (world.pod("holder"), world.pod("other"));
    let service = manifest::service("cart", &["10.96.0.1"], &["http:80:8080"]).replace(
        "spec:\n",
        "spec:\n  type: LoadBalancer\n  externalTrafficPolicy: Local\n  healthCheckNodePort: 31000\n",
    );
    world.apply("shop", &(service + &manifest::pod("cart-1", "cart", &[&server.v4.to_string()])));
    let _agent = world.agent();
    let (v4, v6) = (world.node().v4.to_string(), world.node().v6.to_string());
    wait::until("the health check", || {
        let response = ask(&other, &v4, 31000, "/");
        if response.status == 200 { Ok(()) } else { Err((response, world.log())) }
    });
    for (case, address, port, asks) in [
        ("silent", &v4, 10256, ""),
        ("silent, by IPv6", &v6, 10256, ""),
        ("one that asked and stays", &v4, 10256, "GET /livez HTTP/1.1\\r\\nHost: a\\r\\n\\r\\n"),
        ("one that never ends its question", &v4, 10256, "GET /livez HTTP/1.1\\r\\n"),
        ("a health check of a Service", &v4, 31000, ""),
    ] {
        let mut held = Holder::new(&holder, address, port, asks);
        for (who, pod, at) in [
            ("the kubelet", world.node(), "127.0.0.1"),
            ("the node itself", world.node(), address.as_str()),
            ("another client", &other, address.as_str()),
            ("the holder too", &holder, address.as_str()),
        ] {
            let at = if port == 31000 { v4.as_str() } else { at };
            let response = ask(pod, at, port, "/livez");
            assert_eq!(response.status, 200, "{case}, {who}: {response:?}");
            assert_eq!(response.headers["connection"], "close", "{case}, {who}");
        }
        let start = Instant::now();
        assert_eq!(line(&mut held.says), "closed", "{case}: none is held for ever");
        assert!(start.elapsed() < wait::patiently(wait::DEADLINE), "{case}: {:?}", start.elapsed());
    }
    assert!(world.sluice(&["status"]).status.success(), "{}", text(&world.sluice(&["status"])));
}

#[test]
fn a_port_that_a_pod_of_the_node_has_is_a_problem_until_it_is_free_and_no_end() {
    let world = World::new();
    // It answers, and not as we would.
    let squatter = world.node().serve(&[(10256, false), (10249, false)]);
    let manifests = world.manifests().display().to_string();
    let mut agent = world.spawn_agent(&["--manifests", &manifests]);
    wait::until("the log names both addresses and flags", || {
        let log = world.log();
        let told = |address: &str, flag: &str| {
            let mut lines = log.lines();
            lines.any(|line| line.contains(&format!("{address} is in use")) && line.contains(flag))
        };
        let both = told("127.0.0.1:10249", "--admin") && told("[::]:10256", "--healthz");
        if both && log.contains("sluice is up") { Ok(()) } else { Err(log) }
    });
    let status = text(&world.sluice(&["status"]));
    assert!(
        status.contains(&format!("(pid {}) does not answer on 127.0.0.1:10249", agent.pid())),
        "{status}"
    );
    drop(squatter);
    world.wait_healthy();
    assert_eq!(agent.ended(), None);
    assert_eq!(ask(world.node(), "127.0.0.1", 10256, "/livez").status, 200);
    // One of the two: the other one tells of it.
    drop(agent);
    let squatter = world.node().serve(&[(10256, false)]);
    let _agent = world.spawn_agent(&["--manifests", &manifests]);
    let problems = || world.try_json(&["status"]).map(|status| status["problems"].to_string());
    wait::until("status names address and flag", || match problems() {
        Ok(text)
            if text.contains("[::]:10256 is in use by another program") && text.contains("--healthz") =>
        {
            Ok(())
        }
        other => Err(other),
    });
    let ready = |path: &str| ask(world.node(), "127.0.0.1", 10249, path);
    wait::until("it forwards all the same", || match (ready("/livez").status, ready("/readyz").status) {
        (200, 200) => Ok(()),
        other => Err(other),
    });
    drop(squatter);
    world.wait_healthy();
}
