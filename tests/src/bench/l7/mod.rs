//! `cargo xtask bench l7`: one request through the redirector, against the same request straight to the server and
//! through Envoy with the same routes and as many threads, by HTTP/1.1 and HTTP/2; and the memory that both take. One run, one
//! topology, interleaved rounds, medians.

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    process::{Child, Stdio},
};

use anyhow::{Context as _, Result, bail};
use serde_json::json;

use self::{
    load::{Load, h2load, wrk},
    process::{cpu_s, pid_of, resident_mb},
};
use super::{Results, choice, median};
use crate::{
    http::{Nginx, curl, nginx},
    manifest, wait,
    world::{Agent, Pod, World, kill},
};

mod envoy;
mod load;
mod memory;
mod process;

pub use memory::hold;

const ROUNDS: usize = 5;
const CONNECTIONS: u32 = 10;

/// A proxy that is measured.
struct Proxy {
    name: &'static str,
    pid: u32,
    /// Where it is dialled, by HTTP/1.1.
    address: String,
    /// The port of that address.
    port: u16,
    /// By HTTP/1.1, by HTTP/2.
    urls: [String; 2],
}

/// What is spoken.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Speech {
    Http1,
    Http2,
}

impl Speech {
    const fn name(self) -> &'static str {
        match self {
            Self::Http1 => "HTTP/1.1",
            Self::Http2 => "HTTP/2",
        }
    }
}

/// Runs everything, or of `memory`, `http1` and `http2` those in `ways`.
///
/// # Errors
/// A program is missing, or does not serve, or a way is none.
pub fn l7(ways: &[String], mut say: impl FnMut(&str)) -> Result<Results> {
    let mut results = Results::named("l7");
    say("finding rules");
    choice::measure(&mut results);
    let known = ["memory", "http1", "http2"];
    if let Some(other) = ways.iter().find(|way| !known.contains(&way.as_str())) {
        bail!("there is no way {other:?}; there are {}", known.join(", "));
    }
    let is_wanted = |way: &str| ways.is_empty() || ways.iter().any(|one| one == way);
    let envoy = envoy::binary(&mut say)?;
    if is_wanted("memory") {
        say("memory: nothing to do, 1,000 and 10,000 connections");
        memory::measure(&Node::start(1, &envoy)?, &mut results)?;
    }
    let speeches = [("http1", Speech::Http1), ("http2", Speech::Http2)];
    let speeches: Vec<Speech> =
        speeches.into_iter().filter(|(way, _)| is_wanted(way)).map(|(_, speech)| speech).collect();
    if speeches.is_empty() {
        return Ok(results);
    }
    let mut cost = BTreeMap::new();
    for rules in [1, 10, 500] {
        let node = Node::start(rules, &envoy)?;
        for speech in speeches.iter().copied() {
            say(&format!("{rules} rules: {}, interleaved rounds", speech.name()));
            let cpu_us = measure(&node, rules, speech, &mut results)?;
            if speech == Speech::Http1 {
                cost.insert(rules, cpu_us);
            }
        }
        memory_after(&node, rules, &mut results)?;
    }
    if let (Some(one), Some(many)) = (cost.get(&1), cost.get(&500)) {
        results.at_most("500 rules / 1 rule, CPU per request", many / one, 1.1, "ratio");
    }
    Ok(results)
}

/// A server, a client, an agent with its redirector, and an Envoy.
struct Node {
    clients: Vec<Pod>,
    /// By HTTP/1.1, by HTTP/2.
    direct: [String; 2],
    proxies: [Proxy; 2],
    _server: Nginx,
    envoy: Child,
    _agent: Agent,
    world: World,
}

impl Drop for Node {
    fn drop(&mut self) {
        kill(&mut self.envoy);
    }
}

impl Node {
    fn start(rules: usize, binary: &Path) -> Result<Self> {
        let mut world = World::new();
        let server = world.pod("server");
        let clients = ["client", "client-2", "client-3"].map(|name| world.pod(name));
        let nginx = nginx(&world, &server, 8080);
        let address = server.v4.to_string();
        let service = manifest::service("web", &["10.96.0.1"], &["http:80:8080", "http2:81:8081"]);
        world.apply(
            "shop",
            &(service + &manifest::pod("server", "web", &[&address]) + &virtual_service(rules)),
        );
        let agent = world.agent();
        for to in ["10.96.0.1:80", "10.96.0.1:81"] {
            wait::until("rules hold", || {
                let path = world.json(&["explain", to])["path"].clone();
                if path == "redirector" { Ok(()) } else { Err(path) }
            });
        }
        world.wait_healthy();
        let config = world.folder().join("envoy.json");
        let node = world.node();
        fs::write(&config, envoy::config(rules, &node.v4.to_string(), &address).to_string())?;
        let cpus = std::thread::available_parallelism()?.to_string();
        let mut command = node.command(&binary.display().to_string());
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
        let of_envoy = |port: u16| format!("http://{}:{port}/kb", node.v4);
        let urls = [of_envoy(envoy::PORT), of_envoy(envoy::PORT + 1)];
        for (url, word) in urls.iter().zip(["--http1.1", "--http2-prior-knowledge"]) {
            wait::until("envoy serves", || {
                let response = curl(&clients[0], &[word, url]);
                if response.status == 200 { Ok(()) } else { Err(response) }
            });
        }
        let redirector = pid_of(node, "redirector").context("no redirector runs")?;
        let proxies = [
            Proxy {
                name: "redirector",
                pid: redirector,
                address: "10.96.0.1:80".to_owned(),
                port: 80,
                urls: ["http://10.96.0.1/kb", "http://10.96.0.1:81/kb"].map(str::to_owned),
            },
            Proxy {
                name: "envoy",
                pid: pid_of(node, "--concurrency").context("no envoy runs")?,
                address: format!("{}:{}", node.v4, envoy::PORT),
                port: envoy::PORT,
                urls,
            },
        ];
        let direct = [8080, 8081].map(|port| format!("http://{address}:{port}/kb"));
        Ok(Self { clients: clients.into(), direct, proxies, _server: nginx, envoy, _agent: agent, world })
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

/// Measures all ways; returns the redirector's CPU time per request, µs.
fn measure(node: &Node, rules: usize, speech: Speech, results: &mut Results) -> Result<f64> {
    let mut rates: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    let mut latencies: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    let mut costs: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    let load = |urls: &[String; 2]| -> Result<Load> {
        match speech {
            Speech::Http1 => wrk(&node.clients[0], &urls[0], CONNECTIONS),
            Speech::Http2 => h2load(&node.clients[0], &urls[1], CONNECTIONS, node.world.folder()),
        }
    };
    for _ in 0..ROUNDS {
        let direct = load(&node.direct)?;
        rates.entry("direct").or_default().push(direct.per_second);
        for proxy in &node.proxies {
            let before = cpu_s(proxy.pid)?;
            let load = load(&proxy.urls)?;
            let cpu_us = (cpu_s(proxy.pid)? - before) * 1e6 / load.requests;
            rates.entry(proxy.name).or_default().push(load.per_second);
            latencies.entry(proxy.name).or_default().push(load.p99_us);
            costs.entry(proxy.name).or_default().push(cpu_us);
            results.runs.push(json!({"rules": rules, "protocol": speech.name(), "way": proxy.name, "perSecond": load.per_second,
                "cpuUsPerRequest": cpu_us, "p50Us": load.p50_us, "p99Us": load.p99_us}));
        }
    }
    let middle =
        |values: &BTreeMap<&str, Vec<f64>>, name: &str| median(values.get(name).cloned().unwrap_or_default());
    let [ours, theirs] = ["redirector", "envoy"].map(|name| middle(&costs, name));
    let label = |what: &str| format!("{rules} rules, {}: {what}", speech.name());
    results.at_least(&label("requests per CPU second / Envoy's"), theirs / ours, 1.5, "ratio");
    let [p99, envoy_p99] = ["redirector", "envoy"].map(|name| middle(&latencies, name));
    results.at_most(&label("p99 at full load / Envoy's"), p99 / envoy_p99, 1.0, "ratio");
    eprintln!(
        "    direct {:.0}/s; redirector {:.0}/s, {ours:.1} µs CPU, p99 {p99:.0} µs; envoy {:.0}/s, {theirs:.1} µs CPU, p99 \
         {envoy_p99:.0} µs",
        middle(&rates, "direct"),
        middle(&rates, "redirector"),
        middle(&rates, "envoy"),
    );
    Ok(ours)
}

fn memory_after(node: &Node, rules: usize, results: &mut Results) -> Result<()> {
    let memory = node.proxies.iter().map(|proxy| resident_mb(proxy.pid)).collect::<Result<Vec<_>>>()?;
    eprintln!("    memory: redirector {:.1} MB, envoy {:.1} MB", memory[0], memory[1]);
    results.at_most(
        &format!("{rules} rules: memory after the load / Envoy's"),
        memory[0] / memory[1],
        0.334,
        "ratio",
    );
    Ok(())
}
