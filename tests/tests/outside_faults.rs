//! What clients outside meet when something on the way is odd: other MTUs, lost programs, renamed devices, ports used
//! again, errors from behind the node, Services that go.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::process::Stdio;

use sluice_tests::{
    manifest,
    outside::{NODE_PORTS, Outside, cart, seen, until},
    peer::{Command, Outcome, address},
    wait,
    world::{ip, text, tool_path},
};

fn refused(outcome: &Outcome) -> bool {
    matches!(outcome, Err(error) if error == "ECONNREFUSED")
}

const WAYS: [&[&str]; 3] = [&[], &["--forwarding", "dsr"], &["--xdp", "native"]];

#[test]
fn a_backend_that_refuses_is_heard_by_the_client() {
    for servers in [&[1][..], &[2]] {
        for flags in WAYS {
            let mut outside = Outside::new(servers, flags);
            let pod = &outside.pods[0].0;
            let [v4, v6] = pod.addresses();
            let pod = manifest::pod_on(&format!("node-{}", servers[0]), &pod.name, "cart", &[&v4, &v6]);
            // Ports that the pod does not serve.
            let text = cart("")
                .replace("targetPort: 8080", "targetPort: 8081")
                .replace("targetPort: 5353", "targetPort: 5354");
            outside.world.apply("shop", &(text + &pod));
            for [tcp, udp] in outside.dialled(1) {
                let _settled = until(&tcp, || outside.client.tcp(&tcp), refused);
                wait::until(&format!("{servers:?} {flags:?} {udp}"), || {
                    match outside.client.udp_connected(&udp) {
                        met if refused(&met) => Ok(()),
                        met => Err(met),
                    }
                });
            }
        }
    }
}

#[test]
fn one_source_port_serves_for_connections_to_several_addresses_of_a_service() {
    for (servers, flags) in [(&[1][..], WAYS[0]), (&[2], WAYS[0]), (&[2], WAYS[1])] {
        let mut outside = Outside::new(servers, flags);
        let dialled = outside.dialled(1);
        let own = outside.world.client().v4;
        let from = address(&format!("{own}:41000"));
        let mut firsts = Vec::new();
        for (id, [tcp, _]) in dialled[..4].iter().enumerate() {
            let id = 100 + id as u32;
            let first = outside.client.command(&Command::TcpFrom { id, from, to: address(tcp) });
            assert!(first.is_ok(), "{servers:?} {flags:?} {tcp}: {first:?}");
            firsts.push((id, first));
        }
        for (id, first) in firsts {
            let again = outside.client.command(&Command::AskAgain { id });
            assert_eq!(again, first, "{servers:?} {flags:?} {}", dialled[id as usize - 100][0]);
        }
    }
}

#[test]
fn large_frames_outside_and_small_ones_on_the_overlay_go_together() {
    // A veth with an XDP program takes no frames that long.
    for flags in [WAYS[0], WAYS[1]] {
        let mut outside = Outside::new(&[1, 2], flags);
        let wire = outside.world.client().netns.replace("-client", "-wire");
        for end in ["client", "node-1", "node-2", "wire"] {
            ip(&format!("-n {wire} link set {end} mtu 9000"));
        }
        let hosts = [outside.world.client(), &outside.world.node(1).host, &outside.world.node(2).host];
        for host in hosts {
            ip(&format!("-n {} link set eth0 mtu 9000", host.netns));
        }
        for [tcp, udp] in outside.dialled(1) {
            for _ in 0..4 {
                outside
                    .client
                    .tcp_echo(&tcp, 1 << 20)
                    .unwrap_or_else(|error| panic!("{flags:?} {tcp}: {error}"));
            }
            for bytes in [1400, 1500, 4000] {
                outside
                    .client
                    .udp_echo_again(&udp, bytes)
                    .unwrap_or_else(|error| panic!("{flags:?} {udp} {bytes}: {error}"));
            }
        }
    }
}

#[test]
fn programs_that_are_missing_at_some_hooks_are_put_back_by_the_next_agent() {
    let mut outside = Outside::new(&[1, 2], &["--xdp", "native"]);
    let dialled = outside.dialled(1);
    let node = outside.world.node(1);
    let links = node.bpffs().join("links");
    for lost in ["early_native", "to_network", "from_network"] {
        outside.agents.remove(0).kill();
        for entry in std::fs::read_dir(&links).unwrap().map(Result::unwrap) {
            if entry.file_name().to_str().unwrap().ends_with(lost) {
                std::fs::remove_file(entry.path()).unwrap();
            }
        }
        outside.agents.insert(0, node.agent_with(&["--xdp", "native"]));
        for [tcp, _] in &dialled {
            for _ in 0..4 {
                assert!(outside.client.tcp(tcp).is_ok(), "{lost}: {tcp}");
            }
        }
    }
}

#[test]
fn a_device_may_get_another_name() {
    let mut outside = Outside::new(&[1, 2], &["--xdp", "native"]);
    let dialled = outside.dialled(1);
    let node = outside.world.node(1);
    ip(&format!("-n {} link set eth0 name lan0", node.host.netns));
    for _ in 0..2 {
        node.wait_healthy();
        for [tcp, udp] in &dialled {
            assert!(outside.client.tcp(tcp).is_ok() && outside.client.udp(udp).is_ok(), "{tcp}");
        }
        outside.agents.remove(0).kill();
        outside.agents.insert(0, node.agent_with(&["--xdp", "native"]));
    }
}

#[test]
fn a_node_without_ipv6_serves_ipv4() {
    let mut outside = Outside::new(&[1, 2], &[]);
    let node = outside.world.node(1);
    outside.agents.remove(0).kill();
    let script = "echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6";
    let output = node.host.command("sh").args(["-c", script]).output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
    outside.agents.insert(0, node.agent_with(&[]));
    for [tcp, udp] in &outside.dialled(1)[..4] {
        for _ in 0..4 {
            assert!(outside.client.tcp(tcp).is_ok() && outside.client.udp(udp).is_ok(), "{tcp}");
        }
    }
}

#[test]
fn a_node_that_forwards_no_ipv6_serves_ipv4_and_its_own_pods() {
    let mut outside = Outside::new(&[1], &[]);
    let node = outside.world.node(1);
    let script = "echo 0 > /proc/sys/net/ipv6/conf/all/forwarding";
    let output = node.host.command("sh").args(["-c", script]).output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
    for [tcp, udp] in &outside.dialled(1)[..4] {
        assert!(outside.client.tcp(tcp).is_ok() && outside.client.udp(udp).is_ok(), "{tcp}");
    }
    outside.world.node(1).wait_healthy();
}

#[test]
fn datagrams_without_a_checksum_are_led_and_answered() {
    for (servers, flags) in [(&[1][..], WAYS[0]), (&[2], WAYS[0]), (&[2], WAYS[1]), (&[2], WAYS[2])] {
        let outside = Outside::new(servers, flags);
        for [_, udp] in &outside.dialled(1)[..3] {
            let mut command = outside.world.client().command(&tool_path("socat"));
            command.args(["-t", "2", "-T", "2", "STDIO", &format!("UDP4:{udp},so-no-check=1")]);
            let mut child =
                command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
            use std::io::Write as _;
            child.stdin.take().unwrap().write_all(b"?").unwrap();
            let met = text(&child.wait_with_output().unwrap());
            assert!(
                met.starts_with("near ") || met.starts_with("far "),
                "{servers:?} {flags:?} {udp}: {met}"
            );
        }
    }
}

#[test]
fn pods_on_the_hosts_network_in_the_clients_own_subnet_are_backends_too() {
    for (number, flags) in [(1, WAYS[0]), (2, WAYS[0]), (2, WAYS[1])] {
        let mut outside = Outside::new(&[], flags);
        let host = outside.world.node(number).host.clone();
        let _server = host.serve(&[(8080, false), (5353, true)]);
        let [v4, v6] = host.addresses();
        let pod = manifest::pod_on(&format!("node-{number}"), "ingress", "cart", &[&v4, &v6]);
        outside.world.apply("shop", &(cart("") + &pod));
        for [tcp, udp] in outside.dialled(1) {
            let answer = until(&tcp, || outside.client.tcp(&tcp), Result::is_ok).unwrap();
            let own = outside.own_address(&tcp);
            let keeps_source = number == 1 || flags == WAYS[1];
            assert_eq!(seen(&answer) == own, keeps_source, "node-{number} {flags:?} {tcp}: {answer:?}");
            let answer = outside.client.udp(&udp);
            assert!(answer.is_ok(), "node-{number} {flags:?} {udp}: {answer:?}");
            outside.client.tcp_echo(&tcp, 1 << 18).unwrap();
        }
    }
}

#[test]
fn xdp_sends_out_by_the_device_that_a_packet_came_by() {
    let mut outside = Outside::new(&[], WAYS[2]);
    let host = outside.world.node(2).host.clone();
    let _server = host.serve(&[(8080, false), (5353, true)]);
    let [v4, v6] = host.addresses();
    outside.world.apply("shop", &(cart("") + &manifest::pod_on("node-2", "ingress", "cart", &[&v4, &v6])));
    for [tcp, udp] in outside.dialled(1) {
        let answer = until(&tcp, || outside.client.tcp(&tcp), Result::is_ok).unwrap();
        assert_ne!(seen(&answer), outside.own_address(&tcp), "{tcp}");
        outside.client.tcp_echo(&tcp, 1 << 18).unwrap();
        outside.client.udp(&udp).unwrap();
    }
}

#[test]
fn a_client_may_use_its_source_port_again_at_once() {
    for servers in [&[1][..], &[2]] {
        let mut outside = Outside::new(servers, &[]);
        let dialled = outside.dialled(1);
        let [v4, v6] = outside.world.client().addresses();
        for [tcp, udp] in &dialled {
            let own = if tcp.starts_with('[') { format!("[{v6}]") } else { v4.clone() };
            for _ in 0..3 {
                // To a server and, the port just left, to the next address of the same one.
                let met = outside.client.tcp_from(&format!("{own}:42000"), tcp);
                assert!(
                    met.is_ok() || met == Err("Cannot assign requested address (os error 99)".to_owned()),
                    "{servers:?} {tcp}: {met:?}"
                );
                let met = outside.client.udp_from(&format!("{own}:42000"), udp);
                assert!(met.is_ok(), "{servers:?} {udp}: {met:?}");
            }
        }
    }
}

#[test]
fn a_service_that_is_deleted_keeps_its_open_connections_and_takes_no_new_ones() {
    for servers in [&[1][..], &[2]] {
        let mut outside = Outside::new(servers, &[]);
        let to = format!("{}:{}", outside.world.node(1).host.v4, NODE_PORTS[0]);
        let udp = format!("{}:{}", outside.world.node(1).host.v4, NODE_PORTS[1]);
        let first = outside.client.command(&Command::Tcp { id: 7, to: address(&to) }).unwrap();
        outside.client.command(&Command::UdpOpen { id: 8, v6: false }).unwrap();
        outside.client.command(&Command::UdpConnect { id: 8, to: address(&udp) }).unwrap();
        outside.client.command(&Command::UdpAsk { id: 8, to: None }).unwrap();
        outside.world.apply("shop", "# gone\n");
        let _gone = until(&to, || outside.client.tcp(&to), refused);
        assert_eq!(outside.client.command(&Command::AskAgain { id: 7 }), Ok(first), "{servers:?}");
        // Who is remembered by packets is looked for once the maps say that the Service is gone, by another thread.
        let _told = until(&udp, || outside.client.command(&Command::UdpAsk { id: 8, to: None }), refused);
    }
}
