//! The house rules that a compiler does not know: module arrows, the fence around `unsafe`, sizes of files.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// Who may use whom within the agent. What is missing here is not allowed; ARCHITECTURE.md draws it.
const ARROWS: [(&str, &[&str]); 27] = [
    ("model", &[]),
    ("harmless", &[]),
    ("capabilities", &[]),
    ("objects", &["model"]),
    ("metrics", &[]),
    ("health", &["metrics"]),
    ("manifests", &["l7", "model", "objects"]),
    ("k8s", &["health", "model", "objects"]),
    ("compile", &["model"]),
    ("maps", &["sys"]),
    ("reconcile", &["compile", "maps", "model"]),
    ("flows", &["maps"]),
    ("inspect", &["compile", "maps", "model", "reconcile"]),
    ("sys", &[]),
    ("devices", &["netlink"]),
    ("loader", &["capabilities", "devices", "maps", "netlink", "reserved", "routes", "sys"]),
    (
        "run",
        &[
            "capabilities",
            "compile",
            "devices",
            "flows",
            "health",
            "k8s",
            "l7",
            "loader",
            "manifests",
            "maps",
            "metrics",
            "model",
            "objects",
            "reconcile",
            "reserved",
            "routes",
            "signals",
            "sockets",
        ],
    ),
    ("sockets", &["netlink"]),
    ("netlink", &[]),
    ("routes", &["netlink"]),
    ("l7", &["compile", "metrics", "model"]),
    ("reserved", &["maps"]),
    ("kube_proxy", &[]),
    ("signals", &[]),
    ("redirector", &["capabilities", "harmless", "l7", "maps", "metrics", "model", "signals", "sys"]),
    (
        "cli",
        &[
            "devices",
            "harmless",
            "health",
            "inspect",
            "k8s",
            "kube_proxy",
            "l7",
            "loader",
            "manifests",
            "maps",
            "model",
            "redirector",
            "run",
            "signals",
            "sockets",
        ],
    ),
    ("main", &["cli"]),
];

/// Which module alone may use a crate.
const CRATES: [(&str, &[&str]); 6] = [
    (
        "aya",
        &[
            "loader/mod.rs",
            "loader/steering.rs",
            "loader/devices.rs",
            "loader/features.rs",
            "loader/programs.rs",
            "loader/trial.rs",
            "maps/bpf/",
        ],
    ),
    ("kube", &["k8s/"]),
    ("k8s_openapi", &["k8s/", "objects/", "manifests/document.rs"]),
    ("tokio", &["run/", "k8s/", "redirector/", "signals.rs"]),
    ("libc", &["sys.rs", "maps/bpf/mod.rs", "redirector/confinement/"]),
    ("seccompiler", &["redirector/confinement/"]),
];

const UNSAFE: [&str; 8] = [
    "ebpf/src/raw/mod.rs",
    "ebpf/src/raw/skb.rs",
    "ebpf/src/raw/steps.rs",
    "ebpf/src/raw/fib.rs",
    "ebpf/src/raw/flows.rs",
    "ebpf/src/raw/ops.rs",
    "ebpf/src/raw/xdp.rs",
    "agent/src/sys.rs",
];
const LONGEST_FILE: usize = 400;

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// Every Rust file of a folder with its path below the workspace and its text.
fn sources(folder: &str) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut folders = vec![workspace().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap().map(Result::unwrap) {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|ending| ending == "rs") {
                let name = path.strip_prefix(workspace()).unwrap().display().to_string();
                found.insert(name, fs::read_to_string(&path).unwrap());
            }
        }
    }
    found
}

fn all() -> BTreeMap<String, String> {
    ["agent", "common/src", "ebpf/src", "fuzz", "tests", "xtask/src"].into_iter().flat_map(sources).collect()
}

/// Code without comments and without tests.
fn code(text: &str) -> impl Iterator<Item = &str> {
    let end = text.find("#[cfg(test)]").unwrap_or(text.len());
    text[..end].lines().filter(|line| !line.trim_start().starts_with("//"))
}

#[test]
fn modules_use_only_those_that_the_arrows_allow() {
    let allowed: BTreeMap<&str, BTreeSet<&str>> =
        ARROWS.into_iter().map(|(module, targets)| (module, targets.iter().copied().collect())).collect();
    for (file, text) in sources("agent/src") {
        let below = file.strip_prefix("agent/src/").unwrap();
        let module = below.split('/').next().unwrap().trim_end_matches(".rs");
        if module == "lib" || below.ends_with("tests.rs") {
            continue;
        }
        let targets = allowed.get(module).unwrap_or_else(|| panic!("{file}: no arrows are known for it"));
        let joined = code(&text).collect::<Vec<_>>().join("\n");
        for used in used_modules(&joined) {
            assert!(used == module || targets.contains(used.as_str()), "{file} uses crate::{used}");
        }
    }
}

/// The `x` of each `crate::x` and `use crate::{x…, y…}`.
fn used_modules(text: &str) -> BTreeSet<String> {
    let mut used = BTreeSet::new();
    for (index, _) in text.match_indices("crate::") {
        let rest = &text[index + "crate::".len()..];
        match rest.strip_prefix('{') {
            None => drop(used.insert(identifier(rest))),
            Some(group) => {
                let (mut depth, mut start) = (0, true);
                for (position, character) in group.char_indices() {
                    match character {
                        '{' => depth += 1,
                        '}' if depth == 0 => break,
                        '}' => depth -= 1,
                        ',' if depth == 0 => start = true,
                        letter if start && letter.is_alphabetic() => {
                            used.insert(identifier(&group[position..]));
                            start = false;
                        }
                        _ => {}
                    }
                }
            }
        }
    }
    used
}

fn identifier(text: &str) -> String {
    text.chars().take_while(|letter| letter.is_alphanumeric() || *letter == '_').collect()
}

#[test]
fn crates_are_used_where_they_belong() {
    for (file, text) in sources("agent/src") {
        let below = file.strip_prefix("agent/src/").unwrap();
        for (name, places) in CRATES {
            let uses = code(&text).any(|line| {
                let path = format!("{name}::");
                line.match_indices(&path)
                    .any(|(at, _)| !line[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_'))
            });
            assert!(!uses || places.iter().any(|place| below.starts_with(place)), "{file} uses {name}");
        }
    }
}

#[test]
fn unsafe_stays_behind_its_fence() {
    let word = ["un", "safe"].concat();
    for (file, text) in all() {
        let has = text
            .lines()
            .filter(|line| !line.trim_start().starts_with("//"))
            .any(|line| line.split(|c: char| !c.is_alphanumeric() && c != '_').any(|token| token == word));
        assert!(!has || UNSAFE.contains(&file.as_str()), "{file} has {word} code");
    }
    for file in UNSAFE {
        let text = fs::read_to_string(workspace().join(file)).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        for (index, line) in lines.iter().enumerate().filter(|(_, line)| line.contains(&format!("{word} {{")))
        {
            let before =
                lines[index.saturating_sub(4)..index].iter().any(|line| line.contains("// SAFETY: "));
            assert!(before, "{file}:{}: {line}", index + 1);
        }
    }
}

#[test]
fn files_are_short_and_say_what_they_are() {
    for (file, text) in all() {
        assert!(text.lines().count() <= LONGEST_FILE, "{file} has {} lines", text.lines().count());
        assert!(text.starts_with("//! "), "{file} does not begin with what is in it");
    }
}

#[test]
fn the_expectations_above_can_fail() {
    assert_eq!(
        used_modules("use crate::{a, b::{c, d}, e as f}; crate::g::h"),
        ["a", "b", "e", "g"].map(String::from).into()
    );
}
