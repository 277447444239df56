//! What public runners are told: the workflow asks for what its steps need, and for all that can be asked.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::{fs, path::Path};

use serde_json::Value;

fn file(name: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    fs::read_to_string(root.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn workflow() -> Value {
    serde_saphyr::from_str(&file(".github/workflows/ci.yml")).unwrap()
}

fn steps(job: &Value) -> &[Value] {
    job["steps"].as_array().unwrap()
}

/// All that a job runs, and what its script does.
fn commands(job: &Value) -> String {
    let runs: Vec<&str> = steps(job).iter().filter_map(|step| step["run"].as_str()).collect();
    let text = runs.join("\n");
    if text.contains(".ci/run") { text + &file(".ci/run") } else { text }
}

#[test]
fn every_job_ends_and_names_versions_of_what_it_uses() {
    for (name, job) in workflow()["jobs"].as_object().unwrap() {
        assert!(job["timeout-minutes"].is_u64() && job["runs-on"].is_string(), "{name}");
        for step in steps(job) {
            let used = step["uses"].as_str();
            assert!(used.is_none_or(|used| used.contains('@')), "{name}: {used:?}");
            assert!(used.is_some() || step["run"].is_string(), "{name}: {step}");
        }
    }
}

#[test]
fn who_lints_has_the_lints() {
    let mut linting = 0;
    for (name, job) in workflow()["jobs"].as_object().unwrap() {
        if !commands(job).contains("cargo xtask lint") {
            continue;
        }
        linting += 1;
        // rust-toolchain installs the least that compiles.
        let toolchain = |step: &&Value| {
            step["uses"].as_str().is_some_and(|used| used.starts_with("dtolnay/rust-toolchain@"))
        };
        let components = steps(job).iter().find(toolchain).unwrap()["with"]["components"].as_str().unwrap();
        assert!(components.contains("clippy") && components.contains("rustfmt"), "{name}: {components}");
    }
    assert_eq!(linting, 1);
}

#[test]
fn all_that_can_be_asked_is_asked() {
    let jobs = workflow()["jobs"].clone();
    let all: Vec<String> = jobs.as_object().unwrap().values().map(commands).collect();
    for wanted in [
        "cargo xtask audit",
        "cargo xtask demo",
        "cargo xtask test\n",
        "cargo xtask test image",
        "cargo xtask test --kernels",
        "cargo xtask chaos",
        "cargo xtask fuzz --targets",
        "cargo xtask verify",
        "KUBEBUILDER_ASSETS=",
    ] {
        assert!(all.iter().any(|text| text.contains(wanted)), "{wanted:?}");
    }
}

#[test]
fn the_kind_job_installs_all_of_it_on_nodes_without_kube_proxy() {
    let cluster: Value = serde_saphyr::from_str(&file(".github/workflows/kind.yaml")).unwrap();
    assert_eq!(cluster["networking"]["kubeProxyMode"], "none");
    let workflow = workflow();
    let job = &workflow["jobs"]["kind"];
    let text = commands(job);
    let mut rest = text.as_str();
    // In this order.
    for step in [
        "kind create cluster --config .github/workflows/kind.yaml",
        "kind load image-archive target/image/sluice.tar",
        "kubectl apply -k deploy/crds",
        "kubectl apply -k deploy/overlays/kind",
        "rollout status",
        "Services",
        "SKIPPED",
    ] {
        let (_, behind) = rest.split_once(step).unwrap_or_else(|| panic!("{step}: {rest}"));
        rest = behind;
    }
    // The archive is that of the job which tests it.
    assert_eq!(job["needs"], "image");
    let image = steps(&workflow["jobs"]["image"]);
    assert!(image.iter().any(|step| step["with"]["path"] == "target/image/sluice.tar"));
}
