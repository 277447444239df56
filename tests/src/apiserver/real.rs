//! A real kube-apiserver with its etcd, in the node's network, from the folder that `KUBEBUILDER_ASSETS` names.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use serde_json::{Value, json};

use crate::{
    wait,
    world::{Pod, World, kill, tool_path},
};

const TOKEN: &str = "sluice-tests";
/// It makes tables and indices before it answers.
const STARTS_WITHIN: std::time::Duration = std::time::Duration::from_secs(90);

/// The folder that has `kube-apiserver` and `etcd`; `None` where nobody named one.
///
/// # Panics
/// The folder that was named lacks one of them.
pub fn assets() -> Option<PathBuf> {
    let folder = PathBuf::from(std::env::var_os("KUBEBUILDER_ASSETS").filter(|text| !text.is_empty())?);
    for name in ["kube-apiserver", "etcd"] {
        assert!(folder.join(name).is_file(), "KUBEBUILDER_ASSETS={}: there is no {name}", folder.display());
    }
    Some(folder)
}

/// Both processes, which end with the value.
#[derive(Debug)]
pub struct Real {
    node: Pod,
    folder: PathBuf,
    assets: PathBuf,
    url: String,
    etcd: Child,
    server: Option<Child>,
}

impl Drop for Real {
    fn drop(&mut self) {
        self.down();
        kill(&mut self.etcd);
    }
}

impl Real {
    /// Starts both at the node's addresses, with the namespace `shop`.
    pub fn start(world: &World, assets: &Path, port: u16) -> Self {
        let folder = world.folder().join("kubernetes");
        fs::create_dir_all(&folder).expect("a folder");
        let node = world.node().clone();
        let key = folder.join("key");
        let made = Command::new(tool_path("openssl"))
            .args(["genrsa", "-out"])
            .arg(&key)
            .arg("2048")
            .stderr(Stdio::null())
            .status();
        assert!(made.is_ok_and(|status| status.success()), "openssl (package openssl) makes a key");
        fs::write(folder.join("tokens"), format!("{TOKEN},tests,tests,\"system:masters\"\n"))
            .expect("a file");
        let etcd = spawn(
            &node,
            &folder,
            assets,
            "etcd",
            &[
                format!("--data-dir={}", folder.join("etcd").display()),
                "--listen-client-urls=http://127.0.0.1:2379".to_owned(),
                "--advertise-client-urls=http://127.0.0.1:2379".to_owned(),
                "--listen-peer-urls=http://127.0.0.1:2380".to_owned(),
            ],
        );
        let url = format!("https://{}:{port}", node.v4);
        let mut real = Self { node, folder, assets: assets.to_owned(), url, etcd, server: None };
        real.up();
        real.apply(&json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}}));
        real
    }

    /// Where it is.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// A kubeconfig that leads here.
    pub fn kubeconfig(&self) -> Value {
        let cluster = json!({"server": self.url, "insecure-skip-tls-verify": true});
        json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "test",
            "clusters": [{"name": "test", "cluster": cluster}],
            "users": [{"name": "test", "user": {"token": TOKEN}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        })
    }

    /// Starts the API server and waits until it is ready.
    pub fn up(&mut self) {
        let file = |name: &str| self.folder.join(name).display().to_string();
        // The Service default/kubernetes takes the first address of the first range: tests use those of IPv4.
        let words = [
            "--service-cluster-ip-range=fd00:96::/108,10.96.0.0/12".to_owned(),
            format!("--advertise-address={}", self.node.v6),
            format!("--secure-port={}", self.url.rsplit(':').next().unwrap_or_default()),
            "--etcd-servers=http://127.0.0.1:2379".to_owned(),
            format!("--cert-dir={}", file("certificates")),
            format!("--token-auth-file={}", file("tokens")),
            "--authorization-mode=AlwaysAllow".to_owned(),
            "--service-account-issuer=https://sluice.test".to_owned(),
            format!("--service-account-key-file={}", file("key")),
            format!("--service-account-signing-key-file={}", file("key")),
            // Pods of these tests have no service account.
            "--disable-admission-plugins=ServiceAccount".to_owned(),
        ];
        self.server = Some(spawn(&self.node, &self.folder, &self.assets, "kube-apiserver", &words));
        wait::until_within(STARTS_WITHIN, "a kube-apiserver that is ready", || {
            let (status, text) = self.ask("GET", "/readyz", None);
            if status == 200 { Ok(()) } else { Err((status, text, self.log())) }
        });
    }

    /// Ends the API server; what it knows stays in etcd.
    pub fn down(&mut self) {
        if let Some(mut server) = self.server.take() {
            kill(&mut server);
        }
    }

    /// [`Self::apply`] for each, several at a time, in no order.
    pub fn apply_all(&self, objects: &[Value]) {
        std::thread::scope(|scope| {
            for some in objects.chunks(objects.len().div_ceil(8).max(1)) {
                scope.spawn(|| some.iter().for_each(|object| self.apply(object)));
            }
        });
    }

    /// Makes an object be as it is given, its status too; what it had by us and lacks now goes.
    pub fn apply(&self, object: &Value) {
        let name = object["metadata"]["name"].as_str().expect("a name");
        let namespace = object["metadata"]["namespace"].as_str();
        let place = format!("{}/{name}", path(object["kind"].as_str().unwrap_or_default(), namespace));
        let parts: &[&str] = if object.get("status").is_some() { &["", "/status"] } else { &[""] };
        for part in parts {
            let place = format!("{place}{part}?fieldManager=tests&force=true");
            let (status, text) = self.ask("PATCH", &place, Some(object));
            assert!(matches!(status, 200 | 201), "PATCH {place}: {status} {text}\n{object:#}");
        }
    }

    /// Makes an object. A definition is there once its kind is served.
    pub fn make(&self, object: &Value) {
        self.apply(object);
        if object["kind"] == "CustomResourceDefinition" {
            let kind = object["spec"]["names"]["kind"].as_str().unwrap_or_default();
            wait::until("a kind that is served", || {
                let (status, text) = self.ask("GET", &path(kind, None), None);
                if status == 200 { Ok(()) } else { Err(text) }
            });
        }
    }

    /// Deletes an object.
    pub fn delete(&self, kind: &str, name: &str) {
        let (namespace, name) = match name.split_once('/') {
            Some((namespace, name)) => (Some(namespace), name),
            None => (None, name),
        };
        let place = format!("{}/{name}", path(kind, namespace));
        let (status, text) = self.ask("DELETE", &place, None);
        assert_eq!(status, 200, "DELETE {place}: {text}");
    }

    /// Whether it would take an object that has none but known fields; nothing comes of it.
    pub fn try_out(&self, object: &Value) -> Result<(), String> {
        let name = object["metadata"]["name"].as_str().expect("a name");
        let place =
            path(object["kind"].as_str().unwrap_or_default(), object["metadata"]["namespace"].as_str());
        let words = "fieldManager=tests&force=true&fieldValidation=Strict&dryRun=All";
        let (status, text) = self.ask("PATCH", &format!("{place}/{name}?{words}"), Some(object));
        if matches!(status, 200 | 201) { Ok(()) } else { Err(format!("{status} {text}")) }
    }

    fn ask(&self, method: &str, path: &str, body: Option<&Value>) -> (u16, String) {
        let mut command = self.node.command(&tool_path("curl"));
        command.args(["-sk", "--max-time", "30", "-X", method, "-w", "\n%{http_code}"]);
        command.args(["-H", &format!("Authorization: Bearer {TOKEN}")]);
        if let Some(body) = body {
            command.args(["-H", "Content-Type: application/apply-patch+yaml", "-d", &body.to_string()]);
        }
        let output = command.arg(format!("{}{path}", self.url)).output().expect("curl starts");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let (body, status) = text.rsplit_once('\n').unwrap_or_default();
        (status.parse().unwrap_or(0), body.to_owned())
    }

    /// The end of what the two wrote.
    fn log(&self) -> String {
        let logs = ["etcd", "kube-apiserver"].map(|name| self.folder.join(format!("{name}.log")));
        let text: String = logs.iter().map(|file| fs::read_to_string(file).unwrap_or_default()).collect();
        text.lines().rev().take(8).collect::<Vec<_>>().join("\n")
    }
}

fn spawn(node: &Pod, folder: &Path, assets: &Path, name: &str, words: &[String]) -> Child {
    let log = fs::File::options().create(true).append(true).open(folder.join(format!("{name}.log")));
    let log = log.expect("a log");
    let mut command = node.command(&assets.join(name).display().to_string());
    command.args(words).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    command.spawn().unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn path(kind: &str, namespace: Option<&str>) -> String {
    let (group, plural) = match kind {
        "Service" => ("/api/v1", "services"),
        "Node" => ("/api/v1", "nodes"),
        "Pod" => ("/api/v1", "pods"),
        "Namespace" => ("/api/v1", "namespaces"),
        "EndpointSlice" => ("/apis/discovery.k8s.io/v1", "endpointslices"),
        "ServiceAccount" => ("/api/v1", "serviceaccounts"),
        "ConfigMap" => ("/api/v1", "configmaps"),
        "DaemonSet" => ("/apis/apps/v1", "daemonsets"),
        "ClusterRole" => ("/apis/rbac.authorization.k8s.io/v1", "clusterroles"),
        "ClusterRoleBinding" => ("/apis/rbac.authorization.k8s.io/v1", "clusterrolebindings"),
        "CustomResourceDefinition" => ("/apis/apiextensions.k8s.io/v1", "customresourcedefinitions"),
        "VirtualService" => ("/apis/networking.istio.io/v1", "virtualservices"),
        "DestinationRule" => ("/apis/networking.istio.io/v1", "destinationrules"),
        other => panic!("kind {other:?} is not known here"),
    };
    match namespace {
        Some(namespace) => format!("{group}/namespaces/{namespace}/{plural}"),
        None => format!("{group}/{plural}"),
    }
}
