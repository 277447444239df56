//! Names and texts that would move a terminal's cursor, turn its words around or make lines of their own: every command that
//! reads shows them escaped, whatever it prints, and so does the log.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpListener,
    process::{Command, Stdio},
};

use serde_json::Value;
use sluice_tests::{
    manifest, wait,
    world::{Pod, World, sluice_binary, text},
};

/// Clears a screen in three ways, turns text around, rings, and goes on in a line that looks like one of ours.
const HOSTILE: &str =
    "evil\u{1b}[2J\u{9b}2J\u{7}\u{202e}txt\u{2066}\u{7f}\nforged: all is well\u{2028}forged";
const FORMATS: [&str; 3] = ["table", "json", "yaml"];

fn obeyed(c: char) -> bool {
    let bidirectional =
        ['\u{61c}', '\u{200e}', '\u{200f}'].contains(&c) || ('\u{202a}'..='\u{202e}').contains(&c);
    (c.is_control() && c != '\n')
        || bidirectional
        || ('\u{2066}'..='\u{2069}').contains(&c)
        || ['\u{2028}', '\u{2029}'].contains(&c)
}

/// Nothing of it is obeyed, and each line is ours.
fn is_harmless(printed: &str) -> bool {
    !printed.contains(obeyed) && !printed.lines().any(|line| line.trim_start().starts_with("forged"))
}

/// A string of JSON, which YAML takes: any character gets there.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.chars().map(|c| format!("\\u{:04x}", u32::from(c))).collect::<String>())
}

/// A shop where somebody calls everything badly that can be called.
fn manifests() -> String {
    let evil = quoted(HOSTILE);
    let service = manifest::service("cart", &["10.96.0.1"], &["http:80:8080"]);
    // No name that Kubernetes takes: left out, with a message that has it.
    let refused = service.replace("name: cart,", &format!("name: {evil},")).replace("10.96.0.1", "10.96.0.9");
    let slice = format!(
        "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: x, namespace: shop, labels: \
         {{kubernetes.io/service-name: cart}}}}\naddressType: IPv4\nports: [{{name: http, port: 8080, protocol: TCP}}]\n\
         endpoints: [{{addresses: [10.244.0.8], nodeName: {evil}, zone: {evil}, conditions: {{ready: true}}}}]\n"
    );
    let rule = format!(
        "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: cart, namespace: shop}}\n\
         spec:\n  hosts: [cart]\n  http:\n  - name: {evil}\n    match: [{{headers: {{x: {{exact: {evil}}}}}}}]\n    \
         route: [{{destination: {{host: {evil}}}}}]\n  - route: [{{destination: {{host: cart}}}}]\n"
    );
    let second =
        rule.replace("name: cart,", "name: other,").replace("hosts: [cart]", &format!("hosts: [{evil}]"));
    service + &refused + &slice + &rule + &second
}

#[test]
fn every_reading_command_shows_names_escaped_in_every_format() {
    let mut world = World::new();
    let client = world.pod("client");
    world.apply("shop", &manifests());
    let _agent = world.agent();
    wait::until("the endpoint", || {
        let backends = world.json(&["backend"]);
        if backends.to_string().contains("10.244.0.8") { Ok(()) } else { Err(backends) }
    });
    let run_dir = world.folder().join("run").display().to_string();
    let shop = world.manifests().join("shop.yaml").display().to_string();
    let admin = ["--run-dir", run_dir.as_str()];
    let url = "http://cart.shop/";
    let commands: [&[&str]; 13] = [
        &["status"],
        &["service"],
        &["frontend"],
        &["backend"],
        &["affinity"],
        &["conntrack"],
        &["nat"],
        &["config"],
        &["reasons"],
        &["route", admin[0], admin[1]],
        &["explain", "10.96.0.1:80", admin[0], admin[1]],
        &["explain", url, admin[0], admin[1]],
        &["check", &shop],
    ];
    let mut told = String::new();
    for words in commands {
        for format in FORMATS {
            let words: Vec<&str> = words.iter().copied().chain(["-o", format]).collect();
            let output = world.sluice(&words);
            let printed = text(&output);
            assert!(!printed.is_empty(), "{words:?}");
            assert!(is_harmless(&printed), "{words:?}: {printed:?}");
            if format == "json" && output.status.success() {
                let value: Value = serde_json::from_slice(&output.stdout).unwrap();
                if value.to_string().contains(&serde_json::to_string(HOSTILE).unwrap().replace('"', "")) {
                    told += &format!("{} ", words[0]);
                }
            }
        }
    }
    // A node's name and zone do come there, and are the same behind the escapes.
    assert!(told.contains("backend"), "only {told:?}");
    let log = world.log();
    assert!(log.contains("evil\\u{1b}") && is_harmless(&log), "{log:?}");
    for format in FORMATS {
        let seen = seen(&world, &client, format);
        assert!(seen.contains("evil") && is_harmless(&seen), "{format}: {seen:?}");
    }
}

/// What `sluice monitor` shows of a connection to the Service whose node is called badly.
fn seen(world: &World, client: &Pod, format: &str) -> String {
    let mut command = world.node().command(&sluice_binary().display().to_string());
    command.args(["monitor", "--service", "shop/cart", "--count", "1", "-o", format, "--bpffs"]);
    command.arg(world.bpffs()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut monitor = command.spawn().unwrap();
    let mut said = BufReader::new(monitor.stderr.take().unwrap());
    let mut watching = String::new();
    said.read_line(&mut watching).unwrap();
    // Nobody has the endpoint's address: that it is dialled is enough.
    let dial = ["1", "bash", "-c", "exec 3<>/dev/tcp/10.96.0.1/80"];
    client.command("timeout").args(dial).output().unwrap();
    let output = monitor.wait_with_output().unwrap();
    assert!(output.status.success(), "{watching}{}", text(&output));
    text(&output)
}

#[test]
fn errors_are_shown_escaped_too() {
    let world = World::new();
    let _agent = world.agent();
    let missing = format!("shop/{HOSTILE}");
    wait::until("an answer", || {
        let printed = text(&world.sluice(&["service", &missing]));
        if printed.contains("\\u{9b}") && is_harmless(&printed) { Ok(()) } else { Err(printed) }
    });
    let place = format!("/tmp/{HOSTILE}");
    let at_place: [&[&str]; 4] = [
        &["check", &place],
        &["route", "--run-dir", &place],
        &["conntrack", "--bpffs", &place],
        &["cleanup", "--bpffs", &place],
    ];
    for words in at_place {
        let alone = || world.node().command(&sluice_binary().display().to_string()).args(words).output();
        let output = if words.contains(&"--bpffs") { alone().unwrap() } else { world.sluice(words) };
        let printed = text(&output);
        assert!(printed.contains("\\u{9b}") && is_harmless(&printed), "{words:?}: {printed:?}");
    }
    // Who has the agent's address instead of it may say anything.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let admin = listener.local_addr().unwrap().to_string();
    let answer = format!("HTTP/1.1 200 {HOSTILE}\r\n\r\n{{{}: 1}}", quoted(HOSTILE));
    let liar = std::thread::spawn(move || {
        for stream in listener.incoming().take(2) {
            let mut stream = stream.unwrap();
            let asked = stream.read(&mut [0; 4096]).unwrap();
            assert!(asked > 0);
            stream.write_all(answer.as_bytes()).unwrap();
        }
    });
    for command in ["config", "status"] {
        let mut sluice = Command::new(sluice_binary());
        let output =
            sluice.args([command, "--admin", &admin, "--bpffs"]).arg(world.bpffs()).output().unwrap();
        let printed = text(&output);
        assert!(printed.contains("the answer is not") && is_harmless(&printed), "{command}: {printed:?}");
    }
    liar.join().unwrap();
}
