//! Namespaces, bridge and wires, by iproute2.

use std::process::Command;

use super::Pod;

/// Where `cargo xtask setup` found or unpacked a program; the name itself otherwise.
pub fn tool_path(name: &str) -> String {
    std::env::var(format!("SLUICE_TOOL_{}", name.to_uppercase())).unwrap_or_else(|_| name.to_owned())
}

/// That program; if it was unpacked, it finds its libraries.
pub fn tool(name: &str) -> Command {
    let mut command = Command::new(tool_path(name));
    if let Some(libraries) = std::env::var_os("SLUICE_TOOL_LIBRARIES") {
        command.env("LD_LIBRARY_PATH", libraries);
    }
    command
}

/// Runs `ip` with these words.
///
/// # Panics
/// It fails.
pub fn ip(words: &str) {
    let output = tool("ip").args(words.split_whitespace()).output().expect("ip (package iproute2) starts");
    assert!(output.status.success(), "ip {words}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Runs `ethtool` with these words in a namespace.
///
/// # Panics
/// It fails.
pub fn ethtool(netns: &str, words: &str) {
    let mut command = enter(netns, &tool_path("ethtool"));
    let output = command.args(words.split_whitespace()).output().expect("ethtool starts");
    assert!(output.status.success(), "ethtool {words}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Sets values below /proc/sys/net in a namespace.
///
/// # Panics
/// One is not there.
pub fn sysctl(netns: &str, values: &[(&str, &str)]) {
    let lines: Vec<String> =
        values.iter().map(|(name, value)| format!("echo {value} > /proc/sys/net/{name}")).collect();
    // What is below /proc/sys/net depends on who opens it.
    let output = enter(netns, "sh").arg("-ec").arg(lines.join("\n")).output().expect("sh starts");
    assert!(output.status.success(), "{lines:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn enter(netns: &str, program: &str) -> Command {
    let mut command = tool("nsenter");
    command.arg(format!("--net=/run/netns/{netns}")).arg(program);
    command
}

/// The node's namespace, with a bridge that is every pod's gateway.
pub fn node(node: &Pod) {
    let netns = &node.netns;
    ip(&format!("netns add {netns}"));
    ip(&format!("-n {netns} link set lo up"));
    ip(&format!("-n {netns} link add pods type bridge"));
    ip(&format!("-n {netns} addr add {}/16 dev pods", node.v4));
    ip(&format!("-n {netns} addr add {}/64 dev pods nodad", node.v6));
    ip(&format!("-n {netns} link set pods up"));
    sysctl(netns, &[("ipv4/ip_forward", "1"), ("ipv6/conf/all/forwarding", "1")]);
}

/// A pod's namespace on a wire and a network of its own, which the node routes; IPv4 only.
pub fn routed_pod(node: &Pod, pod: &Pod, number: usize) {
    let (inside, outside) = (&pod.netns, &node.netns);
    let [a, b, c, _] = pod.v4.octets();
    ip(&format!("netns add {inside}"));
    ip(&format!("-n {inside} link set lo up"));
    ip(&format!("-n {outside} link add pod{number} type veth peer name eth0 netns {inside}"));
    ip(&format!("-n {outside} addr add {a}.{b}.{c}.1/24 dev pod{number}"));
    ip(&format!("-n {outside} link set pod{number} up"));
    ip(&format!("-n {inside} addr add {}/24 dev eth0", pod.v4));
    ip(&format!("-n {inside} link set eth0 up"));
    ip(&format!("-n {inside} route add default via {a}.{b}.{c}.1"));
}

/// A pod's namespace, wired to the node's bridge.
pub fn pod(node: &Pod, pod: &Pod, number: usize) {
    let (inside, outside) = (&pod.netns, &node.netns);
    ip(&format!("netns add {inside}"));
    ip(&format!("-n {inside} link set lo up"));
    ip(&format!("-n {outside} link add pod{number} type veth peer name eth0 netns {inside}"));
    ip(&format!("-n {outside} link set pod{number} master pods up"));
    ip(&format!("-n {inside} addr add {}/16 dev eth0", pod.v4));
    ip(&format!("-n {inside} addr add {}/64 dev eth0 nodad", pod.v6));
    ip(&format!("-n {inside} link set eth0 up"));
    ip(&format!("-n {inside} route add default via {}", node.v4));
    ip(&format!("-n {inside} route add default via {} dev eth0", node.v6));
}
