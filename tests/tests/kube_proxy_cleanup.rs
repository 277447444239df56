//! `sluice cleanup --kube-proxy` on rules as kube-proxy writes them: they go, and what is anybody else's stays as it was.
//! IPVS is not in this kernel: its part is a table beside the code.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::{io::Write as _, path::Path, process::Stdio};

use sluice_tests::{
    bench::{Mode, Rule},
    world::{Pod, World, sluice_binary, text, tool_path},
};

/// Somebody else's: a CNI's masquerading, a jump beside kube-proxy's own, the kubelet's chains, comments that look odd.
const FOREIGN: &str = "*filter\n:KUBE-FIREWALL - [0:0]\n:CNI-FORWARD - [0:0]\n-A INPUT -j KUBE-FIREWALL\n\
    -A FORWARD -m comment --comment \"not -j KUBE-FORWARD\" -j CNI-FORWARD\n-A CNI-FORWARD -s 10.244.0.0/16 -j ACCEPT\n\
    -A KUBE-FIREWALL -m mark --mark 0x8000/0x8000 -j DROP\nCOMMIT\n\
    *nat\n:KUBE-KUBELET-CANARY - [0:0]\n:CNI-HOSTPORT-DNAT - [0:0]\n-A PREROUTING -p tcp --dport 8443 -j CNI-HOSTPORT-DNAT\n\
    -A POSTROUTING -s 10.244.0.0/16 ! -d 10.244.0.0/16 -j MASQUERADE\n\
    -A CNI-HOSTPORT-DNAT -p tcp -j DNAT --to-destination 10.244.0.9:443\nCOMMIT\n";
const FOREIGN_V6: &str =
    "*nat\n:CNI-HOSTPORT-DNAT - [0:0]\n-A PREROUTING -p tcp --dport 8443 -j CNI-HOSTPORT-DNAT\nCOMMIT\n";
const KUBE_V6: &str = "*nat\n:KUBE-SERVICES - [0:0]\n:KUBE-SVC-X - [0:0]\n:KUBE-SEP-X - [0:0]\n\
    -A PREROUTING -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES\n\
    -A KUBE-SERVICES -d fd00:96::1/128 -p tcp -m tcp --dport 80 -j KUBE-SVC-X\n-A KUBE-SVC-X -j KUBE-SEP-X\n\
    -A KUBE-SEP-X -p tcp -m tcp -j DNAT --to-destination [fd00::9]:8080\nCOMMIT\n\
    *mangle\n:KUBE-PROXY-CANARY - [0:0]\nCOMMIT\n";
/// Another program's table beside kube-proxy's.
const FOREIGN_NFT: &str = "table ip mine {\n\tchain kube-proxy {\n\t\tip daddr 10.9.9.9 drop\n\t}\n}\n";

fn rules() -> Vec<Rule> {
    let rule = |number: u8| Rule {
        address: [10, 96, 0, number].into(),
        protocol: "tcp",
        port: 80,
        endpoint: ([10, 244, 0, number].into(), 8080),
        outside: Some(([203, 0, 113, number].into(), 30_000 + u16::from(number))),
    };
    (1..=3).map(rule).collect()
}

/// Runs a program of the tools in a pod, with their folder on the PATH.
fn run(pod: &Pod, program: &str, words: &[&str], input: &str) -> String {
    let tools = tool_path("iptables-legacy-save");
    let folder = Path::new(&tools).parent().unwrap();
    let mut command = pod.command(program);
    if let Some(folder) = std::env::var_os("SLUICE_TOOL_XTABLES") {
        command.env("XTABLES_LIBDIR", folder);
    }
    command.env("PATH", format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", folder.display()));
    command.args(words).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{program} {words:?}: {}", text(&output));
    String::from_utf8(output.stdout).unwrap()
}

fn cleanup(pod: &Pod) -> String {
    run(pod, &sluice_binary().display().to_string(), &["cleanup", "--kube-proxy"], "")
}

/// What `iptables-save` prints of a kind, without dates and counters.
fn saved(pod: &Pod, program: &str) -> Vec<String> {
    let text = run(pod, &format!("{program}-save"), &[], "");
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines.map(|line| line.split(" [").next().unwrap().to_owned()).collect()
}

/// A node with kube-proxy's rules and another's, and one with the other's alone.
fn nodes() -> (World, [Pod; 2]) {
    let mut world = World::new();
    let nodes = ["with", "without"].map(|name| world.pod(name));
    (world, nodes)
}

#[test]
fn iptables_rules_of_either_kind_go_and_others_stay_byte_for_byte() {
    let (_world, [with, without]) = nodes();
    Mode::Iptables.load(&with, &rules()).unwrap();
    let kube = Mode::Iptables.text(&with, &rules());
    run(&with, "iptables-nft-restore", &[], &kube);
    for (program, kube, foreign) in [
        ("iptables-legacy", None, FOREIGN),
        ("iptables-nft", None, FOREIGN),
        ("ip6tables-legacy", Some(KUBE_V6), FOREIGN_V6),
        ("ip6tables-nft", Some(KUBE_V6), FOREIGN_V6),
    ] {
        let restore = format!("{program}-restore");
        kube.into_iter().for_each(|kube| drop(run(&with, &restore, &["--noflush"], kube)));
        // Some of the other's rules stand before kube-proxy's, some behind.
        for node in [&with, &without] {
            run(node, &restore, &["--noflush"], foreign);
            run(node, program, &["-t", "nat", "-I", "PREROUTING", "-j", "RETURN"], "");
        }
    }
    let told = cleanup(&with);
    for program in ["iptables-legacy", "iptables-nft", "ip6tables-legacy", "ip6tables-nft"] {
        assert!(told.contains(&format!("({program})")), "{program}: {told}");
        let (left, want) = (saved(&with, program), saved(&without, program));
        let without_empty = |lines: Vec<String>| tables_with_rules(&lines);
        assert_eq!(without_empty(left), without_empty(want), "{program}");
    }
    assert_eq!(cleanup(&with), "kube-proxy left nothing here\n");
}

/// A table that is looked at exists from then on: those that hold nothing are left out.
fn tables_with_rules(lines: &[String]) -> Vec<Vec<String>> {
    let tables = lines.split(|line| line == "COMMIT").map(<[String]>::to_vec);
    let mut tables: Vec<_> = tables.filter(|table| table.iter().any(|line| line.starts_with("-A"))).collect();
    tables.sort();
    tables
}

#[test]
fn nftables_of_both_families_go_and_others_stay() {
    let (_world, [with, without]) = nodes();
    Mode::Nftables.load(&with, &rules()).unwrap();
    run(&with, "nft", &["-f", "-"], "table ip6 kube-proxy {\n\tchain services {\n\t}\n}\n");
    for node in [&with, &without] {
        run(node, "nft", &["-f", "-"], FOREIGN_NFT);
    }
    let told = cleanup(&with);
    assert!(told.contains("removed the table ip kube-proxy\nremoved the table ip6 kube-proxy\n"), "{told}");
    let listed = |node: &Pod| run(node, "nft", &["list", "table", "ip", "mine"], "");
    assert_eq!(listed(&with), listed(&without));
    assert!(!run(&with, "nft", &["list", "tables"], "").contains("kube-proxy"));
}

#[test]
fn the_device_that_tells_whose_ipvs_services_are_stays_until_they_can_be_looked_at() {
    let (_world, [with, _]) = nodes();
    // Of another kind than kube-proxy's own, which not every kernel has; it is known by its name.
    run(&with, "ip", &["link", "add", "kube-ipvs0", "type", "veth", "peer", "name", "other"], "");
    run(&with, "ip", &["address", "add", "10.96.0.1/32", "dev", "kube-ipvs0"], "");
    // This machine has no ipvsadm, or no IPVS for it. Neither the first run nor the next one takes the device.
    for _ in 0..2 {
        let mut command = with.command(&sluice_binary().display().to_string());
        let said = text(&command.args(["cleanup", "--kube-proxy"]).output().unwrap());
        assert!(said.contains("ipvsadm"), "{said}");
        assert!(run(&with, "ip", &["address", "show", "dev", "kube-ipvs0"], "").contains("10.96.0.1"));
    }
}

#[test]
fn a_kube_proxy_that_still_runs_is_named_and_nothing_is_touched() {
    let (world, [with, _]) = nodes();
    Mode::Nftables.load(&with, &rules()).unwrap();
    let program = world.folder().join("kube-proxy");
    std::fs::copy("/bin/sleep", &program).unwrap();
    let mut running = with.command(&program.display().to_string()).arg("60").spawn().unwrap();
    let mut command = with.command(&sluice_binary().display().to_string());
    let output = sluice_tests::wait::until("a refusal", || {
        let output = command.args(["cleanup", "--kube-proxy"]).output().unwrap();
        if output.status.code() == Some(1) { Ok(output) } else { Err(text(&output)) }
    });
    sluice_tests::world::kill(&mut running);
    assert!(text(&output).contains("kube-proxy still runs here with pid"), "{}", text(&output));
    assert!(run(&with, "nft", &["list", "tables"], "").contains("table ip kube-proxy"));
}
