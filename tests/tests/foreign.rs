//! TLS and WebSocket through the redirector, by clients and servers that we did not write: curl, nginx and tungstenite.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::{
    collections::BTreeSet,
    path::PathBuf,
    process::{Child, Stdio},
};

use serde_json::Value;
use sluice_tests::{
    http::{Nginx, curl, nginx_tls},
    manifest, wait,
    world::{Agent, Pod, World, kill, sluice_binary},
};

fn virtual_service(name: &str, hosts: &str, rules: &str) -> String {
    format!(
        "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: {name}, namespace: shop}}\n\
         spec:\n  hosts: [{hosts}]\n{rules}"
    )
}

struct Vault {
    world: World,
    client: Pod,
    /// The certificates of blue and green.
    certificates: [PathBuf; 2],
    _servers: [Nginx; 2],
    _agent: Agent,
}

const COLOURS: [&str; 2] = ["blue", "green"];

impl Vault {
    /// vault with a pod of each colour, and rules that lead a server name to its colour.
    fn start() -> Self {
        let mut world = World::new();
        let pods = COLOURS.map(|colour| world.pod(colour));
        let client = world.pod("client");
        let servers =
            pods.each_ref().map(|pod| nginx_tls(&world, pod, 8443, &format!("{}.vault.example", pod.name)));
        let [(blue, blue_certificate), (green, green_certificate)] = servers;
        let pod = |pod: &Pod| {
            let text = manifest::pod(&pod.name, "vault", &[&pod.v4.to_string()]);
            text.replace("app: vault}", &format!("app: vault, colour: {}}}", pod.name))
        };
        let subsets = "---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: vault, namespace: shop}\n\
             spec:\n  host: vault\n  subsets:\n  - {name: blue, labels: {colour: blue}}\n  - {name: green, labels: {colour: green}}\n";
        let rule = |colour: &str| {
            format!(
                "  - match: [{{sniHosts: [{colour}.vault.example]}}]\n    route: [{{destination: {{host: vault, subset: {colour}}}}}]\n"
            )
        };
        let rules = format!("  tls:\n{}{}", rule("blue"), rule("green"));
        let service = manifest::service("vault", &["10.96.0.1"], &["https:443:8443"]);
        let client_pod = manifest::pod("client", "client", &[&client.v4.to_string()]);
        let objects = service + &pod(&pods[0]) + &pod(&pods[1]) + &client_pod + subsets;
        world.apply("shop", &(objects + &virtual_service("vault", "vault, \"*.vault.example\"", &rules)));
        let agent = world.agent();
        let certificates = [blue_certificate, green_certificate];
        let vault = Self { world, client, certificates, _servers: [blue, green], _agent: agent };
        wait::until("rules hold", || {
            let path = vault.world.json(&["explain", "10.96.0.1:443"])["path"].clone();
            if path == "redirector" { Ok(()) } else { Err((path, vault.world.log())) }
        });
        vault.world.wait_healthy();
        vault
    }

    /// Who answers curl, which asks for `name`; an error's number if nobody does.
    fn ask(&self, name: &str, words: &[&str]) -> String {
        let resolve = format!("{name}:443:10.96.0.1");
        let url = format!("https://{name}/");
        let response = curl(&self.client, &[&["--resolve", &resolve, &url], words].concat());
        if response.status == 200 { response.body.trim().to_owned() } else { format!("{response:?}") }
    }
}

#[test]
fn server_names_choose_the_endpoint_and_nothing_is_decrypted() {
    let vault = Vault::start();
    let own = |index: usize| vault.certificates[index].display().to_string();
    for (index, colour) in COLOURS.into_iter().enumerate() {
        let name = format!("{colour}.vault.example");
        // Its own certificate is all that curl trusts: who answers holds the pod's key, and nobody between them did.
        for version in [&["--tls-max", "1.2"][..], &["--tlsv1.3"], &["--http1.1"]] {
            for _ in 0..6 {
                let by = vault.ask(&name, &[&["--cacert", &own(index)], version].concat());
                assert_eq!(by, colour, "{version:?}");
            }
        }
        let by = vault.ask(&name, &["--cacert", &own(1 - index)]);
        assert_ne!(by, colour, "the other's certificate must not do");
    }
    // A name that no rule has: the Service itself, so either.
    let by: BTreeSet<String> = (0..24).map(|_| vault.ask("other.vault.example", &["--insecure"])).collect();
    assert_eq!(by, COLOURS.map(str::to_owned).into());
}

struct Chat {
    world: World,
    client: Pod,
    servers: Vec<Child>,
    _agent: Agent,
}

impl Drop for Chat {
    fn drop(&mut self) {
        self.servers.iter_mut().for_each(kill);
    }
}

fn websocket(pod: &Pod) -> std::process::Command {
    pod.command(&sluice_binary().with_file_name("sluice-websocket").display().to_string())
}

impl Chat {
    fn start(rules: &str) -> Self {
        let mut world = World::new();
        let pods: Vec<Pod> = ["chat-1", "chat-2"].map(|name| world.pod(name)).into();
        let client = world.pod("client");
        let serve = |pod: &Pod| {
            let mut command = websocket(pod);
            command.args(["serve", &pod.name, "8080"]).stdin(Stdio::null()).spawn().unwrap()
        };
        let servers = pods.iter().map(serve).collect();
        let all: String =
            pods.iter().map(|pod| manifest::pod(&pod.name, "chat", &[&pod.v4.to_string()])).collect();
        let service = manifest::service("chat", &["10.96.0.1"], &["http:80:8080"]);
        let client_pod = manifest::pod("client", "client", &[&client.v4.to_string()]);
        world.apply("shop", &(service + &all + &client_pod + &virtual_service("chat", "chat", rules)));
        let agent = world.agent();
        let chat = Self { world, client, servers, _agent: agent };
        wait::until("rules hold and both answer", || {
            let path = chat.world.json(&["explain", "10.96.0.1:80"])["path"].clone();
            let ready = path == "redirector" && {
                let by: BTreeSet<String> =
                    (0..8).map(|_| chat.call("/chat", "0")["by"].to_string()).collect();
                by.len() == 2 && !by.contains("null")
            };
            if ready { Ok(()) } else { Err((path, chat.world.log())) }
        });
        chat
    }

    fn call(&self, path: &str, count: &str) -> Value {
        let url = format!("ws://chat.shop{path}");
        let output = websocket(&self.client).args(["call", &url, "10.96.0.1:80", count]).output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        serde_json::from_slice(&output.stdout).unwrap_or_else(|_| serde_json::json!({"error": error}))
    }
}

#[test]
fn a_websocket_meets_rules_and_then_is_its_endpoints_alone() {
    let chat = Chat::start(
        "  http:\n  - match: [{uri: {exact: /closed}}]\n    directResponse: {status: 403}\n\
         \x20 - match: [{uri: {prefix: /chat}, headers: {upgrade: {exact: websocket}}}]\n\
         \x20   route: [{destination: {host: chat}}]\n",
    );
    for _ in 0..4 {
        let told = chat.call("/chat", "20");
        assert_eq!(told["echoed"], 20, "{told}");
        assert!(told["pong"] == true && told["closed"] == true, "{told}");
        assert!(told["by"].as_str().is_some_and(|name| name.starts_with("chat-")), "{told}");
    }
    assert_eq!(chat.call("/closed", "1")["status"], 403, "the rule answers");
    assert_eq!(chat.call("/elsewhere", "1")["status"], 404, "no rule matches");
}
