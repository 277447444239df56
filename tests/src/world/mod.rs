//! A node with pods: network namespaces on a bridge, child cgroups, a folder of manifests, the real agent.
//! Everything goes away with the value, and what a crashed run left goes away at the next start.

use std::{
    fs,
    net::{Ipv4Addr, Ipv6Addr},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
};

use crate::peer::Peer;

mod agent;
mod net;
mod sweep;

pub use agent::{Agent, text};
pub use net::{ip, tool, tool_path};

static WORLDS: AtomicU32 = AtomicU32::new(0);

/// A node and its pods.
#[derive(Debug)]
pub struct World {
    id: String,
    folder: PathBuf,
    cgroup: PathBuf,
    pods: Vec<Pod>,
}

/// A network namespace and a cgroup: where a pod's processes live.
#[derive(Clone, Debug)]
pub struct Pod {
    /// Its name in the world; `node` is the node's own.
    pub name: String,
    /// Network namespace.
    pub netns: String,
    /// Cgroup v2 folder.
    pub cgroup: PathBuf,
    /// Its IPv4 address.
    pub v4: Ipv4Addr,
    /// Its IPv6 address.
    pub v6: Ipv6Addr,
}

impl World {
    /// A node without pods.
    ///
    /// # Panics
    /// The machine lacks something; the message says what.
    pub fn new() -> Self {
        assert!(rustix::process::geteuid().is_root(), "worlds need root: run `cargo xtask test` as root");
        sweep::leftovers();
        let number = WORLDS.fetch_add(1, Ordering::Relaxed);
        let id = format!("{}{}-{number}", sweep::PREFIX, std::process::id());
        let folder = std::env::temp_dir().join(&id);
        let cgroup = sluice::loader::find_cgroup(None).expect("cgroup v2").join(&id);
        let mut world = Self { id, folder, cgroup, pods: Vec::new() };
        fs::create_dir_all(world.manifests()).expect("a temporary folder");
        fs::create_dir(&world.cgroup).expect("a cgroup");
        let node = world.place("node", 1);
        net::node(&node);
        world.pods.push(node);
        world
    }

    /// Adds a pod, on the node's bridge.
    pub fn pod(&mut self, name: &str) -> Pod {
        self.pod_at(name, None, None)
    }

    /// Adds a pod with these addresses, as far as they are given.
    pub fn pod_at(&mut self, name: &str, v4: Option<Ipv4Addr>, v6: Option<Ipv6Addr>) -> Pod {
        let mut pod = self.place(name, self.pods.len() as u16 + 1);
        pod.v4 = v4.unwrap_or(pod.v4);
        pod.v6 = v6.unwrap_or(pod.v6);
        net::pod(self.node(), &pod, self.pods.len());
        self.pods.push(pod.clone());
        pod
    }

    /// Adds a pod that reaches the others through the node's routing, as on most nodes; IPv4 only.
    pub fn routed_pod(&mut self, name: &str) -> Pod {
        let mut pod = self.place(name, self.pods.len() as u16 + 1);
        pod.v4 = Ipv4Addr::new(10, 245, self.pods.len() as u8, 2);
        net::routed_pod(self.node(), &pod, self.pods.len());
        let forward = ["-c", "echo 1 > /proc/sys/net/ipv4/ip_forward"];
        assert!(self.node().command("sh").args(forward).status().is_ok_and(|status| status.success()));
        self.pods.push(pod.clone());
        pod
    }

    /// The node itself: processes in its host network.
    pub fn node(&self) -> &Pod {
        &self.pods[0]
    }

    /// All pods, the node first.
    pub fn pods(&self) -> &[Pod] {
        &self.pods
    }

    /// The pod of that name.
    ///
    /// # Panics
    /// There is none.
    pub fn find(&self, name: &str) -> &Pod {
        self.pods.iter().find(|pod| pod.name == name).unwrap_or_else(|| panic!("no pod {name}"))
    }

    /// Takes the world down from another thread, when there is no time to unwind.
    pub fn remover(&self) -> Remover {
        Remover(self.id.clone())
    }

    fn place(&self, name: &str, number: u16) -> Pod {
        let cgroup = self.cgroup.join(name);
        fs::create_dir(&cgroup).expect("a cgroup");
        Pod {
            name: name.to_owned(),
            netns: format!("{}-{name}", self.id),
            cgroup,
            v4: Ipv4Addr::new(10, 244, (number >> 8) as u8, number as u8),
            v6: Ipv6Addr::new(0xfd00, 0x10, 0x244, 0, 0, 0, 0, number),
        }
    }

    /// The cgroup above all pods: what the agent attaches to.
    pub fn cgroup(&self) -> &Path {
        &self.cgroup
    }

    /// The folder of pins.
    pub fn bpffs(&self) -> PathBuf {
        self.folder.join("bpf")
    }

    /// A folder for anything else.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The folder of manifests.
    pub fn manifests(&self) -> PathBuf {
        self.folder.join("manifests")
    }

    /// Puts a file of manifests in place, in one step.
    pub fn apply(&self, name: &str, text: &str) {
        let hidden = self.manifests().join(format!(".{name}"));
        fs::write(&hidden, text).expect("manifests can be written");
        fs::rename(hidden, self.manifests().join(format!("{name}.yaml"))).expect("manifests can be renamed");
    }

    /// Starts a process that opens sockets in `pod` on command.
    pub fn peer(&self, pod: &Pod) -> Peer {
        let binary = sluice_binary().with_file_name("sluice-peer");
        let mut command = pod.command(&binary.display().to_string());
        Peer::new(command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("sluice-peer starts"))
    }

    /// A server in a new pod, which answers with the pod's name.
    pub fn server(&mut self, name: &str, ports: &[(u16, bool)]) -> (Pod, Peer) {
        let pod = self.pod(name);
        let mut peer = self.peer(&pod);
        for (port, udp) in ports {
            peer.serve(name, *port, *udp);
        }
        (pod, peer)
    }
}

/// See [`World::remover`].
#[derive(Debug)]
pub struct Remover(String);

impl Remover {
    /// Removes the world. What its owner does afterwards fails.
    pub fn remove(&self) {
        sweep::remove(&self.0);
    }
}

impl Default for World {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        sweep::remove(&self.id);
    }
}

impl Pod {
    /// A command that will run in this pod: its cgroup, its network. It dies with us.
    pub fn command(&self, program: &str) -> Command {
        let script = "echo $$ > \"$1/cgroup.procs\" && shift && exec \"$@\"";
        let mut command = Command::new("sh");
        if let Some(libraries) = std::env::var_os("SLUICE_TOOL_LIBRARIES") {
            command.env("LD_LIBRARY_PATH", libraries);
        }
        command.args(["-c", script, "sh"]).arg(&self.cgroup);
        command.args(["setpriv", "--pdeathsig", "KILL", "nsenter"]);
        command.arg(format!("--net=/run/netns/{}", self.netns)).arg("--").arg(program);
        command
    }

    /// What to type to run `words` in this pod.
    pub fn shell_command(&self, words: &str) -> String {
        let (cgroup, netns) = (self.cgroup.display(), &self.netns);
        format!("sh -c 'echo $$ > {cgroup}/cgroup.procs; exec nsenter --net=/run/netns/{netns} {words}'")
    }

    /// Both addresses as text.
    pub fn addresses(&self) -> [String; 2] {
        [self.v4.to_string(), self.v6.to_string()]
    }
}

/// The `sluice` under test.
///
/// # Panics
/// Nobody said where it is.
pub fn sluice_binary() -> PathBuf {
    let path = std::env::var_os("SLUICE_BIN");
    PathBuf::from(path.expect("SLUICE_BIN is not set: run these tests by `cargo xtask test`"))
}

/// Ends a child for good.
pub fn kill(child: &mut Child) {
    let _ended_already = child.kill();
    let _reaped = child.wait();
}
