//! What kube-proxy leaves of IPVS mode: virtual services, the device that holds their addresses, its sets.
//! Source: `pkg/proxy/ipvs/proxier.go`.

use std::{collections::BTreeSet, net::SocketAddr, ops::RangeInclusive, path::Path};

use anyhow::Result;

use super::run;

/// Holds every address of a Service.
const DEVICE: &str = "kube-ipvs0";
/// NodePorts are virtual services under the node's own addresses, as other people's may be; the default range tells.
const NODE_PORTS: RangeInclusive<u16> = 30_000..=32_767;

/// Removes it; says what. Without the device kube-proxy was not in IPVS mode, or was cleaned up after.
pub fn clean() -> Result<Vec<String>> {
    let mut told = sets()?;
    if !Path::new("/sys/class/net").join(DEVICE).exists() {
        return Ok(told);
    }
    let Some(addresses) = run("ip", &["-o", "address", "show", "dev", DEVICE], "")? else {
        told.push(format!("not looked at: IPVS (there is {DEVICE}, but no ip on the PATH)"));
        return Ok(told);
    };
    match run("ipvsadm", &["--save", "--numeric"], "")? {
        None => told.push("not looked at: IPVS services (there is no ipvsadm on the PATH)".to_owned()),
        Some(saved) => {
            let script = removals(&saved, &held(&addresses));
            if !script.is_empty() {
                run("ipvsadm", &["--restore"], &script)?;
                told.push(format!("removed {} IPVS services", script.lines().count()));
            }
        }
    }
    run("ip", &["link", "delete", DEVICE], "")?;
    told.push(format!("removed the device {DEVICE}"));
    Ok(told)
}

fn sets() -> Result<Vec<String>> {
    let Some(names) = run("ipset", &["list", "-name"], "")? else { return Ok(Vec::new()) };
    let mut told = Vec::new();
    for name in names.lines().filter(|name| name.starts_with("KUBE-")) {
        run("ipset", &["destroy", name], "")?;
        told.push(format!("removed the set {name}"));
    }
    Ok(told)
}

/// Addresses in the output of `ip -o address`.
fn held(text: &str) -> BTreeSet<std::net::IpAddr> {
    let mut found = BTreeSet::new();
    for line in text.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let address = words.windows(2).find(|pair| matches!(pair[0], "inet" | "inet6")).map(|pair| pair[1]);
        found.extend(address.and_then(|text| text.split('/').next()?.parse::<std::net::IpAddr>().ok()));
    }
    found
}

/// What removes kube-proxy's services among those that `ipvsadm --save` printed (`-A -t 10.96.0.1:443 -s rr`).
fn removals(saved: &str, held: &BTreeSet<std::net::IpAddr>) -> String {
    let mut script = String::new();
    for line in saved.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let ["-A", protocol @ ("-t" | "-u" | "--sctp-service"), address, ..] = words[..] else { continue };
        let Ok(at) = address.parse::<SocketAddr>() else { continue };
        if held.contains(&at.ip()) || NODE_PORTS.contains(&at.port()) {
            script += &format!("-D {protocol} {address}\n");
        }
    }
    script
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services_under_addresses_of_the_device_and_node_ports_go() {
        let held = held(
            "5: kube-ipvs0    inet 10.96.0.1/32 scope global kube-ipvs0\\       valid_lft forever\n\
             5: kube-ipvs0    inet6 fd00:96::1/128 scope global \\       valid_lft forever\n",
        );
        let saved = "-A -t 10.96.0.1:443 -s rr\n-a -t 10.96.0.1:443 -r 192.168.0.2:6443 -m -w 1\n\
                     -A -u [fd00:96::1]:53 -s rr\n-A -t 192.168.0.2:30080 -s rr\n-A -t 192.168.0.9:80 -s wlc\n-A -f 1 -s rr\n";
        let want = "-D -t 10.96.0.1:443\n-D -u [fd00:96::1]:53\n-D -t 192.168.0.2:30080\n";
        assert_eq!(removals(saved, &held), want);
    }
}
