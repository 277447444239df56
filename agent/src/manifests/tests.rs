//! Findings name file, line, object and path; good objects go on working beside bad ones.

use std::path::{Path, PathBuf};

use super::*;
use crate::model::Store;

const SERVICE: &str = "apiVersion: v1
kind: Service
metadata: {name: cart, namespace: shop}
spec:
  clusterIP: 10.96.0.1
  selector: {app: cart}
  ports: [{port: 80, targetPort: http}]
";
const POD: &str = "apiVersion: v1
kind: Pod
metadata: {name: cart-1, namespace: shop, labels: {app: cart}}
spec:
  nodeName: here
  containers: [{name: c, ports: [{name: http, containerPort: 8080}]}]
status: {podIPs: [{ip: 10.0.0.1}, {ip: 'fd00::1'}]}
";

fn findings(text: &str) -> Vec<String> {
    let contents = read_text(Path::new("f.yaml"), text.as_bytes());
    contents.findings.iter().map(ToString::to_string).collect()
}

#[test]
fn findings_say_where_and_what() {
    for (case, text, want) in [
        ("a good file", format!("{SERVICE}---\n{POD}"), vec![]),
        ("nothing but comments", "# empty\n---\n---\n# still\n".to_owned(), vec![]),
        (
            "YAML",
            format!("{SERVICE}---\nkind: [\n"),
            vec!["f.yaml:9: broken YAML: unclosed bracket '[', column 7"],
        ),
        ("nested", format!("kind: {}", "[".repeat(500)), vec!["f.yaml:1: broken YAML: "]),
        (
            "nested JSON",
            "{\"a\":".repeat(20_000) + "1" + &"}".repeat(20_000),
            vec!["f.yaml:1: broken YAML: "],
        ),
        ("no kind", "metadata: {name: x}\n".to_owned(), vec!["f.yaml:1: kind: is missing"]),
        (
            "kind of no use",
            "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: x}\n".to_owned(),
            vec!["f.yaml:1: Deployment default/x: Sluice makes no use of kind Deployment"],
        ),
        (
            "type of a field",
            SERVICE.replace("port: 80", "port: eighty"),
            vec![
                "f.yaml:1: Service shop/cart: spec.ports[0].port: invalid type: string \"eighty\", expected i32",
            ],
        ),
        (
            "misspelt field",
            SERVICE.replace("selector", "selektor"),
            vec!["f.yaml:1: Service shop/cart: spec.selektor: no such field"],
        ),
        (
            "port out of range",
            SERVICE.replace("port: 80", "port: 80000"),
            vec!["f.yaml:1: Service shop/cart: spec.ports[0].port: 80000 is not within 1 to 65535"],
        ),
        (
            "address",
            SERVICE.replace("10.96.0.1", "10.96.0.400"),
            vec!["f.yaml:1: Service shop/cart: spec.clusterIP: \"10.96.0.400\" is not an IP address"],
        ),
        (
            "loopback address",
            SERVICE.replace("10.96.0.1", "127.0.0.1"),
            vec!["f.yaml:1: Service shop/cart: spec.clusterIP: 127.0.0.1 is a loopback"],
        ),
        (
            "an endpoint on whatever machine asks",
            "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: cart-1, namespace: shop, labels: \
             {kubernetes.io/service-name: cart}}\naddressType: IPv4\nports: [{port: 80}]\nendpoints: [{addresses: \
             [169.254.169.254]}]\n"
                .to_owned(),
            vec!["f.yaml:1: EndpointSlice shop/cart-1: endpoints[0].addresses: 169.254.169.254 is a loopback"],
        ),
        (
            "policy",
            SERVICE.replace("selector", "internalTrafficPolicy: local\n  selector"),
            vec![
                "f.yaml:1: Service shop/cart: spec.internalTrafficPolicy: \"local\" is neither Cluster nor Local",
            ],
        ),
        (
            "algorithm",
            SERVICE.replace("name: cart", "name: cart, annotations: {sluice.dev/algorithm: Maglev}"),
            vec![
                "f.yaml:1: Service shop/cart: metadata.annotations[sluice.dev/algorithm]: \"Maglev\" is neither maglev nor",
            ],
        ),
        (
            "algorithms",
            SERVICE.replace("name: cart", "name: cart, annotations: {sluice.dev/algorithm: maglev}"),
            vec![],
        ),
        (
            "a name that breaks terminals",
            SERVICE.replace("name: cart", "name: \"a\\u202eb\""),
            vec!["f.yaml:1: Service: metadata: \"a\\u{202e}b\" is no name that Kubernetes accepts"],
        ),
        ("JSON", "{\"kind\": \"List\", \"apiVersion\": \"v1\", \"items\": []}".to_owned(), vec![]),
        (
            "no name",
            SERVICE.replace("name: cart, ", ""),
            vec!["f.yaml:1: Service: metadata.name: is missing"],
        ),
        (
            "version",
            SERVICE.replace("apiVersion: v1", "apiVersion: v2"),
            vec!["f.yaml:1: Service shop/cart: apiVersion: \"v2\" is not known"],
        ),
        ("not text", "\u{0}".to_owned(), vec!["f.yaml:1: "]),
    ] {
        let found = findings(&text);
        assert_eq!(found.len(), want.len(), "{case}: {found:#?}");
        for (found, want) in found.iter().zip(want) {
            assert!(found.starts_with(want), "{case}: {found}");
        }
    }
    assert_eq!(read_text(Path::new("f"), b"a\n\xff").findings[0].line, 2, "not UTF-8");
}

fn write(folder: &Path, name: &str, text: &str) -> PathBuf {
    let file = folder.join(name);
    fs::write(&file, text).unwrap();
    file
}

fn folder_for(test: &str) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("sluice-manifests-{test}-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    folder
}

fn endpoints(reading: Reading) -> usize {
    let mut store = Store::default();
    reading.changes.into_iter().for_each(|change| store.apply(change));
    let ports = crate::compile::service(&store, &ObjectName::new("shop", "cart"));
    ports.iter().map(|port| port.endpoints.len()).sum()
}

#[test]
fn a_broken_edit_keeps_the_last_good_version_of_the_file() {
    let folder = folder_for("edit");
    write(&folder, "service.yaml", SERVICE);
    let pod = write(&folder, "pod.yaml", POD);
    write(&folder, "notes.txt", "not a manifest");
    let mut manifests = Manifests::new(vec![folder.clone()], "here".into()).unwrap();
    assert_eq!(endpoints(manifests.poll().unwrap()), 1, "the Service has only an IPv4 address");
    assert!(manifests.poll().is_none(), "nothing changed");
    fs::write(&pod, POD.replace("podIPs: [", "podIPs: [[[")).unwrap();
    let reading = manifests.poll().unwrap();
    assert_eq!(reading.findings.len(), 1);
    assert_eq!(endpoints(reading), 1, "as before");
    fs::remove_file(&pod).unwrap();
    assert_eq!(endpoints(manifests.poll().unwrap()), 0);
    fs::remove_dir_all(folder).unwrap();
}

#[test]
fn a_folder_that_vanishes_keeps_what_it_held_and_says_so() {
    let folder = folder_for("vanish");
    write(&folder, "a.yaml", &format!("{SERVICE}---\n{POD}"));
    let mut manifests = Manifests::new(vec![folder.clone()], "here".into()).unwrap();
    assert_eq!(endpoints(manifests.poll().unwrap()), 1);
    let away = folder.with_extension("away");
    fs::rename(&folder, &away).unwrap();
    let reading = manifests.poll().expect("that is news");
    assert!(
        reading.findings[0].message.contains("what it held before stays in force"),
        "{:?}",
        reading.findings
    );
    assert_eq!(endpoints(reading), 1);
    assert!(manifests.poll().is_none(), "said once");
    fs::rename(&away, &folder).unwrap();
    let reading = manifests.poll().unwrap();
    assert!(reading.findings.is_empty());
    assert_eq!(endpoints(reading), 1);
    fs::remove_dir_all(folder).unwrap();
}

#[test]
fn the_first_of_two_objects_of_one_name_counts() {
    let folder = folder_for("twice");
    write(&folder, "a.yaml", &format!("{SERVICE}---\n{POD}"));
    write(&folder, "b.yaml", &SERVICE.replace("10.96.0.1", "10.96.0.2"));
    let mut manifests = Manifests::new(vec![folder.clone()], "here".into()).unwrap();
    let reading = manifests.poll().unwrap();
    let message = reading.findings[0].to_string();
    assert!(message.contains("b.yaml:1: Service shop/cart: metadata.name: is defined at"), "{message}");
    assert!(message.contains("a.yaml:1 already"), "{message}");
    assert_eq!(endpoints(reading), 1);
    fs::remove_dir_all(folder).unwrap();
}

#[test]
fn a_path_that_does_not_exist_is_an_error_at_once() {
    let error = Manifests::new(vec!["/does/not/exist".into()], String::new()).unwrap_err().to_string();
    assert_eq!(error, "--manifests /does/not/exist: there is no such file or folder");
}
