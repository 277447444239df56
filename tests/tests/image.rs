//! The image that `cargo xtask image` wrote, unpacked and started under crun. By `cargo xtask test image` alone: the
//! optimised static binary takes minutes to build.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;
use sluice_tests::{
    cluster::Cluster,
    container::{Container, Root},
    http::curl,
    wait,
    world::tool,
};

const RULE: &str = "apiVersion: networking.istio.io/v1beta1\nkind: VirtualService\n\
    metadata: {name: web, namespace: shop}\nspec:\n  hosts: [web]\n  http:\n  - directResponse: {status: 418}\n";

fn tar(words: &[&str], file: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    let output = Command::new("tar").args(words).arg(file).arg("-C").arg(to).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Unpacks the archive as a runtime does: index, manifest, configuration, layers.
fn unpack(archive: &Path, folder: &Path) -> (PathBuf, Value) {
    let layout = folder.join("layout");
    tar(&["-xf"], archive, &layout);
    let read = |path: &Path| serde_json::from_slice::<Value>(&fs::read(path).unwrap()).unwrap();
    let blob = |descriptor: &Value| {
        layout.join("blobs").join(descriptor["digest"].as_str().unwrap().replace(':', "/"))
    };
    assert_eq!(read(&layout.join("oci-layout"))["imageLayoutVersion"], "1.0.0");
    let manifest = read(&blob(&read(&layout.join("index.json"))["manifests"][0]));
    let root = folder.join("image");
    for layer in manifest["layers"].as_array().unwrap() {
        assert_eq!(fs::metadata(blob(layer)).unwrap().len(), layer["size"].as_u64().unwrap());
        tar(&["-xzf"], &blob(layer), &root);
    }
    (root, read(&blob(&manifest["config"])))
}

/// The kubeconfig with an authority of its own, as a service account has one: the image has none of the world's.
fn kubeconfig(folder: &Path, file: &str) -> (PathBuf, PathBuf) {
    let (authority, key, changed) =
        (folder.join("ca.pem"), folder.join("key.pem"), folder.join("with-authority"));
    let words = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=test -days 2";
    let mut command = tool("openssl");
    command.args(words.split(' ')).arg("-keyout").arg(&key).arg("-out").arg(&authority);
    assert!(command.output().unwrap().status.success());
    let mut config: Value = serde_json::from_slice(&fs::read(file).unwrap()).unwrap();
    config["clusters"][0]["cluster"]["certificate-authority"] = "/ca.pem".into();
    fs::write(&changed, config.to_string()).unwrap();
    (authority, changed)
}

/// Types of a binary's segments, by the program headers of a 64-bit, little-endian machine; elf(5).
fn segments(binary: &[u8]) -> Vec<u32> {
    assert_eq!(&binary[..6], b"\x7fELF\x02\x01");
    let short = |at: usize| usize::from(u16::from_le_bytes(binary[at..at + 2].try_into().unwrap()));
    let first = u64::from_le_bytes(binary[32..40].try_into().unwrap()) as usize;
    let word = |at: usize| u32::from_le_bytes(binary[at..at + 4].try_into().unwrap());
    (0..short(56)).map(|index| word(first + index * short(54))).collect()
}

/// No more than nodes fetch over thin lines, one static binary and the licence.
fn is_small_and_static(archive: &Path, root: &Path) {
    const PT_LOAD: u32 = 1;
    const PT_INTERP: u32 = 3;
    let bytes = fs::metadata(archive).unwrap().len();
    assert!(bytes < 30_000_000, "{bytes} bytes");
    let found = segments(&fs::read(root.join("usr/bin/sluice")).unwrap());
    assert!(found.contains(&PT_LOAD) && !found.contains(&PT_INTERP), "{found:?}");
}

#[test]
fn agent_and_redirector_run_from_the_image_and_find_the_api_server_by_name() {
    let archive = std::env::var_os("SLUICE_IMAGE");
    let archive =
        PathBuf::from(archive.expect("SLUICE_IMAGE is not set: run this by `cargo xtask test image`"));
    let mut cluster = Cluster::new();
    let (root, config) = unpack(&archive, cluster.world.folder());
    assert_eq!(config["config"]["Entrypoint"][0], "/usr/bin/sluice");
    is_small_and_static(&archive, &root);
    cluster.api.serve_rules();
    cluster.cart(1);
    cluster.api.apply(&sluice_tests::manifest::service("web", &["10.96.0.2"], &["http:80:8080"]));
    cluster.api.apply(&cluster.slice("web", 1, &[]));
    cluster.api.apply(RULE);
    let world = &cluster.world;
    // As the kubelet writes it for a pod of the node's network.
    let hosts = world.folder().join("hosts");
    fs::write(&hosts, format!("127.0.0.1 localhost\n{} control-plane\n", world.node().v4)).unwrap();
    let (authority, kubeconfig) = kubeconfig(world.folder(), &cluster.api.kubeconfig());
    let redirector = Container::new(world, "redirector", Root::Image(root.clone())).start();
    let agent = Container::new(world, "agent", Root::Image(root))
        .set("SLUICE_KUBECONFIG", "/kubeconfig")
        .set("SLUICE_API_SERVER", "http://control-plane:6443")
        .mount(&kubeconfig, "/kubeconfig")
        .mount(&authority, "/ca.pem")
        .mount(&hosts, "/etc/hosts")
        .start();
    wait::until("readiness", || {
        let response = curl(world.node(), &["http://127.0.0.1:10256/readyz"]);
        if response.status == 200 { Ok(()) } else { Err(agent.log()) }
    });
    assert_eq!(cluster.client.tcp("10.96.0.1:80").unwrap().by, "cart-1");
    wait::until("a rule", || {
        let response = curl(world.find("client"), &["http://10.96.0.2/"]);
        if response.status == 418 { Ok(()) } else { Err(redirector.log() + &agent.log()) }
    });
}
