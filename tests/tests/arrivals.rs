//! Connections that rules hold for and that netfilter keeps from the redirector: nobody else would say why they time out.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::{
    io::Write as _,
    process::Stdio,
    time::{Duration, Instant},
};

use sluice_tests::{
    http::{curl, nginx},
    manifest, wait,
    world::{Pod, World, tool_path},
};

const URL: &str = "http://10.96.0.1/";

fn nft(node: &Pod, text: &str) {
    let mut command = node.command(&tool_path("nft"));
    let mut child = command.args(["-f", "-"]).stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success(), "{text}");
}

#[test]
fn connections_that_an_input_chain_drops_are_named() {
    let mut world = World::new();
    let (server, client) = (world.pod("server"), world.pod("client"));
    let _nginx = nginx(&world, &server, 8080);
    let rule = "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: web, namespace: shop}\n\
                spec:\n  hosts: [web]\n  http:\n  - route: [{destination: {host: web}}]\n";
    let service = manifest::service("web", &["10.96.0.1"], &["http:80:8080"]);
    world.apply("shop", &(service + &manifest::pod("server", "web", &[&server.v4.to_string()]) + rule));
    let _agent = world.agent();
    wait::until("rules hold", || {
        let path = world.json(&["explain", "10.96.0.1:80"])["path"].clone();
        if path == "redirector" { Ok(()) } else { Err((path, world.log())) }
    });
    wait::until("an answer", || {
        let response = curl(&client, &[URL]);
        if response.status == 200 { Ok(()) } else { Err(response) }
    });
    let node = world.node().clone();
    nft(
        &node,
        "table ip wall {\n chain input {\n type filter hook input priority 0; policy accept;\n\
         ip daddr 10.96.0.1 tcp dport 80 drop\n }\n}\n",
    );
    // The agent looks at ten seconds at a time, the first of which may have begun before.
    let start = Instant::now();
    let problems = || world.json(&["status"])["problems"].to_string();
    let within = Duration::from_secs(60);
    wait::until_within(within, "it is named", || {
        let response = curl(&client, &["--connect-timeout", "0.1", URL]);
        assert_eq!(response.status, 0, "{response:?}");
        let problems = problems();
        if problems.contains("were left for the redirector") {
            Ok(())
        } else {
            Err((start.elapsed(), problems))
        }
    });
    nft(&node, "delete table ip wall\n");
    wait::until_within(within, "it is taken back", || {
        let response = curl(&client, &[URL]);
        let problems = problems();
        if response.status == 200 && !problems.contains("redirector") { Ok(()) } else { Err(problems) }
    });
}
