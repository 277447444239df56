//! Names and texts that would move a terminal's cursor or turn its words around: every command that reads shows them escaped,
//! whatever it prints.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use serde_json::Value;
use sluice_tests::{
    manifest, wait,
    world::{World, text},
};

/// Clears a screen in three ways, turns text around, rings.
const HOSTILE: &str = "evil\u{1b}[2J\u{9b}2J\u{7}\u{202e}txt\u{2066}\u{7f}";
const FORMATS: [&str; 3] = ["table", "json", "yaml"];

fn obeyed(c: char) -> bool {
    let bidirectional =
        ['\u{61c}', '\u{200e}', '\u{200f}'].contains(&c) || ('\u{202a}'..='\u{202e}').contains(&c);
    (c.is_control() && c != '\n') || bidirectional || ('\u{2066}'..='\u{2069}').contains(&c)
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
    let world = World::new();
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
            assert!(!printed.contains(obeyed), "{words:?}: {printed:?}");
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
}

#[test]
fn errors_are_shown_escaped_too() {
    let world = World::new();
    let _agent = world.agent();
    let missing = format!("shop/{HOSTILE}");
    wait::until("an answer", || {
        let printed = text(&world.sluice(&["service", &missing]));
        if printed.contains("\\u{9b}") && !printed.contains(obeyed) { Ok(()) } else { Err(printed) }
    });
}
