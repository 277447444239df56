//! `cargo xtask bench l7`: one request through the redirector, against the same request straight to the server and
//! through Envoy with the same routes and as many threads, by HTTP/1.1 and HTTP/2; and the memory that both take. One run, one
//! topology, interleaved rounds, medians.

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    process::{Child, Stdio},
};

use anyhow::{Context as _, Result, bail, ensure};

use self::process::{pid_of, resident_mb};
use super::{Results, choice};
use crate::{
    http::{Nginx, curl, nginx},
    manifest, wait,
    world::{Agent, Pod, World, kill},
};

mod envoy;
mod load;
mod memory;
mod process;
mod speed;

pub use memory::hold;

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
            let full = speed::full(&node, rules, speech, &mut results)?;
            speed::half(&node, rules, speech, &full, &mut results)?;
            if speech == Speech::Http1 {
                cost.insert(rules, full.cpu_us);
            }
        }
        say(&format!("{rules} rules: a Service that has none"));
        speed::beside(&node, rules, &mut results)?;
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
    /// A Service that no rule names, by HTTP/1.1.
    without_rules: String,
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
        let plain = manifest::service("plain", &["10.96.0.2"], &["http:80:8080"]);
        let pods = ["web", "plain"].map(|name| manifest::pod(&format!("{name}-server"), name, &[&address]));
        world.apply("shop", &(service + &plain + &pods.concat() + &virtual_service(rules)));
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
        let without_rules = "http://10.96.0.2/kb".to_owned();
        let kernel = world.json(&["explain", "10.96.0.2:80"]);
        ensure!(kernel["path"] == "kernel", "the Service without rules is not left to the kernel: {kernel}");
        let clients = clients.into();
        Ok(Self { clients, direct, without_rules, proxies, _server: nginx, envoy, _agent: agent, world })
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
