//! The devices of two nodes: a wire, a VXLAN between the nodes as flannel makes it, pods routed as Calico routes them.
//!
//! `rp_filter` is left at what the machine's first namespace has, which new ones inherit. Addresses are usable at once,
//! for nothing waits for duplicates (`accept_dad`).

use super::{
    Pod,
    net::{ethtool, ip, sysctl},
};

/// Bytes that VXLAN adds to a packet on IPv4: outer Ethernet, IPv4, UDP and VXLAN headers.
const VXLAN_BYTES: u32 = 50;
/// MTU of the wire.
pub const WIRE_MTU: u32 = 1500;
/// MTU of pods, so that what they send fits into the overlay.
pub const POD_MTU: u32 = WIRE_MTU - VXLAN_BYTES;

fn empty(netns: &str) {
    ip(&format!("netns add {netns}"));
    ip(&format!("-n {netns} link set lo up"));
    sysctl(netns, &[("ipv6/conf/all/accept_dad", "0"), ("ipv6/conf/default/accept_dad", "0")]);
}

/// A bridge in a namespace of its own, and each of `hosts` on it with its `eth0`.
pub fn wire(wire: &str, hosts: &[&Pod]) {
    empty(wire);
    ip(&format!("-n {wire} link add wire type bridge mcast_snooping 0"));
    ip(&format!("-n {wire} link set wire up"));
    for Pod { name, netns, v4, v6, .. } in hosts {
        empty(netns);
        ip(&format!("-n {wire} link add {name} type veth peer name eth0 netns {netns}"));
        ip(&format!("-n {wire} link set {name} master wire up"));
        // A veth takes what XDP sends or redirects into its other end only if it polls (NAPI), as it does with GRO.
        ethtool(wire, &format!("-K {name} gro on"));
        // A packet on a real wire has its checksum. A veth leaves it to the receiver, and XDP could not tell.
        ethtool(netns, "-K eth0 tx off");
        // Nor may the wire take it away again, as it does from packets that it has put together.
        ethtool(wire, &format!("-K {name} tx off"));
        ip(&format!("-n {netns} addr add {v4}/24 dev eth0"));
        ip(&format!("-n {netns} addr add {v6}/64 dev eth0"));
        ip(&format!("-n {netns} link set eth0 up"));
    }
}

/// Makes a host on the wire the router of its pods, with the other node's pods behind `vxlan0`.
pub fn node(own: &Pod, gateway: &Pod, (number, other): (usize, &Pod)) {
    let netns = &own.netns;
    sysctl(netns, &[("ipv4/ip_forward", "1"), ("ipv6/conf/all/forwarding", "1")]);
    ip(&format!("-n {netns} route add default via {}", gateway.v4));
    ip(&format!("-n {netns} route add default via {}", gateway.v6));
    let (local, remote, peer) = (own.v4, other.v4, 3 - number);
    ip(&format!(
        "-n {netns} link add vxlan0 mtu {POD_MTU} address 02:00:00:00:42:{number:02} \
         type vxlan id 42 local {local} remote {remote} dev eth0 dstport 4789 nolearning"
    ));
    ip(&format!("-n {netns} addr add 10.244.{number}.0/32 dev vxlan0"));
    ip(&format!("-n {netns} addr add fd00:10:244:{number}::/128 dev vxlan0"));
    ip(&format!("-n {netns} link set vxlan0 up"));
    for (via, bits) in [(format!("10.244.{peer}.0"), 24), (format!("fd00:10:244:{peer}::"), 64)] {
        let lladdr = format!("02:00:00:00:42:{peer:02}");
        ip(&format!("-n {netns} neigh add {via} lladdr {lladdr} dev vxlan0 nud permanent"));
        ip(&format!("-n {netns} route add {via}/{bits} via {via} dev vxlan0 onlink"));
    }
}

/// A pod on a wire of its own, `podN` on the node, which has a route to it and no address there.
pub fn pod(node: &Pod, pod: &Pod, number: usize) {
    let (inside, outside, end) = (&pod.netns, &node.netns, format!("pod{number}"));
    empty(inside);
    ip(&format!(
        "-n {outside} link add {end} mtu {POD_MTU} type veth peer name eth0 netns {inside} mtu {POD_MTU}"
    ));
    ip(&format!("-n {outside} addr add fe80::1/64 dev {end}"));
    // The node answers for the gateway that pods believe in, at once.
    let (answers, delay) = (format!("ipv4/conf/{end}/proxy_arp"), format!("ipv4/neigh/{end}/proxy_delay"));
    sysctl(outside, &[(&answers, "1"), (&delay, "0")]);
    ip(&format!("-n {outside} link set {end} up"));
    ip(&format!("-n {outside} route add {}/32 dev {end}", pod.v4));
    ip(&format!("-n {outside} route add {}/128 dev {end}", pod.v6));
    ethtool(inside, "-K eth0 gro on");
    ip(&format!("-n {inside} addr add {}/32 dev eth0", pod.v4));
    ip(&format!("-n {inside} addr add {}/128 dev eth0", pod.v6));
    ip(&format!("-n {inside} link set eth0 up"));
    ip(&format!("-n {inside} route add 169.254.1.1 dev eth0 scope link"));
    ip(&format!("-n {inside} route add default via 169.254.1.1"));
    ip(&format!("-n {inside} route add default via fe80::1 dev eth0"));
}
