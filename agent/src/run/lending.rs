//! Behind which devices endpoints may see a pod's own address for what the redirector sends: their replies must come by a
//! program of ours, and the kernel must take them afterwards. Pure but for [`Lending::device_to`].

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use crate::{
    devices::{self, Link},
    loader::Point,
};

/// What is known of each device.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Lending {
    seen: BTreeSet<u32>,
    /// Devices at which IPv4 replies are lost, and the setting that does it.
    martian: BTreeMap<u32, String>,
    names: BTreeMap<u32, String>,
}

impl Lending {
    /// From the devices, what runs at them, and which values of `net.ipv4.conf.NAME.src_valid_mark` are not 0.
    pub fn new(
        links: &[Link],
        running: &BTreeSet<(u32, Point)>,
        src_valid_mark: impl Fn(&str) -> bool,
    ) -> Self {
        let runs = |index| {
            running.contains(&(index, Point::FromPod)) || running.contains(&(index, Point::FromNetwork))
        };
        let is_seen = |link: &&Link| match link.kind.as_str() {
            // What one part of a bridge sends to another does not come by the bridge's own device.
            "bridge" => {
                let mut parts =
                    links.iter().filter(|part| part.master == link.index && part.is_up).peekable();
                parts.peek().is_some() && parts.all(|part| runs(part.index))
            }
            _ => runs(link.index),
        };
        let seen: BTreeSet<u32> = links.iter().filter(is_seen).map(|link| link.index).collect();
        let all = src_valid_mark("all");
        let setting = |name: &str| {
            let name = if all { "all" } else { name };
            (all || src_valid_mark(name)).then(|| format!("net.ipv4.conf.{name}.src_valid_mark"))
        };
        let found = links.iter().filter(|link| seen.contains(&link.index));
        let martian = found.filter_map(|link| Some((link.index, setting(&link.name)?))).collect();
        Self { seen, martian, names: links.iter().map(|link| (link.index, link.name.clone())).collect() }
    }

    /// Whether the replies of an endpoint with an address of this family come back; else why not.
    pub fn answers(&self, device: u32, is_v4: bool) -> Result<(), String> {
        const SEEN: &str = "see the node's address and X-Forwarded-For, not the address of a pod that asks";
        let name = self.names.get(&device).map_or("?", String::as_str);
        if !self.seen.contains(&device) {
            return Err(format!(
                "endpoints behind {name} {SEEN}: no program of ours sees their replies there; see --pod-devices and --devices"
            ));
        }
        match self.martian.get(&device).filter(|_| is_v4) {
            Some(setting) => Err(format!(
                "endpoints behind {name} {SEEN}: {setting} is 1, so that the kernel drops replies that are led back; set it to 0"
            )),
            None => Ok(()),
        }
    }

    /// The device by which the node reaches `address`.
    pub fn device_to(address: IpAddr) -> Option<u32> {
        devices::device_to(address).ok()
    }
}

/// Whether `net.ipv4.conf.NAME.src_valid_mark` is set, in this thread's network namespace.
pub fn src_valid_mark(name: &str) -> bool {
    let file = format!("/proc/sys/net/ipv4/conf/{name}/src_valid_mark");
    std::fs::read_to_string(file).is_ok_and(|text| text.trim() != "0")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(index: u32, name: &str, kind: &str, master: u32) -> Link {
        Link { index, name: name.to_owned(), kind: kind.to_owned(), master, is_up: true, ..Link::default() }
    }

    #[test]
    fn replies_come_back_where_a_program_sees_them_and_the_kernel_takes_them() {
        let links = [
            link(2, "eth0", "", 0),
            link(3, "cali1", "veth", 0),
            link(4, "cni0", "bridge", 0),
            link(5, "veth5", "veth", 4),
            link(6, "veth6", "veth", 4),
            link(7, "tunl0", "ipip", 0),
        ];
        let all = [2, 3, 5, 6];
        for (case, device, is_v4, running, sysctl, want) in [
            ("a routed pod", 3, true, &all[..], "", Ok(())),
            ("another node's", 2, true, &all, "", Ok(())),
            ("a bridge", 4, true, &all, "", Ok(())),
            ("a bridge with a part that is not seen", 4, true, &[2, 3, 5], "", Err("no program")),
            ("a device at which nothing runs", 7, true, &all, "", Err("no program")),
            ("--pod-devices none", 3, true, &[2], "", Err("--pod-devices")),
            ("marks count for sources", 3, true, &all, "all", Err("net.ipv4.conf.all.src_valid_mark")),
            ("at this device", 3, true, &all, "cali1", Err("net.ipv4.conf.cali1.src_valid_mark")),
            ("at another", 3, true, &all, "eth0", Ok(())),
            ("of IPv6 there is no such setting", 3, false, &all, "all", Ok(())),
        ] {
            let point = |index: &u32| (*index, if *index == 2 { Point::FromNetwork } else { Point::FromPod });
            let running = running.iter().map(point).collect();
            let found = Lending::new(&links, &running, |name| name == sysctl).answers(device, is_v4);
            match (found, want) {
                (Ok(()), Ok(())) => {}
                (Err(text), Err(part)) => assert!(text.contains(part), "{case}: {text}"),
                (found, want) => panic!("{case}: {found:?}, wanted {want:?}"),
            }
        }
    }
}
