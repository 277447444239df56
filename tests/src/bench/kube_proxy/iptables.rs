//! What kube-proxy writes in iptables mode: one rule after the other.
//! Source: `pkg/proxy/iptables/proxier.go`.

use std::fmt::Write as _;

use super::{PODS, Rule};

/// All of it, for `iptables-restore`.
pub fn text(rules: &[Rule]) -> String {
    let (mut chains, mut lines, mut services) = (String::new(), String::new(), String::new());
    for (number, rule) in rules.iter().enumerate() {
        let Rule { address, protocol, port, endpoint: (target, target_port), outside } = rule;
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
        let Some((balancer, node_port)) = outside else { continue };
        let _fits = writeln!(chains, ":KUBE-EXT-{number} - [0:0]");
        let _fits = writeln!(
            services,
            "-A KUBE-SERVICES -m comment --comment \"{name} loadbalancer IP\" -m {protocol} -p {protocol} \
             -d {balancer}/32 --dport {port} -j KUBE-EXT-{number}"
        );
        let _fits = write!(
            lines,
            "-A KUBE-NODEPORTS -m comment --comment {name} -m {protocol} -p {protocol} --dport {node_port} \
             -j KUBE-EXT-{number}\n\
             -A KUBE-EXT-{number} -m comment --comment \"masquerade traffic for {name} external destinations\" \
             -j KUBE-MARK-MASQ\n\
             -A KUBE-EXT-{number} -j KUBE-SVC-{number}\n"
        );
    }
    format!(
        "*filter\n:KUBE-EXTERNAL-SERVICES - [0:0]\n:KUBE-FORWARD - [0:0]\n:KUBE-SERVICES - [0:0]\n\
         :KUBE-PROXY-FIREWALL - [0:0]\n\
         -A FORWARD -m conntrack --ctstate NEW -j KUBE-PROXY-FIREWALL\n-A FORWARD -j KUBE-FORWARD\n\
         -A FORWARD -m conntrack --ctstate NEW -j KUBE-SERVICES\n\
         -A FORWARD -m conntrack --ctstate NEW -j KUBE-EXTERNAL-SERVICES\n\
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
