//! A node with kube-proxy's rules instead of Sluice, written as kube-proxy writes them: the same Services, the same wires.
//! Source: `pkg/proxy/nftables/proxier.go` and `pkg/proxy/iptables/proxier.go`.

use std::{
    fmt::Write as _,
    io::Write as _,
    net::{Ipv4Addr, SocketAddr},
    process::Stdio,
};

use anyhow::{Context as _, Result, bail};

use crate::{
    peer::Peer,
    world::{Pod, World, tool_path},
};

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

/// A Service's port in the rules.
struct Rule {
    address: Ipv4Addr,
    protocol: &'static str,
    port: u16,
    endpoint: (Ipv4Addr, u16),
}

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
        };
        let mut rules: Vec<Rule> = (1..services).map(other).collect();
        let ours = [("tcp", 80, 8080), ("udp", 53, 5353)];
        for (protocol, port, target) in ours {
            let rule = Rule { address: [10, 96, 0, 0].into(), protocol, port, endpoint: (server, target) };
            rules.insert(rules.len() / 2, rule);
        }
        match self.mode {
            Mode::Nftables => self.load("nft", &["-f", "-"], &nftables(&rules)),
            Mode::Iptables => self.load("iptables-legacy-restore", &[], &iptables(&rules)),
        }
    }

    fn load(&self, program: &str, words: &[&str], text: &str) -> Result<()> {
        let mut command = self.world.node().command(&tool_path(program));
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
}

fn nftables(rules: &[Rule]) -> String {
    let mut text = "add table ip kube-proxy\ndelete table ip kube-proxy\ntable ip kube-proxy {\n".to_owned();
    let mut verdicts = Vec::new();
    let mut addresses = std::collections::BTreeSet::new();
    text += "chain mark-for-masquerade { meta mark set mark or 0x4000; }\n";
    text += "chain reject-chain { reject; }\n";
    for (number, rule) in rules.iter().enumerate() {
        let Rule { address, protocol, port, endpoint: (target, target_port) } = rule;
        let _fits = write!(
            text,
            "chain endpoint-{number} {{ ip saddr {target} jump mark-for-masquerade; \
             meta l4proto {protocol} dnat to {target}:{target_port}; }}\n\
             chain service-{number} {{ ip daddr {address} {protocol} dport {port} ip saddr != {PODS} \
             jump mark-for-masquerade; numgen random mod 1 vmap {{ 0 : goto endpoint-{number} }}; }}\n"
        );
        verdicts.push(format!("{address} . {protocol} . {port} : goto service-{number}"));
        addresses.insert(address.to_string());
    }
    let addresses: Vec<String> = addresses.into_iter().collect();
    text += &format!(
        "map service-ips {{ type ipv4_addr . inet_proto . inet_service : verdict; elements = {{ {} }}; }}\n",
        verdicts.join(", ")
    );
    text += &format!("set cluster-ips {{ type ipv4_addr; elements = {{ {} }}; }}\n", addresses.join(", "));
    text + "map no-endpoint-services { type ipv4_addr . inet_proto . inet_service : verdict; }\n\
        map no-endpoint-nodeports { type inet_proto . inet_service : verdict; }\n\
        map firewall-ips { type ipv4_addr . inet_proto . inet_service : verdict; }\n\
        map service-nodeports { type inet_proto . inet_service : verdict; }\n\
        set nodeport-ips { type ipv4_addr; elements = { 10.244.0.1 }; }\n\
        chain services { ip daddr . meta l4proto . th dport vmap @service-ips; \
        ip daddr @nodeport-ips meta l4proto . th dport vmap @service-nodeports; }\n\
        chain service-endpoints-check { ip daddr . meta l4proto . th dport vmap @no-endpoint-services; \
        ip daddr @nodeport-ips meta l4proto . th dport vmap @no-endpoint-nodeports; }\n\
        chain firewall-check { ip daddr . meta l4proto . th dport vmap @firewall-ips; }\n\
        chain cluster-ips-check { ip daddr @cluster-ips reject; ip daddr 10.96.0.0/12 drop; }\n\
        chain filter-prerouting { type filter hook prerouting priority -110; ct state new jump firewall-check; }\n\
        chain filter-input { type filter hook input priority -110; ct state new jump service-endpoints-check; }\n\
        chain filter-forward { type filter hook forward priority -110; ct state new jump service-endpoints-check; \
        ct state new jump cluster-ips-check; }\n\
        chain filter-output { type filter hook output priority -110; ct state new jump service-endpoints-check; \
        ct state new jump firewall-check; }\n\
        chain filter-output-post-dnat { type filter hook output priority -90; ct state new jump cluster-ips-check; }\n\
        chain nat-prerouting { type nat hook prerouting priority -100; jump services; }\n\
        chain nat-output { type nat hook output priority -100; jump services; }\n\
        chain masquerading { mark and 0x4000 == 0 return; meta mark set mark xor 0x4000; masquerade fully-random; }\n\
        chain nat-postrouting { type nat hook postrouting priority 100; jump masquerading; }\n}\n"
}

fn iptables(rules: &[Rule]) -> String {
    let (mut chains, mut lines, mut services) = (String::new(), String::new(), String::new());
    for (number, rule) in rules.iter().enumerate() {
        let Rule { address, protocol, port, endpoint: (target, target_port) } = rule;
        let name = format!("bench/service-{number}:http");
        let _fits = write!(chains, ":KUBE-SVC-{number} - [0:0]\n:KUBE-SEP-{number} - [0:0]\n");
        let _fits = writeln!(
            services,
            "-A KUBE-SERVICES -m comment --comment \"{name} cluster IP\" -m {protocol} -p {protocol} -d {address}/32 \
             --dport {port} -j KUBE-SVC-{number}"
        );
        let _fits = write!(
            lines,
            "-A KUBE-SVC-{number} -m comment --comment \"{name} cluster IP\" -m {protocol} -p {protocol} -d {address}/32 \
             --dport {port} ! -s {PODS} -j KUBE-MARK-MASQ\n\
             -A KUBE-SVC-{number} -m comment --comment \"{name} -> {target}:{target_port}\" -j KUBE-SEP-{number}\n\
             -A KUBE-SEP-{number} -m comment --comment {name} -s {target}/32 -j KUBE-MARK-MASQ\n\
             -A KUBE-SEP-{number} -m comment --comment {name} -m {protocol} -p {protocol} -j DNAT --to-destination \
             {target}:{target_port}\n"
        );
    }
    format!(
        "*filter\n:KUBE-EXTERNAL-SERVICES - [0:0]\n:KUBE-FORWARD - [0:0]\n:KUBE-SERVICES - [0:0]\n\
         :KUBE-PROXY-FIREWALL - [0:0]\n\
         -A FORWARD -m conntrack --ctstate NEW -j KUBE-PROXY-FIREWALL\n-A FORWARD -j KUBE-FORWARD\n\
         -A FORWARD -m conntrack --ctstate NEW -j KUBE-SERVICES\n\
         -A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP\n\
         -A KUBE-FORWARD -m mark --mark 0x4000/0x4000 -j ACCEPT\n\
         -A KUBE-FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\nCOMMIT\n\
         *nat\n:KUBE-SERVICES - [0:0]\n:KUBE-POSTROUTING - [0:0]\n:KUBE-MARK-MASQ - [0:0]\n:KUBE-NODEPORTS - [0:0]\n\
         {chains}-A PREROUTING -j KUBE-SERVICES\n-A OUTPUT -j KUBE-SERVICES\n-A POSTROUTING -j KUBE-POSTROUTING\n\
         -A KUBE-MARK-MASQ -j MARK --or-mark 0x4000\n\
         -A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN\n\
         -A KUBE-POSTROUTING -j MARK --xor-mark 0x4000\n-A KUBE-POSTROUTING -j MASQUERADE --random-fully\n\
         {services}-A KUBE-SERVICES -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS\n{lines}COMMIT\n"
    )
}
