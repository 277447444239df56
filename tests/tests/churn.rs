//! Load by h2load and wrk while everything about the redirector changes: nothing is lost, but what was under way when it
//! was killed.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::process::{Child, Output, Stdio};

use sluice_tests::{
    http::{Nginx, curl, nginx},
    manifest, wait,
    world::{Agent, Pod, World, text, tool_path},
};

const KB: &str = "http://10.96.0.1/kb";
const KB_BY_HTTP2: &str = "http://10.96.0.1:81/kb";

struct Shop {
    world: World,
    client: Pod,
    pods: Vec<Pod>,
    _servers: Vec<Nginx>,
    agent: Option<Agent>,
}

fn weights(one: u32, two: u32) -> String {
    format!(
        "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: cart, namespace: shop}}\nspec:\n  \
         hosts: [cart]\n  http:\n  - match: [{{headers: {{x-never: {{exact: \"{one}\"}}}}}}]\n    \
         directResponse: {{status: 418}}\n  - route:\n    - {{destination: {{host: cart, subset: v1}}, weight: {one}}}\n    \
         - {{destination: {{host: cart, subset: v2}}, weight: {two}}}\n"
    )
}

const SUBSETS: &str = "---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\n\
    metadata: {name: cart, namespace: shop}\nspec:\n  host: cart\n  subsets:\n\
    \x20 - {name: v1, labels: {version: v1}}\n  - {name: v2, labels: {version: v2}}\n";

impl Shop {
    fn start() -> Self {
        let mut world = World::new();
        let pods: Vec<Pod> = ["v1", "v2", "v1-more"].map(|name| world.pod(name)).into();
        let client = world.pod("client");
        let servers = pods.iter().map(|pod| nginx(&world, pod, 8080)).collect();
        let service = manifest::service("cart", &["10.96.0.1"], &["http:80:8080", "http2:81:8081"]);
        world.apply("service", &(service + SUBSETS));
        world.apply("client", &manifest::pod("client", "client", &[&client.v4.to_string()]));
        world.apply("rules", &weights(80, 20));
        let mut shop = Self { world, client, pods, _servers: servers, agent: None };
        shop.scale(3);
        shop.agent = Some(shop.world.agent());
        wait::until("rules hold", || {
            let path = shop.world.json(&["explain", "10.96.0.1:80"])["path"].clone();
            let status = curl(&shop.client, &["-H", "x-never: 80", KB]).status;
            if path == "redirector" && status == 418 { Ok(()) } else { Err((path, status, shop.world.log())) }
        });
        shop.world.wait_healthy();
        shop
    }

    /// The first `count` pods are endpoints.
    fn scale(&self, count: usize) {
        let pod = |pod: &Pod| {
            let version = &pod.name[..2];
            let text = manifest::pod(&pod.name, "cart", &[&pod.v4.to_string()]);
            text.replace("app: cart}", &format!("app: cart, version: {version}}}"))
        };
        self.world.apply("pods", &self.pods[..count].iter().map(pod).collect::<String>());
    }

    fn rule_holds(&self, mark: &str) {
        wait::until("the new rule", || {
            let status = curl(&self.client, &["-H", &format!("x-never: {mark}"), KB]).status;
            if status == 418 { Ok(()) } else { Err(status) }
        });
    }

    fn load(&self, program: &str, words: &[&str]) -> Child {
        let mut command = self.client.command(&tool_path(program));
        command.args(words).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    fn redirector(&self) -> String {
        let pids = std::fs::read_to_string(self.world.node().cgroup.join("cgroup.procs")).unwrap();
        let is_one = |pid: &&str| {
            let words = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            words.contains("\0redirector\0")
        };
        pids.lines().rfind(is_one).unwrap_or_default().to_owned()
    }

    fn signal(&self, signal: &str, pid: &str) {
        assert!(self.world.node().command("kill").args([signal, pid]).status().unwrap().success());
    }

    /// Another redirector serves.
    fn wait_another(&self, than: &str) {
        wait::until("another redirector", || {
            let now = self.redirector();
            if now != than && !now.is_empty() { Ok(()) } else { Err(now) }
        });
        self.world.wait_healthy();
    }
}

/// h2load's account: done, succeeded, and what went wrong in any way.
fn account(output: &Output) -> (u64, u64, u64) {
    let all = text(output);
    let line = all.lines().find(|line| line.starts_with("requests:")).unwrap_or_else(|| panic!("{all}"));
    let number = |name: &str| {
        let before = line.split(name).next().unwrap();
        before.split_whitespace().next_back().unwrap().parse::<u64>().unwrap()
    };
    let wrong = number(" failed,") + number(" errored,") + number(" timeout");
    let codes = all.lines().find(|line| line.starts_with("status codes:")).unwrap();
    let good = codes.split_whitespace().nth(2).unwrap().parse::<u64>().unwrap();
    (number(" done,"), good.min(number(" succeeded,")), wrong)
}

#[test]
fn nothing_is_lost_while_rules_endpoints_and_agents_change() {
    let mut shop = Shop::start();
    let http2 = shop.load("h2load", &["-D", "9", "-c", "4", "-m", "4", KB_BY_HTTP2]);
    let http1 = shop.load("h2load", &["--h1", "-D", "9", "-c", "4", KB]);
    for (round, (one, two)) in [(50, 50), (20, 80), (99, 1), (60, 40)].into_iter().enumerate() {
        shop.world.apply("rules", &weights(one, two));
        shop.scale(if round % 2 == 0 { 2 } else { 3 });
        shop.rule_holds(&one.to_string());
        if round % 2 == 1 {
            drop(shop.agent.take());
            shop.agent = Some(shop.world.agent());
        }
    }
    for (name, child) in [("HTTP/2", http2), ("HTTP/1.1", http1)] {
        let output = child.wait_with_output().unwrap();
        let (done, good, wrong) = account(&output);
        assert!(wrong == 0 && done == good && done > 200, "{name}: {}", text(&output));
    }
}

#[test]
fn a_redirector_that_is_told_to_go_loses_nothing_and_one_that_is_killed_only_what_is_under_way() {
    let shop = Shop::start();
    // Each request of curl is a connection of its own, over either protocol.
    let first = shop.redirector();
    let http1 = shop.load("h2load", &["--h1", "-D", "5", "-c", "4", KB]);
    wait::until("it serves", || {
        let counted = shop.world.json(&["reasons"]).to_string().contains("\"steered\"");
        if counted { Ok(()) } else { Err("nothing") }
    });
    shop.signal("-TERM", &first);
    for _ in 0..20 {
        for (protocol, to) in [("--http1.1", KB), ("--http2-prior-knowledge", KB_BY_HTTP2)] {
            let response = curl(&shop.client, &[protocol, to]);
            assert_eq!(response.status, 200, "{protocol}: {response:?}");
        }
    }
    shop.wait_another(&first);
    let output = http1.wait_with_output().unwrap();
    let (done, good, wrong) = account(&output);
    assert!(wrong == 0 && done == good && done > 100, "told to go: {}", text(&output));

    let second = shop.redirector();
    let connections = 8;
    let load = shop.load("wrk", &["-t", "1", "-c", &connections.to_string(), "-d", "6", KB]);
    wait::until("it serves", || {
        let status = curl(&shop.client, &["-H", "x-never: 80", KB]).status;
        if status == 418 { Ok(()) } else { Err(status) }
    });
    shop.signal("-KILL", &second);
    shop.wait_another(&second);
    shop.rule_holds("80");
    let output = load.wait_with_output().unwrap();
    let all = text(&output);
    let errors = all.lines().find(|line| line.contains("Socket errors:")).unwrap_or("");
    let numbers = errors.split(|c: char| !c.is_ascii_digit()).filter_map(|word| word.parse::<u64>().ok());
    let lost: u64 = numbers.sum();
    // One request is under way on each connection, and each may dial again before the kernel knows.
    assert!(lost <= 4 * connections && !all.contains("Non-2xx"), "killed: {all}");
}
