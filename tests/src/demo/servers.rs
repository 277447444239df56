//! The shop's servers: nginx for TCP, socat for UDP, each answering with its pod's name.

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
    world::{Pod, World, kill, tool_path},
};

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
        self.0.push(if udp { socat(pod, port)? } else { nginx(pod, port, folder)? });
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
        self.add(&pod, number, port["protocol"] == "UDP", &world.folder().join(name))
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

fn nginx(pod: &Pod, port: u64, folder: &Path) -> Result<Child> {
    fs::create_dir_all(folder)?;
    let place = folder.display();
    let spools = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
    let spools = spools.map(|kind| format!("{kind}_temp_path {place}/{kind};")).join(" ");
    let config = format!(
        "daemon off; master_process off; pid {place}/pid; error_log stderr;\nevents {{}}\nhttp {{ access_log off; {spools}\n\
         server {{ listen {port}; listen [::]:{port}; default_type text/plain; return 200 \"answer {}\\n\"; }} }}\n",
        pod.name
    );
    let file = folder.join("nginx.conf");
    fs::write(&file, config)?;
    let mut command = pod.command(&tool_path("nginx"));
    command.args(["-e", "stderr", "-c"]).arg(file);
    spawn(command, pod)
}

fn socat(pod: &Pod, port: u64) -> Result<Child> {
    let mut command = pod.command(&tool_path("socat"));
    command
        .arg(format!("UDP6-RECVFROM:{port},fork,ipv6only=0"))
        .arg(format!("SYSTEM:echo answer {}", pod.name));
    spawn(command, pod)
}

fn spawn(mut command: std::process::Command, pod: &Pod) -> Result<Child> {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().with_context(|| format!("the server of {} does not start", pod.name))
}
