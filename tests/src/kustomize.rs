//! What `kubectl kustomize` makes of `deploy/`, also by the kubectl that Debian 12 has.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
};

use serde_json::Value;

use crate::{
    container::deploy,
    world::{text, tool},
};

/// The folders of `deploy/` that are installed, each by itself.
pub const OVERLAYS: [&str; 4] = ["base", "overlays/kind", "overlays/kubeadm", "overlays/beside-kube-proxy"];

/// The objects of a folder below `deploy`.
///
/// # Panics
/// kubectl cannot make them.
pub fn render(folder: &str) -> Vec<Value> {
    render_with(folder, &|_, text| text)
}

/// The same with files changed, as somebody who installs does: `change` is given their names and texts.
///
/// # Panics
/// kubectl cannot make them.
pub fn render_with(folder: &str, change: &dyn Fn(&str, String) -> String) -> Vec<Value> {
    let copy = temporary();
    copy_folder(&deploy("."), &copy, change);
    let output = tool("kubectl").arg("kustomize").arg(copy.join(folder)).output().expect("kubectl starts");
    fs::remove_dir_all(&copy).expect("our own folder");
    assert!(output.status.success(), "{folder}: {}", text(&output));
    objects(&String::from_utf8(output.stdout).expect("text"))
}

/// The objects of the files in a folder below `deploy`, as they are written there.
///
/// # Panics
/// It cannot be read.
pub fn written(folder: &str) -> Vec<Value> {
    let files = fs::read_dir(deploy(folder)).expect("a folder").map(|entry| entry.expect("a file").path());
    files.flat_map(|file| objects(&fs::read_to_string(file).expect("a file"))).collect()
}

fn objects(yaml: &str) -> Vec<Value> {
    yaml.split("\n---\n").map(|document| serde_saphyr::from_str(document).expect("YAML")).collect()
}

fn temporary() -> PathBuf {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    std::env::temp_dir().join(format!("sluice-deploy-{}-{number}", std::process::id()))
}

/// Copies `deploy/`. For a kubectl before 1.21, which Debian 12 has, in the words of its time.
fn copy_folder(from: &Path, to: &Path, change: &dyn Fn(&str, String) -> String) {
    fs::create_dir_all(to).expect("a temporary folder");
    for entry in fs::read_dir(from).expect("a folder").flatten() {
        let (path, target) = (entry.path(), to.join(entry.file_name()));
        if path.is_dir() {
            copy_folder(&path, &target, change);
        } else if path
            .extension()
            .is_some_and(|ending| ["yaml", "env", "json"].iter().any(|one| ending == *one))
        {
            let text = fs::read_to_string(&path).expect("a file");
            let text = change(&entry.file_name().to_string_lossy(), text);
            fs::write(target, if is_old() { in_old_words(&text) } else { text }).expect("a temporary file");
        }
    }
}

fn is_old() -> bool {
    let output =
        tool("kubectl").args(["version", "--client", "-o", "json"]).output().expect("kubectl starts");
    let version: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    let minor = version["clientVersion"]["minor"].as_str().unwrap_or_default().to_owned();
    minor.trim_end_matches('+').parse::<u32>().is_ok_and(|minor| minor < 21)
}

fn in_old_words(text: &str) -> String {
    let text = text.replace("resources:\n  - ../../base\n", "bases:\n  - ../../base\n");
    let text = text.replace("envs:\n      - ", "env: ");
    if text.contains("\n    target: ") {
        return text.replace("patches:\n", "patchesJson6902:\n");
    }
    text.replace("patches:\n", "patchesStrategicMerge:\n").replace("\n  - path: ", "\n  - ")
}
