//! gRPC by a client and a server that we did not write, over one connection, under rules.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::{
    collections::BTreeSet,
    process::{Child, Stdio},
};

use serde_json::Value;
use sluice_tests::{
    manifest, wait,
    world::{Agent, Pod, World, kill, sluice_binary},
};

const TO: &str = "10.96.0.1:80";

struct Calls {
    world: World,
    client: Pod,
    servers: Vec<Child>,
    _agent: Agent,
}

impl Drop for Calls {
    fn drop(&mut self) {
        self.servers.iter_mut().for_each(kill);
    }
}

fn rules(http: &str) -> String {
    format!(
        "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: echo, namespace: shop}}\n\
         spec:\n  hosts: [echo]\n  http:\n{http}"
    )
}

impl Calls {
    fn start(http: &str) -> Self {
        let mut world = World::new();
        let pods: Vec<Pod> = ["echo-1", "echo-2"].map(|name| world.pod(name)).into();
        let client = world.pod("client");
        let serve = |pod: &Pod| {
            let binary = sluice_binary().with_file_name("sluice-rpc").display().to_string();
            let mut command = pod.command(&binary);
            command.args(["serve", &pod.name, "8080"]).stdin(Stdio::null()).spawn().unwrap()
        };
        let servers = pods.iter().map(serve).collect();
        let pod = |pod: &Pod, app| manifest::pod(&pod.name, app, &[&pod.v4.to_string()]);
        let service = manifest::service("echo", &["10.96.0.1"], &["grpc:80:8080"]);
        let all: String = pods.iter().map(|one| pod(one, "echo")).collect();
        world.apply("shop", &(service + &all + &pod(&client, "client")));
        world.apply("rules", &rules(http));
        let agent = world.agent();
        let calls = Self { world, client, servers, _agent: agent };
        wait::until("rules hold and both answer", || {
            let path = calls.world.json(&["explain", TO])["path"].clone();
            let by = if path == "redirector" { calls.names("Say", 12) } else { BTreeSet::new() };
            if by.len() == 2 { Ok(()) } else { Err((path, by, calls.world.log())) }
        });
        calls.world.wait_healthy();
        calls
    }

    /// What the client printed for each call.
    fn call(&self, words: &[&str]) -> Vec<Value> {
        let mut command =
            self.client.command(&sluice_binary().with_file_name("sluice-rpc").display().to_string());
        let output = command.args(["call", TO]).args(words).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Who answered calls that went well.
    fn names(&self, method: &str, count: u32) -> BTreeSet<String> {
        let lines = self.call(&[method, &count.to_string()]);
        let good = lines.iter().filter(|line| line["code"] == 0);
        good.map(|line| line["messages"][0].as_str().unwrap().to_owned()).collect()
    }
}

#[test]
fn calls_on_one_connection_are_spread_streams_end_with_their_trailers_and_deadlines_hold() {
    let calls = Calls::start("  - route: [{destination: {host: echo}}]\n    timeout: 500ms\n");
    let lines = calls.call(&["Say", "40"]);
    let by = |name: &str| lines.iter().filter(|line| line["messages"][0] == name).count();
    let (one, two) = (by("echo-1"), by("echo-2"));
    assert!(one + two == 40 && one > 5 && two > 5, "{one} and {two} of {lines:?}");

    for line in calls.call(&["Count", "4"]) {
        let messages = line["messages"].as_array().unwrap();
        let name = line["end"].as_str().unwrap();
        let want: Vec<String> = (0..5).map(|number| format!("{name} {number}")).collect();
        assert_eq!(
            (messages.len(), &line["code"], &line["text"]),
            (5, &15.into(), &"the end".into()),
            "{line}"
        );
        assert!(messages.iter().eq(&want) && name.starts_with("echo-"), "metadata of the end: {line}");
    }

    // The endpoint is told of the shorter of the two: the rule's, or the client's own.
    for (deadline_ms, longest_ms) in [("20000", 500), ("200", 200)] {
        let line = &calls.call(&["Deadline", "1", deadline_ms])[0];
        let told = line["messages"][0].as_str().unwrap_or_else(|| panic!("{line}"));
        let (number, unit) = told.split_at(told.len() - 1);
        let ms = number.parse::<u64>().unwrap() / if unit == "u" { 1000 } else { 1 };
        assert!(matches!(unit, "m" | "u") && ms <= longest_ms, "{deadline_ms}: {told}");
    }
    let line = &calls.call(&["Slow", "1"])[0];
    // DEADLINE_EXCEEDED.
    assert_eq!(line["code"], 4, "the rule's timeout: {line}");
}

#[test]
fn calls_that_an_endpoint_does_not_take_are_tried_at_another() {
    let retries = |text: &str| format!("  - route: [{{destination: {{host: echo}}}}]\n    retries: {text}\n");
    let calls = Calls::start(&retries("{attempts: 3, retryOn: unavailable}"));
    let lines = calls.call(&["Flaky", "30"]);
    let good = lines.iter().filter(|line| line["code"] == 0 && line["messages"][0] == "echo-2").count();
    assert_eq!((good, lines.len()), (30, 30), "{lines:?}");
    calls.world.apply("rules", &rules(&retries("{attempts: 0}")));
    wait::until("no more tries", || {
        let lines = calls.call(&["Flaky", "20"]);
        let failed = lines.iter().filter(|line| line["code"] == 14 && line["text"] == "not me").count();
        if failed > 3 && lines.len() == 20 { Ok(()) } else { Err(lines) }
    });
}
