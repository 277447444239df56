//! The shop's servers: nginx for TCP, socat for UDP, each answering with its pod's name and the client's address; tonic for
//! gRPC, which says the name.

use std::{
    fs,
    net::{Ipv4Addr, Ipv6Addr},
    path::Path,
    process::{Child, Stdio},
};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::{
    wait,
    world::{Pod, World, kill, sluice_binary, tool_path},
};

/// What nginx writes a line into for each request.
const LOG: &str = "access.log";

/// Running servers; they end with the value.
#[derive(Default)]
pub struct Servers(Vec<Child>);

impl Drop for Servers {
    fn drop(&mut self) {
        self.0.iter_mut().for_each(kill);
    }
}

impl Servers {
    /// A pod, with a server in it, for each Pod in the folder `manifests`.
    pub fn start(world: &mut World, manifests: &Path) -> Result<Self> {
        let mut servers = Self::default();
        for file in sluice::manifests::folder(manifests)? {
            let text = fs::read_to_string(&file)?;
            for object in text.split("\n---\n").map(serde_saphyr::from_str::<Value>) {
                let object = object.with_context(|| format!("{} is no YAML", file.display()))?;
                if object["kind"] == "Pod" {
                    servers.of_pod(world, &object)?;
                }
            }
        }
        Ok(servers)
    }

    /// Starts one in `pod`, with its files in `folder`, and waits until it listens.
    pub fn add(&mut self, pod: &Pod, port: u64, udp: bool, folder: &Path) -> Result<()> {
        self.serve(pod, (port, ""), udp, None, folder)
    }

    fn serve(
        &mut self,
        pod: &Pod,
        (port, kind): (u64, &str),
        udp: bool,
        fails: Option<&str>,
        folder: &Path,
    ) -> Result<()> {
        self.0.push(match (udp, kind) {
            (true, _) => socat(pod, port)?,
            (false, "grpc") => grpc(pod, port)?,
            (false, _) => nginx(pod, (port, kind), fails, folder)?,
        });
        let table = if udp { "udp" } else { "tcp" };
        wait::until(&format!("{} listens", pod.name), || listens(pod, table, port));
        Ok(())
    }

    fn of_pod(&mut self, world: &mut World, object: &Value) -> Result<()> {
        let name = object["metadata"]["name"].as_str().context("a Pod without a name")?;
        let addresses: Vec<&str> = object["status"]["podIPs"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|ip| ip["ip"].as_str())
            .collect();
        let v4: Option<Ipv4Addr> = addresses.iter().find_map(|address| address.parse().ok());
        let v6: Option<Ipv6Addr> = addresses.iter().find_map(|address| address.parse().ok());
        let port = &object["spec"]["containers"][0]["ports"][0];
        let number = port["containerPort"].as_u64().context("a Pod without a port")?;
        let pod = world.pod_at(name, v4, v6);
        let kind = port["name"].as_str().unwrap_or_default();
        let fails = object["metadata"]["annotations"]["sluice.dev/demo-fails"].as_str();
        let folder = world.folder().join(name);
        self.serve(&pod, (number, kind), port["protocol"] == "UDP", fails, &folder)
    }
}

/// Whether a socket of the pod's namespace has the port, as /proc shows it to a process in there.
fn listens(pod: &Pod, table: &str, port: u64) -> Result<()> {
    let files = [format!("/proc/self/net/{table}"), format!("/proc/self/net/{table}6")];
    let output = pod.command("cat").args(files).output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let wanted = format!(":{port:04X}");
    if text.lines().any(|line| line.split_whitespace().nth(1).is_some_and(|local| local.ends_with(&wanted))) {
        return Ok(());
    }
    bail!("nobody has port {port}")
}

/// A gRPC server.
fn grpc(pod: &Pod, port: u64) -> Result<Child> {
    let mut command = pod.command(&sluice_binary().with_file_name("sluice-rpc").display().to_string());
    command.args(["serve", &pod.name, &port.to_string()]);
    spawn(command, pod)
}

/// A server that answers with the pod's name: over TLS on a port named `https`, and not at the path `fails`. It logs what it is asked for.
fn nginx(pod: &Pod, (port, kind): (u64, &str), fails: Option<&str>, folder: &Path) -> Result<Child> {
    fs::create_dir_all(folder)?;
    let place = folder.display();
    let spools = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
    let spools = spools.map(|kind| format!("{kind}_temp_path {place}/{kind};")).join(" ");
    let (with, certificate) =
        if kind == "https" { (" ssl", certificate(folder)?) } else { ("", String::new()) };
    let fails = fails.map_or_else(String::new, |path| format!("location {path} {{ return 503; }}"));
    let config = format!(
        "daemon off; master_process off; pid {place}/pid; error_log stderr;\nevents {{}}\n\
         http {{ access_log {place}/{LOG}; {spools} {certificate}\n\
         server {{ listen {port}{with}; listen [::]:{port}{with}; default_type text/plain; {fails}\n\
         location / {{ return 200 \"answer {} $remote_addr\\n\"; }} }} }}\n",
        pod.name
    );
    let file = folder.join("nginx.conf");
    fs::write(&file, config)?;
    let mut command = pod.command(&tool_path("nginx"));
    command.args(["-e", "stderr", "-c"]).arg(file);
    spawn(command, pod)
}

/// Makes a certificate that nobody trusts, and returns nginx's words for it.
fn certificate(folder: &Path) -> Result<String> {
    let (key, own) = (folder.join("key.pem"), folder.join("own.pem"));
    let mut command = std::process::Command::new(tool_path("openssl"));
    command.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]);
    command.args(["-days", "2", "-subj", "/CN=demo"]).arg("-keyout").arg(&key).arg("-out").arg(&own);
    let output = command.output().context("openssl does not start")?;
    if !output.status.success() {
        bail!("openssl makes no certificate: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(format!("ssl_certificate {}; ssl_certificate_key {};", own.display(), key.display()))
}

/// How often the server of `pod` was asked for `path`.
pub fn asked(world: &World, pod: &str, path: &str) -> usize {
    let log = fs::read_to_string(world.folder().join(pod).join(LOG)).unwrap_or_default();
    log.lines().filter(|line| line.contains(&format!(" {path}?"))).count()
}

// The question is read, for socat gives up when it cannot hand it over, the answer not yet sent.
fn socat(pod: &Pod, port: u64) -> Result<Child> {
    let mut command = pod.command(&tool_path("socat"));
    command
        .arg(format!("UDP6-RECVFROM:{port},fork,ipv6only=0"))
        .arg(format!("SYSTEM:read question; echo answer {} $SOCAT_PEERADDR", pod.name));
    spawn(command, pod)
}

fn spawn(mut command: std::process::Command, pod: &Pod) -> Result<Child> {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().with_context(|| format!("the server of {} does not start", pod.name))
}
