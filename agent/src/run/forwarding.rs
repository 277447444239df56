//! Whether the node forwards packets at all: without that the kernel finds no route from clients outside to pods.

use sluice_common::layout::{FrontendKey, FrontendKind, FrontendValue};

use crate::{health::Shared, maps::Tables};

/// For each family: what must not be 0, and how people call what it forwards.
const SETTINGS: [(&str, &str); 2] =
    [("net/ipv4/ip_forward", "IPv4"), ("net/ipv6/conf/all/forwarding", "IPv6")];
const TOPIC: &str = "forwarding";

/// Notes in `shared` what is switched off and needed.
pub fn check(tables: &Tables, shared: &Shared) {
    shared.clear(TOPIC);
    for (index, (setting, family)) in SETTINGS.into_iter().enumerate() {
        let is_v4 = index == 0;
        let value = std::fs::read_to_string(format!("/proc/sys/{setting}"));
        if value.is_ok_and(|value| value.trim() == "0") && is_for_outside(tables, is_v4) {
            let name = setting.replace('/', ".");
            let text = format!(
                "{name} is 0: this node does not forward {family} packets, so that clients outside do not reach pods by its \
                 NodePorts, load balancer and external addresses; set it to 1"
            );
            shared.warn(&format!("{TOPIC}/{family}"), text);
        }
    }
}

/// Whether clients outside have something of that family to dial.
fn is_for_outside(tables: &Tables, is_v4: bool) -> bool {
    let external = |(key, value): (&FrontendKey, &FrontendValue)| {
        let is_external = match FrontendKind::try_from(value.kind) {
            Ok(FrontendKind::NodePort | FrontendKind::LoadBalancer | FrontendKind::ExternalIp) => true,
            Ok(FrontendKind::ClusterIp | FrontendKind::Headless) | Err(_) => false,
        };
        is_external && key.addr.is_v4() == is_v4
    };
    tables.frontends.iter().any(external)
}
