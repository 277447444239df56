//! A wire without Ethernet headers: a tun device at either end, as WireGuard's or an overlay's are, and socat in between.

use std::{
    net::{Ipv4Addr, Ipv6Addr},
    path::Path,
    process::{Child, Stdio},
};

use super::{
    Pod,
    net::{ip, sysctl, tool_path},
};
use crate::wait;

/// Both ends; the devices go with it.
#[derive(Debug)]
pub struct Tun([Child; 2]);

impl Tun {
    /// A wire between two hosts, `device` at both; each has the address that ends in its place, 1 or 2, of the networks
    /// `192.168.N.0/24` and `fd00:N::/64`.
    ///
    /// # Panics
    /// The machine lacks something; the message says what.
    pub fn new(folder: &Path, device: &str, network: u8, hosts: [&Pod; 2]) -> Self {
        let files = [1, 2].map(|end| folder.join(format!("{device}-{network}-{end}")));
        let children = [0, 1].map(|end| start(hosts[end], device, &files[end], &files[1 - end]));
        for (end, host) in hosts.into_iter().enumerate() {
            wait::until("a tun has its end", || if files[end].exists() { Ok(()) } else { Err(()) });
            let ([v4, v6], netns) = (Self::addresses(network, end + 1), &host.netns);
            sysctl(netns, &[(&format!("ipv6/conf/{device}/accept_dad"), "0")]);
            ip(&format!("-n {netns} addr add {v4}/24 dev {device}"));
            ip(&format!("-n {netns} addr add {v6}/64 dev {device}"));
            ip(&format!("-n {netns} link set {device} up"));
        }
        Self(children)
    }

    /// The addresses of an end, 1 or 2.
    pub fn addresses(network: u8, end: usize) -> [String; 2] {
        let v6 = Ipv6Addr::new(0xfd00, u16::from(network), 0, 0, 0, 0, 0, end as u16);
        [Ipv4Addr::new(192, 168, network, end as u8).to_string(), v6.to_string()]
    }
}

impl Drop for Tun {
    fn drop(&mut self) {
        self.0.iter_mut().for_each(super::kill);
    }
}

fn start(host: &Pod, device: &str, own: &Path, other: &Path) -> Child {
    let mut command = host.command(&tool_path("socat"));
    command.arg(format!("TUN,tun-name={device},iff-no-pi"));
    command.arg(format!("UNIX-SENDTO:{},bind={}", other.display(), own.display()));
    command.stdin(Stdio::null()).spawn().expect("socat starts")
}
