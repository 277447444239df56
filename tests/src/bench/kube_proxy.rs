//! A node with kube-proxy's rules instead of Sluice, written as kube-proxy writes them: the same Services, the same wires.
//! Source: `pkg/proxy/nftables/proxier.go` and `pkg/proxy/iptables/proxier.go`.

use std::{
    io::Write as _,
    net::{Ipv4Addr, SocketAddr},
    process::Stdio,
};

use anyhow::{Context as _, Result, bail};

use crate::{
    peer::Peer,
    world::{Pod, World, tool_path},
};

mod iptables;
mod nftables;

/// Which of kube-proxy's modes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// nftables: one lookup in a map.
    Nftables,
    /// iptables, as the kernel's own tables: one rule after the other.
    Iptables,
}

impl Mode {
    /// As results name it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Nftables => "kube-proxy's nftables rules",
            Self::Iptables => "kube-proxy's iptables rules",
        }
    }

    /// Puts the rules of these Services in place on a node, instead of those that were there.
    ///
    /// # Errors
    /// The rules are not taken.
    pub fn load(self, node: &Pod, rules: &[Rule]) -> Result<()> {
        let text = self.text(node, rules);
        match self {
            Self::Nftables => feed(node, "nft", &["-f", "-"], &text),
            Self::Iptables => feed(node, "iptables-legacy-restore", &[], &text),
        }
    }

    /// Those rules, as `nft` or `iptables-restore` read them.
    pub fn text(self, node: &Pod, rules: &[Rule]) -> String {
        match self {
            Self::Nftables => nftables::text(rules, node.v4),
            Self::Iptables => iptables::text(rules),
        }
    }
}

/// A node with those rules.
pub struct ProxyNode {
    /// Which.
    pub mode: Mode,
    /// In a pod.
    pub client: Peer,
    server: (Pod, Peer),
    world: World,
}

/// A Service's port in the rules, with one endpoint.
pub struct Rule {
    /// Its cluster IP.
    pub address: Ipv4Addr,
    /// `tcp` or `udp`.
    pub protocol: &'static str,
    /// On the cluster IP, and on the load balancer's address.
    pub port: u16,
    /// Pod and its port.
    pub endpoint: (Ipv4Addr, u16),
    /// How clients outside reach it: the load balancer's address and the node port.
    pub outside: Option<(Ipv4Addr, u16)>,
}

/// Where pods are, as `--cluster-cidr` says.
const PODS: &str = "10.244.0.0/15";

impl ProxyNode {
    /// Starts it, without Services.
    pub fn start(mode: Mode) -> Self {
        let mut world = World::new();
        let server = world.server("server", &[(8080, false), (5353, true)]);
        let client = world.routed_pod("client");
        let client = world.peer(&client);
        Self { mode, client, server, world }
    }

    /// The Service that leads to the server. Its place among the others is the middle.
    pub fn service(&self, udp: bool) -> SocketAddr {
        SocketAddr::from(([10, 96, 0, 0], if udp { 53 } else { 80 }))
    }

    /// Makes it this many Services with an endpoint each.
    ///
    /// # Errors
    /// The rules are not taken.
    pub fn grow_to(&self, services: u32) -> Result<()> {
        let server = self.server.0.v4;
        let other = |number: u32| Rule {
            address: (0x0a60_0000 + number).into(),
            protocol: "tcp",
            port: 80,
            endpoint: ((0x0b00_0000 + number * 16).into(), 8080),
            outside: None,
        };
        let mut rules: Vec<Rule> = (1..services).map(other).collect();
        let ours = [("tcp", 80, 8080), ("udp", 53, 5353)];
        for (protocol, port, target) in ours {
            let (address, endpoint) = ([10, 96, 0, 0].into(), (server, target));
            rules.insert(rules.len() / 2, Rule { address, protocol, port, endpoint, outside: None });
        }
        self.mode.load(self.world.node(), &rules)
    }
}

fn feed(node: &Pod, program: &str, words: &[&str], text: &str) -> Result<()> {
    let mut command = node.command(&tool_path(program));
    if let Some(folder) = std::env::var_os("SLUICE_TOOL_XTABLES") {
        command.env("XTABLES_LIBDIR", folder);
    }
    let mut child = command.args(words).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    child.stdin.take().context("standard input is a pipe")?.write_all(text.as_bytes())?;
    let output = child.wait_with_output()?;
    if !output.status.success() {
        bail!("{program}: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}
