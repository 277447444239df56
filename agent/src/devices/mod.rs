//! Which of the node's devices packets are balanced at. The choice is pure; [`links`] looks at the node.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    str::FromStr,
};

mod links;
mod raw;

pub use links::{Watch, device_to, links};
pub use raw::{are_told, takers};

/// A network device.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Link {
    /// Interface index.
    pub index: u32,
    /// Name.
    pub name: String,
    /// Kind of a virtual device, such as `veth`; empty for a physical one.
    pub kind: String,
    /// Whether it is a loopback device.
    pub is_loopback: bool,
    /// Whether it has Ethernet headers.
    pub is_ethernet: bool,
    /// Whether its packets begin with their IP header.
    pub is_bare: bool,
    /// Whether it is up.
    pub is_up: bool,
    /// Index of the device that it is a part of; 0 if of none.
    pub master: u32,
    /// Whether its other end is in another network namespace.
    pub leads_elsewhere: bool,
    /// Whether a default route goes by it.
    pub has_default_route: bool,
    /// Hardware address.
    pub mac: [u8; 6],
    /// Addresses, in the kernel's order.
    pub addresses: Vec<IpAddr>,
}

/// What a device is to us.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Role {
    /// The node's own: clients outside the cluster and pods elsewhere are reached by it.
    Node,
    /// A pod's.
    Pod,
}

/// `--devices`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum NodeDevices {
    /// Those that look like it.
    Auto,
    /// These, by name.
    Named(BTreeSet<String>),
}

/// `--pod-devices`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum PodDevices {
    /// None.
    Off,
    /// Those that look like it.
    Auto,
    /// Those whose name matches, `*` standing for anything.
    Named(String),
}

impl FromStr for NodeDevices {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "auto" {
            return Ok(Self::Auto);
        }
        let names: BTreeSet<String> =
            text.split(',').map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned).collect();
        if names.is_empty() {
            return Err("give `auto` or names of devices, separated by commas".to_owned());
        }
        Ok(Self::Named(names))
    }
}

impl FromStr for PodDevices {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Ok(match text.trim() {
            "none" => Self::Off,
            "auto" => Self::Auto,
            "" => return Err("give `none`, `auto` or a pattern of names such as cali*".to_owned()),
            pattern => Self::Named(pattern.to_owned()),
        })
    }
}

/// `--xdp`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum Xdp {
    /// Packets are first looked at by tc.
    Off,
    /// By XDP where the driver has it, else by tc.
    Auto,
    /// By XDP in the driver.
    Native,
    /// By XDP in front of the stack, for trying it out: slower than tc.
    Generic,
}

/// Virtual devices behind which the other nodes or clients are.
const OF_NODE: [&str; 7] = ["bond", "team", "vlan", "vxlan", "geneve", "macvlan", "ipvlan"];
/// The same without Ethernet headers; where a tunnel's other end is chosen by route (`external`), only the stack can send.
const OF_NODE_BARE: [&str; 5] = ["wireguard", "ipip", "sit", "ip6tnl", "tun"];

/// What makes one device of several.
const BONDS: [&str; 2] = ["bond", "team"];

/// The role of each device, by index; a device without one is left alone. `node` are the addresses of the Node object.
pub fn roles(
    links: &[Link],
    node: &[IpAddr],
    node_devices: &NodeDevices,
    pod_devices: &PodDevices,
) -> BTreeMap<u32, Role> {
    let role = |link: &Link| {
        let of_node = match node_devices {
            NodeDevices::Auto => looks_like_node(link, node),
            NodeDevices::Named(names) => names.contains(&link.name),
        };
        let of_pod = match pod_devices {
            PodDevices::Off => false,
            PodDevices::Auto => looks_like_pod(link, node) && !is_part_of_bond(links, link),
            PodDevices::Named(pattern) => matches(pattern, &link.name),
        };
        match (is_usable(link), of_node, of_pod) {
            (true, true, _) => Some(Role::Node),
            (true, false, true) => Some(Role::Pod),
            _ => None,
        }
    };
    links.iter().filter_map(|link| Some((link.index, role(link)?))).collect()
}

/// What flags name and no device is, or none that packets can be balanced at.
pub fn unmatched(links: &[Link], node_devices: &NodeDevices, pod_devices: &PodDevices) -> Vec<String> {
    let mut notes = Vec::new();
    if let NodeDevices::Named(names) = node_devices {
        for name in names {
            match links.iter().find(|link| link.name == *name) {
                None => notes.push(format!(
                    "--devices {name}: there is no such device; packets are balanced there once it is"
                )),
                Some(link) if !is_usable(link) => notes.push(format!(
                    "--devices {name}: packets are not balanced there, for their headers are neither Ethernet nor IP"
                )),
                Some(_) => {}
            }
        }
    }
    if let PodDevices::Named(pattern) = pod_devices
        && !links.iter().any(|link| is_usable(link) && matches(pattern, &link.name))
    {
        notes.push(format!(
            "--pod-devices {pattern}: no device has such a name; packets of pods are balanced once there is one"
        ));
    }
    notes
}

/// Why XDP is not tried at a device of the node's own.
pub fn why_not_early(link: &Link, xdp: Xdp) -> Option<&'static str> {
    match xdp {
        Xdp::Off => None,
        // A program of XDP would not know what it reads.
        Xdp::Auto | Xdp::Native | Xdp::Generic if link.is_bare => {
            Some("it has no Ethernet headers, and XDP reads nothing else")
        }
        // It hands on packets whose checksum is not finished, which XDP cannot tell from others.
        Xdp::Auto if link.kind == "veth" => {
            Some("a veth leaves checksums to the receiver; `--xdp native` takes it all the same")
        }
        Xdp::Auto | Xdp::Native | Xdp::Generic => None,
    }
}

/// The node's own devices at which `--xdp` is not tried, and why.
pub fn left_to_tc(links: &[Link], roles: &BTreeMap<u32, Role>, xdp: Xdp) -> Vec<String> {
    let of_node = links.iter().filter(|link| roles.get(&link.index) == Some(&Role::Node));
    let notes = of_node.filter_map(|link| {
        let why = why_not_early(link, xdp)?;
        Some(format!("{}: packets are balanced by tc alone: {why}", link.name))
    });
    notes.collect()
}

const fn is_usable(link: &Link) -> bool {
    (link.is_ethernet || link.is_bare) && !link.is_loopback
}

/// Whether the node is known to others by this device.
fn is_main(link: &Link, node: &[IpAddr]) -> bool {
    link.has_default_route || link.addresses.iter().any(|address| node.contains(address))
}

fn looks_like_pod(link: &Link, node: &[IpAddr]) -> bool {
    link.kind == "veth" && link.leads_elsewhere && !is_main(link, node)
}

fn is_part_of_bond(links: &[Link], link: &Link) -> bool {
    links.iter().any(|whole| whole.index == link.master && BONDS.contains(&whole.kind.as_str()))
}

fn looks_like_node(link: &Link, node: &[IpAddr]) -> bool {
    if is_main(link, node) {
        return true;
    }
    // A part of a bond or of a bridge is met again as the whole.
    let alone = link.master == 0;
    let kinds: &[&str] = if link.is_bare { &OF_NODE_BARE } else { &OF_NODE };
    alone && (link.kind.is_empty() || kinds.contains(&link.kind.as_str()))
}

/// Whether `name` is what `pattern` says, `*` standing for anything.
fn matches(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((head, rest)) => name.strip_prefix(head).is_some_and(|tail| {
            (0..=tail.len()).filter_map(|at| tail.get(at..)).any(|tail| matches(rest, tail))
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_get_the_role_that_they_look_like() {
        let ip: IpAddr = "192.168.50.11".parse().unwrap();
        let device =
            |kind: &str| Link { is_ethernet: true, is_up: true, kind: kind.to_owned(), ..Link::default() };
        let bare = |kind: &str| Link { is_ethernet: false, is_bare: true, ..device(kind) };
        let pod = || Link { leads_elsewhere: true, ..device("veth") };
        for (case, link, want) in [
            ("a network card", device(""), Some(Role::Node)),
            ("a bond", device("bond"), Some(Role::Node)),
            ("a VLAN", device("vlan"), Some(Role::Node)),
            ("a VLAN on the pods' bridge", Link { master: 4, ..device("vlan") }, None),
            ("a card of the bond", Link { master: 4, ..device("") }, None),
            ("an overlay's end", device("vxlan"), Some(Role::Node)),
            ("a pod's end", pod(), Some(Role::Pod)),
            ("a pod's end on a bridge", Link { master: 4, ..pod() }, Some(Role::Pod)),
            (
                "the node's own end in a nested cluster",
                Link { has_default_route: true, ..pod() },
                Some(Role::Node),
            ),
            ("the same by its address", Link { addresses: vec![ip], ..pod() }, Some(Role::Node)),
            ("a wire within the node", device("veth"), None),
            ("the pods' bridge", device("bridge"), None),
            (
                "a bridge with the node's address",
                Link { addresses: vec![ip], ..device("bridge") },
                Some(Role::Node),
            ),
            ("loopback", Link { is_loopback: true, ..device("") }, None),
            ("a modem", bare(""), Some(Role::Node)),
            ("WireGuard", bare("wireguard"), Some(Role::Node)),
            ("an overlay of IPIP", bare("ipip"), Some(Role::Node)),
            ("somebody's tun", bare("tun"), Some(Role::Node)),
            ("a virtual machine's tap", device("tun"), None),
            ("a VXLAN whose ends routes choose", bare("vxlan"), None),
            ("with headers of another kind", Link { is_ethernet: false, ..device("") }, None),
        ] {
            let roles = roles(&[link], &[ip], &NodeDevices::Auto, &PodDevices::Auto);
            assert_eq!(roles.values().next().copied(), want, "{case}");
        }
    }

    #[test]
    fn what_a_bond_is_made_of_is_met_again_as_the_bond() {
        let link = |index: u32, kind: &str, master: u32| {
            let kind = kind.to_owned();
            Link { index, kind, master, leads_elsewhere: true, is_ethernet: true, ..Link::default() }
        };
        let links = [link(1, "bond", 0), link(2, "veth", 1), link(3, "bridge", 0), link(4, "veth", 3)];
        let roles = roles(&links, &[], &NodeDevices::Auto, &PodDevices::Auto);
        assert_eq!(roles, BTreeMap::from([(1, Role::Node), (4, Role::Pod)]));
    }

    #[test]
    fn devices_that_xdp_is_not_tried_at_are_told() {
        let link = |index: u32, kind: &str| Link { index, kind: kind.to_owned(), ..Link::default() };
        let tun = Link { is_bare: true, ..link(3, "tun") };
        let links = [link(1, ""), link(2, "veth"), tun, link(4, "veth")];
        let roles = BTreeMap::from([(1, Role::Node), (2, Role::Node), (3, Role::Node), (4, Role::Pod)]);
        for (xdp, want) in [
            (Xdp::Off, &[][..]),
            (Xdp::Auto, &["a veth leaves checksums", "no Ethernet headers"]),
            (Xdp::Native, &["no Ethernet headers"]),
            (Xdp::Generic, &["no Ethernet headers"]),
        ] {
            let told = left_to_tc(&links, &roles, xdp);
            assert_eq!(told.len(), want.len(), "{xdp:?}: {told:?}");
            assert!(told.iter().zip(want).all(|(told, want)| told.contains(want)), "{xdp:?}: {told:?}");
        }
    }

    #[test]
    fn names_choose_devices_and_patterns_too() {
        let link = |name: &str| Link { name: name.to_owned(), is_ethernet: true, ..Link::default() };
        let node_devices: NodeDevices = "eth0, eth1".parse().unwrap();
        for (name, pattern, want) in [
            ("eth0", "none", Some(Role::Node)),
            ("eth2", "auto", None),
            ("cali123", "cali*", Some(Role::Pod)),
            ("cali123", "*1*3", Some(Role::Pod)),
            ("cali123", "lxc*", None),
            ("eth1", "eth*", Some(Role::Node)),
        ] {
            let roles = roles(&[link(name)], &[], &node_devices, &pattern.parse().unwrap());
            assert_eq!(roles.values().next().copied(), want, "{name} {pattern}");
        }
        let told = |links: &[Link], pattern: &str| unmatched(links, &node_devices, &pattern.parse().unwrap());
        let both = [link("eth0"), link("eth1")];
        assert_eq!(told(&both, "auto"), [""; 0]);
        assert_eq!(told(&both, "none"), [""; 0]);
        assert!(told(&both[..1], "auto")[0].starts_with("--devices eth1: there is no such device"));
        assert!(told(&both, "cali*")[0].starts_with("--pod-devices cali*: no device has such a name"));
        assert_eq!(told(&[link("eth0"), link("eth1"), link("cali7")], "cali*"), [""; 0]);
        let tunnel = Link { is_ethernet: false, ..link("eth1") };
        assert!(told(&[link("eth0"), tunnel], "auto")[0].contains("neither Ethernet nor IP"));
        assert!("".parse::<NodeDevices>().is_err());
        assert!("".parse::<PodDevices>().is_err());
    }
}
