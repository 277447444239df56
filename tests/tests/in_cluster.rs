//! The way that every pod takes to the API server: HTTPS under the cluster's own authority, with the service account's files
//! where the kubelet mounts them, and the address that it puts into the environment.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Stdio},
};

use serde_json::Value;
use sluice_tests::{
    apiserver::ApiServer,
    container::{Container, Root, Running},
    http::curl,
    manifest, wait,
    world::{World, kill, sluice_binary, tool, tool_path},
};

const ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
const TLS_PORT: u16 = 6444;

fn openssl(folder: &Path, words: &[&str]) {
    let output = tool("openssl").current_dir(folder).args(words).output().unwrap();
    assert!(output.status.success(), "openssl {words:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// An authority; returns its certificate's file.
fn authority(folder: &Path, name: &str) -> PathBuf {
    let (key, certificate) = (format!("{name}.key"), format!("{name}.crt"));
    let subject = format!("/CN={name}");
    openssl(
        folder,
        &[
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-days",
            "2",
            "-keyout",
            &key,
            "-out",
            &certificate,
            "-subj",
            &subject,
        ],
    );
    folder.join(certificate)
}

/// Serves HTTPS for `address` in front of the API server, by a certificate of that authority; ends with the value.
struct Front(Child);

impl Front {
    fn start(world: &World, folder: &Path, authority: &str) -> Self {
        let address = world.node().v4;
        fs::write(folder.join("names"), format!("subjectAltName=IP:{address}\n")).unwrap();
        let (ca, key) = (format!("{authority}.crt"), format!("{authority}.key"));
        openssl(
            folder,
            &[
                "req",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:prime256v1",
                "-nodes",
                "-keyout",
                "server.key",
                "-out",
                "server.csr",
                "-subj",
                "/CN=kube-apiserver",
            ],
        );
        openssl(
            folder,
            &[
                "x509",
                "-req",
                "-in",
                "server.csr",
                "-CA",
                &ca,
                "-CAkey",
                &key,
                "-CAcreateserial",
                "-days",
                "2",
                "-extfile",
                "names",
                "-out",
                "server.crt",
            ],
        );
        let mut command = world.node().command(&tool_path("socat"));
        command
            .current_dir(folder)
            .arg(format!("OPENSSL-LISTEN:{TLS_PORT},reuseaddr,fork,cert=server.crt,key=server.key,verify=0"));
        command.arg(format!("TCP:{address}:6443")).stdin(Stdio::null()).stdout(Stdio::null());
        Self(command.stderr(Stdio::null()).spawn().unwrap())
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        kill(&mut self.0);
    }
}

/// The agent of the DaemonSet, which is told nothing but what a kubelet tells every pod.
fn agent(world: &World, account: &Path) -> Running {
    Container::new(world, "agent", Root::Machine)
        .set("SLUICE_API_SERVER", "")
        .set("KUBERNETES_SERVICE_HOST", &world.node().v4.to_string())
        .set("KUBERNETES_SERVICE_PORT", &TLS_PORT.to_string())
        .mount(account, ACCOUNT)
        .start()
}

fn status(world: &World) -> Value {
    let mut command = world.node().command(&sluice_binary().display().to_string());
    command.args(["status", "-o", "json", "--bpffs"]).arg(world.bpffs().join("sluice"));
    serde_json::from_slice(&command.output().unwrap().stdout).unwrap_or_default()
}

#[test]
fn a_pods_own_account_leads_to_the_api_server_and_another_authority_does_not() {
    let mut world = World::new();
    let (pod, _server) = world.server("cart-1", &[(8080, false)]);
    let client_pod = world.pod("client");
    let mut client = world.peer(&client_pod);
    let api = ApiServer::start(&world);
    let folder = world.folder().join("tls");
    let account = folder.join("account");
    fs::create_dir_all(&account).unwrap();
    let (right, wrong) = (authority(&folder, "cluster"), authority(&folder, "somebody"));
    let _front = Front::start(&world, &folder, "cluster");
    fs::write(account.join("namespace"), "sluice-system").unwrap();
    fs::write(account.join("token"), "of-the-account").unwrap();
    api.want_token("of-the-account");
    api.apply(&manifest::service("cart", &["10.96.0.1"], &["http:80:8080"]));
    api.apply(&format!(
        "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: cart-1, namespace: shop, \
         labels: {{kubernetes.io/service-name: cart}}}}\naddressType: IPv4\n\
         ports: [{{name: http, port: 8080, protocol: TCP}}]\nendpoints: [{{addresses: [{}], conditions: {{ready: true}}}}]\n",
        pod.v4
    ));

    fs::copy(&wrong, account.join("ca.crt")).unwrap();
    let refused = agent(&world, &account);
    wait::until("status says what is wrong with the certificate", || {
        let status = status(&world);
        let told = status["problems"].to_string().contains("invalid peer certificate: UnknownIssuer");
        if told { Ok(()) } else { Err((status, refused.log())) }
    });
    let ready = curl(world.node(), &["http://127.0.0.1:10256/readyz"]).status;
    assert_eq!(ready, 503, "nothing is programmed of what nobody vouches for");
    drop(refused);

    fs::copy(&right, account.join("ca.crt")).unwrap();
    let agent = agent(&world, &account);
    wait::until("readiness", || {
        let response = curl(world.node(), &["http://127.0.0.1:10256/readyz"]);
        if response.status == 200 { Ok(()) } else { Err((response.status, agent.log())) }
    });
    assert_eq!(client.tcp("10.96.0.1:80").unwrap().by, "cart-1");
    let status = status(&world);
    assert_eq!(status["healthy"], true, "{status}");
}
