//! What kube-proxy writes in nftables mode: maps from addresses to the chains of Services.
//! Source: `pkg/proxy/nftables/proxier.go`.

use std::{fmt::Write as _, net::Ipv4Addr};

use super::{PODS, Rule};

/// All of it, for `nft -f`.
pub fn text(rules: &[Rule], node: Ipv4Addr) -> String {
    let mut text = "add table ip kube-proxy\ndelete table ip kube-proxy\ntable ip kube-proxy {\n".to_owned();
    let (mut verdicts, mut node_ports) = (Vec::new(), Vec::new());
    let mut addresses = std::collections::BTreeSet::new();
    text += "chain mark-for-masquerade { meta mark set mark or 0x4000; }\n";
    text += "chain reject-chain { reject; }\n";
    for (number, rule) in rules.iter().enumerate() {
        let Rule { address, protocol, port, endpoint: (target, target_port), outside } = rule;
        let _fits = write!(
            text,
            "chain endpoint-{number} {{ ip saddr {target} jump mark-for-masquerade; \
             meta l4proto {protocol} dnat to {target}:{target_port}; }}\n\
             chain service-{number} {{ ip daddr {address} {protocol} dport {port} ip saddr != {PODS} \
             jump mark-for-masquerade; numgen random mod 1 vmap {{ 0 : goto endpoint-{number} }}; }}\n"
        );
        verdicts.push(format!("{address} . {protocol} . {port} : goto service-{number}"));
        addresses.insert(address.to_string());
        if let Some((balancer, node_port)) = outside {
            let _fits = writeln!(
                text,
                "chain external-{number} {{ jump mark-for-masquerade; goto service-{number}; }}"
            );
            verdicts.push(format!("{balancer} . {protocol} . {port} : goto external-{number}"));
            node_ports.push(format!("{protocol} . {node_port} : goto external-{number}"));
        }
    }
    let addresses: Vec<String> = addresses.into_iter().collect();
    text += &format!(
        "map service-ips {{ type ipv4_addr . inet_proto . inet_service : verdict; elements = {{ {} }}; }}\n",
        verdicts.join(", ")
    );
    text += &format!("set cluster-ips {{ type ipv4_addr; elements = {{ {} }}; }}\n", addresses.join(", "));
    let elements = match node_ports.join(", ") {
        none if none.is_empty() => none,
        some => format!("elements = {{ {some} }}; "),
    };
    text += &format!("map service-nodeports {{ type inet_proto . inet_service : verdict; {elements}}}\n");
    text += &format!("set nodeport-ips {{ type ipv4_addr; elements = {{ {node} }}; }}\n");
    text + "map no-endpoint-services { type ipv4_addr . inet_proto . inet_service : verdict; }\n\
        map no-endpoint-nodeports { type inet_proto . inet_service : verdict; }\n\
        map firewall-ips { type ipv4_addr . inet_proto . inet_service : verdict; }\n\
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
