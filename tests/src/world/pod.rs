//! A place for processes, and how they are started in it.

use std::{
    net::{Ipv4Addr, Ipv6Addr},
    path::PathBuf,
    process::{Command, Stdio},
};

use super::sluice_binary;
use crate::peer::Peer;

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

    /// Starts a process that opens sockets here on command.
    pub fn peer(&self) -> Peer {
        let binary = sluice_binary().with_file_name("sluice-peer");
        let mut command = self.command(&binary.display().to_string());
        Peer::new(command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("sluice-peer starts"))
    }

    /// Starts a server here, on ports with `true` for UDP, which answers with the pod's name.
    pub fn serve(&self, ports: &[(u16, bool)]) -> Peer {
        let mut peer = self.peer();
        for (port, udp) in ports {
            peer.serve(&self.name, *port, *udp);
        }
        peer
    }
}
