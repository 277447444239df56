//! What public runners are told: the workflow asks for what its steps need, and for all that can be asked.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use serde_json::Value;

/// What the smallest Debian has.
const ESSENTIAL: [&str; 10] =
    ["bash", "cat", "nsenter", "setarch", "setpriv", "sh", "tar", "timeout", "true", "unshare"];
/// What tests start by its name alone, and the package that has it.
const BY_NAME: [(&str, &str); 6] = [
    ("cc", "build-essential"),
    ("curl", "curl"),
    ("ip", "iproute2"),
    ("kill", "procps"),
    ("python3", "python3"),
    ("ss", "iproute2"),
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn file(name: &str) -> String {
    fs::read_to_string(root().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
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
        "kubectl create -k deploy/crds",
        "kubectl apply -k deploy/overlays/kind",
        "rollout status",
        "sluice status",
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

#[test]
fn nothing_that_fails_is_passed_over() {
    let workflow = workflow();
    for (name, job) in workflow["jobs"].as_object().unwrap() {
        assert!(!commands(job).contains("|| true"), "{name}");
        assert!(job.get("continue-on-error").is_none() || name == "kernels", "{name}");
    }
    // But for kernels of suites that move on.
    let kernels = &workflow["jobs"]["kernels"];
    let (suites, may_fail) = (file("xtask/src/kernels/archive.rs"), &kernels["continue-on-error"]);
    for kernel in kernels["strategy"]["matrix"]["kernel"].as_array().unwrap() {
        let stays = suites.contains(&format!("suite(Some({kernel})"));
        assert_eq!(may_fail.as_str().unwrap().contains(&kernel.to_string()), !stays, "{kernel}");
    }
}

#[test]
fn git_reads_the_checkout_of_a_container() {
    let mut containers = 0;
    for (name, job) in workflow()["jobs"].as_object().unwrap() {
        if job.get("container").is_none() {
            continue;
        }
        containers += 1;
        let text = commands(job);
        let words = "git config --global --add safe.directory \"$GITHUB_WORKSPACE\"";
        let trusted = text.find(words).unwrap_or_else(|| panic!("{name}"));
        let used = text.find("cargo xtask").or_else(|| text.find(".ci/run")).unwrap();
        assert!(trusted < used && text.find("apt-get install").unwrap() < trusted, "{name}");
    }
    assert!(containers > 3);
}

#[test]
fn what_tests_start_is_unpacked_or_installed() {
    let (started, tools, workflow) = (started(), file("xtask/src/setup/tools.rs"), workflow());
    let packages = workflow["env"]["PACKAGES"].as_str().unwrap();
    assert!(started.len() > 15, "{started:?}");
    assert_eq!(
        lacking(&started, &tools, packages),
        [""; 0],
        "name them in NEEDED of xtask/src/setup/tools.rs, or their packages in BY_NAME here and in ci.yml"
    );
    // It sees what is not there.
    let without_tc = tools.replace("(\"tc\"", "(\"\"");
    assert_eq!(lacking(&started, &without_tc, packages), ["tc"]);
    assert_eq!(lacking(&started, &tools, &packages.replace("procps", "")), ["kill"]);
}

/// Programs of `started` that neither `tools` unpacks nor `packages` have.
fn lacking<'s>(started: &'s BTreeSet<(String, bool)>, tools: &str, packages: &str) -> Vec<&'s str> {
    let is_there = |(program, by_tool): &&(String, bool)| {
        let installs = |(name, package): &(&str, &str)| {
            name == program && packages.split(' ').any(|installed| installed == *package)
        };
        ESSENTIAL.contains(&program.as_str())
            || (*by_tool && tools.contains(&format!("(\"{program}\", ")))
            || BY_NAME.iter().any(installs)
    };
    started.iter().filter(|one| !is_there(one)).map(|(program, _)| program.as_str()).collect()
}

/// What the tests and what they share start: a program's name, and whether it is looked for among the tools.
fn started() -> BTreeSet<(String, bool)> {
    let mut found = BTreeSet::new();
    let mut folders = vec![root().join("tests/src"), root().join("tests/tests")];
    while let Some(folder) = folders.pop() {
        for path in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|ending| ending == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                for (call, by_tool) in
                    [("tool", true), ("tool_path", true), ("command", false), ("Command::new", false)]
                {
                    found.extend(
                        first_words(&text, call).into_iter().map(|program| (program.to_owned(), by_tool)),
                    );
                }
            }
        }
    }
    found
}

/// What is given to a function by name, where it is written out.
fn first_words<'t>(text: &'t str, call: &str) -> Vec<&'t str> {
    let call = format!("{call}(\"");
    let is_whole = |at: usize| !text[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_');
    let calls = text.match_indices(&call).filter(|(at, _)| is_whole(*at));
    calls.filter_map(|(at, found)| text[at + found.len()..].split('"').next()).collect()
}
