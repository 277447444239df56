//! What kube-proxy leaves of IPVS mode: virtual services, the device that holds their addresses, its sets.
//! Source: `pkg/proxy/ipvs/proxier.go`, `pkg/proxy/ipvs/ipset.go`.

use std::{
    collections::BTreeSet,
    fs,
    net::{IpAddr, SocketAddr},
    ops::RangeInclusive,
};

use anyhow::{Context as _, Result};

use super::run;

/// Holds every address of a Service.
const DEVICE: &str = "kube-ipvs0";
/// The default range of NodePorts: what is there may be kube-proxy's, if its sets are gone.
const NODE_PORTS: RangeInclusive<u16> = 30_000..=32_767;

/// Removes it; says what. Without the device kube-proxy was not in IPVS mode, or was cleaned up after. The device and the sets
/// tell whose services are; they go last, and stay for the next run if the services cannot be looked at.
pub fn clean() -> Result<Vec<String>> {
    let sets = run("ipset", &["save"], "")?.unwrap_or_default();
    // Of this network namespace, whichever one /sys was mounted in.
    if !is_device(&fs::read_to_string("/proc/net/dev").context("cannot read /proc/net/dev")?, DEVICE) {
        return destroy(&sets);
    }
    let Some(addresses) = run("ip", &["-o", "address", "show", "dev", DEVICE], "")? else {
        return Ok(vec![format!("not looked at: IPVS (there is {DEVICE}, but no ip on the PATH)")]);
    };
    let Some(saved) = run("ipvsadm", &["--save", "--numeric"], "")? else {
        return Ok(vec![format!(
            "not looked at: IPVS services (there is no ipvsadm on the PATH); {DEVICE} and kube-proxy's sets stay, by which \
             the services are known: install ipvsadm on this node and run this again, or restart the node"
        )]);
    };
    let plan = plan(&saved, &held(&addresses), &node_ports(&sets));
    let mut told = Vec::new();
    if !plan.script.is_empty() {
        run("ipvsadm", &["--restore"], &plan.script)?;
        told.push(format!("removed {} IPVS services", plan.script.lines().count()));
    }
    told.extend(plan.left.iter().map(|service| {
        format!(
            "left: the IPVS service {service}, which has a port of NodePorts, but is in no set of kube-proxy"
        )
    }));
    run("ip", &["link", "delete", DEVICE], "")?;
    told.push(format!("removed the device {DEVICE}"));
    told.extend(destroy(&sets)?);
    Ok(told)
}

/// Whether the text of /proc/net/dev names it.
fn is_device(text: &str, name: &str) -> bool {
    text.lines().any(|line| line.trim_start().strip_prefix(name).is_some_and(|rest| rest.starts_with(':')))
}

/// Destroys kube-proxy's among the sets in the output of `ipset save`; says which.
fn destroy(saved: &str) -> Result<Vec<String>> {
    let mut told = Vec::new();
    let created = saved.lines().filter_map(|line| line.strip_prefix("create "));
    let names = created.filter_map(|line| line.split(' ').next());
    for name in names.filter(|name| name.starts_with("KUBE-")) {
        run("ipset", &["destroy", name], "")?;
        told.push(format!("removed the set {name}"));
    }
    Ok(told)
}

/// A NodePort, as the word of ipvsadm for its protocol, whether it is of IPv6, and its number.
type NodePort = (&'static str, bool, u16);

/// NodePorts in the output of `ipset save`: `add KUBE-NODE-PORT-TCP 30080`, of SCTP `add … 192.168.0.2,sctp:30080`.
fn node_ports(saved: &str) -> BTreeSet<NodePort> {
    let mut found = BTreeSet::new();
    for line in saved.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let ["add", set, entry, ..] = words[..] else { continue };
        let (v6, set) = match set.strip_prefix("KUBE-6-") {
            Some(rest) => (true, rest),
            None => (false, set.strip_prefix("KUBE-").unwrap_or_default()),
        };
        let kind = set.strip_prefix("NODE-PORT-").map(|kind| kind.strip_prefix("LOCAL-").unwrap_or(kind));
        let protocol = match kind {
            Some("TCP") => "-t",
            Some("UDP") => "-u",
            Some("SCTP-HASH") => "--sctp-service",
            Some(_) | None => continue,
        };
        let port = entry.rsplit(':').next().and_then(|text| text.parse().ok());
        found.extend(port.map(|port| (protocol, v6, port)));
    }
    found
}

/// Addresses in the output of `ip -o address`.
fn held(text: &str) -> BTreeSet<IpAddr> {
    let mut found = BTreeSet::new();
    for line in text.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let address = words.windows(2).find(|pair| matches!(pair[0], "inet" | "inet6")).map(|pair| pair[1]);
        found.extend(address.and_then(|text| text.split('/').next()?.parse::<IpAddr>().ok()));
    }
    found
}

/// What to feed to `ipvsadm --restore`, and the services that may be kube-proxy's or somebody else's.
#[derive(Default, PartialEq, Eq, Debug)]
struct Plan {
    script: String,
    left: Vec<String>,
}

/// What removes kube-proxy's services among those that `ipvsadm --save` printed (`-A -t 10.96.0.1:443 -s rr`): those under
/// addresses of its device, and NodePorts that its sets name. Under the node's own addresses there may be other people's.
fn plan(saved: &str, held: &BTreeSet<IpAddr>, node_ports: &BTreeSet<NodePort>) -> Plan {
    let mut plan = Plan::default();
    for line in saved.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let ["-A", protocol @ ("-t" | "-u" | "--sctp-service"), address, ..] = words[..] else { continue };
        let Ok(at) = address.parse::<SocketAddr>() else { continue };
        let named =
            node_ports.iter().any(|(of, v6, port)| (*of, *v6, *port) == (protocol, at.is_ipv6(), at.port()));
        if held.contains(&at.ip()) || named {
            plan.script += &format!("-D {protocol} {address}\n");
        } else if NODE_PORTS.contains(&at.port()) {
            plan.left.push(format!("{protocol} {address}"));
        }
    }
    plan
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERVICES: &str = "-A -t 10.96.0.1:443 -s rr\n-a -t 10.96.0.1:443 -r 192.168.0.2:6443 -m -w 1\n-A -u [fd00:96::1]:53 -s rr\n\
         -A -t 192.168.0.2:30080 -s rr\n-A -t 192.168.0.2:40080 -s rr\n-A --sctp-service 192.168.0.2:30081 -s rr\n\
         -A -t 192.168.0.9:30090 -s wlc\n-A -u 192.168.0.9:30080 -s wlc\n-A -t [fd00::9]:30080 -s wlc\n\
         -A -t 192.168.0.9:80 -s wlc\n-A -f 1 -s rr\n";

    fn of_the_device() -> BTreeSet<IpAddr> {
        held(
            "5: kube-ipvs0    inet 10.96.0.1/32 scope global kube-ipvs0\\       valid_lft forever\n\
              5: kube-ipvs0    inet6 fd00:96::1/128 scope global \\       valid_lft forever\n",
        )
    }

    #[test]
    fn services_under_addresses_of_the_device_go_and_node_ports_that_a_set_names() {
        let sets = "create KUBE-NODE-PORT-TCP bitmap:port range 0-65535\nadd KUBE-NODE-PORT-TCP 30080\n\
                    add KUBE-NODE-PORT-LOCAL-TCP 40080 comment \"shop/cart:http\"\n\
                    add KUBE-NODE-PORT-SCTP-HASH 192.168.0.2,sctp:30081\n\
                    add KUBE-6-NODE-PORT-UDP 30080\nadd KUBE-CLUSTER-IP 10.96.0.1,tcp:30090\nadd MINE 30090\n";
        let plan = plan(SERVICES, &of_the_device(), &node_ports(sets));
        let script = "-D -t 10.96.0.1:443\n-D -u [fd00:96::1]:53\n-D -t 192.168.0.2:30080\n-D -t 192.168.0.2:40080\n\
                      -D --sctp-service 192.168.0.2:30081\n";
        assert_eq!(plan.script, script);
        // Of another protocol, another family, or in no set: told, and somebody else's as like as not.
        let left = ["-t 192.168.0.9:30090", "-u 192.168.0.9:30080", "-t [fd00::9]:30080"];
        assert_eq!(plan.left, left.map(str::to_owned));
    }

    #[test]
    fn a_device_is_found_by_its_whole_name() {
        let text = "Inter-|   Receive\n face |bytes\n    lo: 0 0\nkube-ipvs0: 0 0\n";
        assert!(is_device(text, "kube-ipvs0") && is_device(text, "lo"));
        assert!(!is_device(text, "kube-ipvs"));
    }

    #[test]
    fn without_sets_no_service_of_the_node_itself_goes() {
        let plan = plan(SERVICES, &of_the_device(), &node_ports(""));
        assert_eq!(plan.script, "-D -t 10.96.0.1:443\n-D -u [fd00:96::1]:53\n");
        assert_eq!(plan.left.len(), 5);
    }
}
