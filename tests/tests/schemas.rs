//! The manifests against what Kubernetes itself says of them: its published schemas by a validator that we did not write, and
//! an API server where `KUBEBUILDER_ASSETS` names one. Rules among the examples against our own definitions.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::{
    collections::BTreeMap,
    io::Write as _,
    process::{Command, Stdio},
};

use serde_json::{Value, json};
use sluice_tests::{
    apiserver::{ApiServer, assets},
    kustomize::{OVERLAYS, render, written},
    world::{World, text},
};

/// The oldest release that knows every field, and the newest that the validator has. README.md of `deploy` names the first.
const RELEASES: [&str; 2] = ["1.30", "1.37"];

/// Everything that is to be of the Kubernetes API, and with it what is not: rules.
fn all() -> Vec<Value> {
    let rendered = OVERLAYS.into_iter().chain(["crds"]).flat_map(render);
    rendered.chain(written("examples/shop")).collect()
}

fn is_rule(object: &Value) -> bool {
    object["apiVersion"].as_str().unwrap().starts_with("networking.istio.io/")
}

/// Our definitions' schemas, by kind and version.
fn definitions() -> BTreeMap<(String, String), Value> {
    let mut schemas = BTreeMap::new();
    for definition in render("crds") {
        for version in definition["spec"]["versions"].as_array().unwrap() {
            let names = (&definition["spec"]["names"]["kind"], &version["name"]);
            let key = (names.0.as_str().unwrap().to_owned(), names.1.as_str().unwrap().to_owned());
            schemas.insert(key, version["schema"]["openAPIV3Schema"].clone());
        }
    }
    schemas
}

/// What is wrong with these, a line each.
fn complaints(lines: &[Value]) -> String {
    let folder = std::env::var_os("SLUICE_VALIDATOR");
    let folder = folder.expect("SLUICE_VALIDATOR is not set: run this by `cargo xtask test`");
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/src/schemas.py");
    let mut command = Command::new("python3");
    command.arg(script).env("PYTHONPATH", folder).env("PYTHONDONTWRITEBYTECODE", "1");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("python3 starts");
    let mut input = child.stdin.take().unwrap();
    let words: String = lines.iter().map(|line| format!("{line}\n")).collect();
    let writing = std::thread::spawn(move || input.write_all(words.as_bytes()));
    let output = child.wait_with_output().unwrap();
    writing.join().unwrap().unwrap();
    assert!(output.status.success(), "{}", text(&output));
    String::from_utf8(output.stdout).unwrap()
}

fn against_releases(object: &Value) -> impl Iterator<Item = Value> {
    RELEASES.into_iter().map(move |version| json!({"object": object, "version": version}))
}

#[test]
fn every_manifest_is_of_the_published_schemas() {
    let objects = all();
    let lines: Vec<Value> =
        objects.iter().filter(|object| !is_rule(object)).flat_map(against_releases).collect();
    assert!(lines.len() > 60, "{}", lines.len());
    assert_eq!(complaints(&lines), "");
}

#[test]
fn rules_among_the_examples_are_of_our_definitions() {
    let definitions = definitions();
    let rules: Vec<Value> = all().into_iter().filter(is_rule).collect();
    let line = |object: &Value, version: &str| {
        let kind = object["kind"].as_str().unwrap().to_owned();
        json!({"object": object, "schema": definitions[&(kind, version.to_owned())]})
    };
    let lines: Vec<Value> = rules
        .iter()
        .flat_map(|rule| ["v1", "v1beta1", "v1alpha3"].map(|version| line(rule, version)))
        .collect();
    assert!(lines.len() >= 9, "{}", lines.len());
    assert_eq!(complaints(&lines), "");
    let mut broken = rules.iter().find(|rule| rule["kind"] == "VirtualService").unwrap().clone();
    broken["spec"]["hosts"] = json!("reviews");
    let said = complaints(&[line(&broken, "v1")]);
    assert!(said.contains("$.spec.hosts: 'reviews' is not of type 'array'"), "{said}");
}

#[test]
fn the_validator_refuses_what_a_release_does_not_know() {
    let base = render("base");
    let daemon = base.iter().find(|object| object["kind"] == "DaemonSet").unwrap();
    for (path, value, said) in [
        ("/spec/template/spec/hostNetwrk", json!(true), "'hostNetwrk' was unexpected"),
        ("/spec/minReadySeconds", json!("five"), "'five' is not of type"),
        // In place of it stands nothing.
        ("/spec/selector", Value::Null, "'selector' is a required property"),
    ] {
        let mut broken = daemon.clone();
        let (place, name) = path.rsplit_once('/').unwrap();
        let above = broken.pointer_mut(place).unwrap().as_object_mut().unwrap();
        match value {
            Value::Null => drop(above.remove(name)),
            value => drop(above.insert(name.to_owned(), value)),
        }
        let lines: Vec<Value> = against_releases(&broken).collect();
        let found = complaints(&lines);
        assert_eq!(
            found.lines().filter(|line| line.contains(said)).count(),
            RELEASES.len(),
            "{path}: {found}"
        );
    }
}

#[test]
fn a_real_api_server_takes_every_manifest() {
    let Some(assets) = assets() else {
        println!("KUBEBUILDER_ASSETS names no kube-apiserver: nothing was asked");
        return;
    };
    let world = World::new();
    let server = ApiServer::start_real(&world, &assets);
    server.make(render("base").iter().filter(|object| object["kind"] == "Namespace"));
    server.make(&render("crds"));
    for object in all() {
        assert_eq!(server.try_out(&object), Ok(()), "{} {}", object["kind"], object["metadata"]["name"]);
    }
    let daemon = render("base").into_iter().find(|object| object["kind"] == "DaemonSet").unwrap();
    let mut broken = daemon.clone();
    broken["spec"]["template"]["spec"]["hostNetwrk"] = json!(true);
    assert!(server.try_out(&broken).is_err(), "it is asked to be strict");
}
