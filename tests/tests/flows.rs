//! What the packet path remembers: shown while it lasts, forgotten when it is over or leads to nobody.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::{collections::BTreeSet, net::SocketAddr, time::Duration};

use serde_json::{Value, json};
use sluice_tests::{
    outside::{Outside, cart, until},
    peer::{Answer, Command, Outcome, Peer, address},
    wait,
    world::Pod,
};

const READY: &str = "ready";
const TERMINATING: &str = "terminating";
const NOT_READY: &str = "not ready";

/// An address and port as a server saw them.
fn plain(seen: &str) -> String {
    let seen = address(seen);
    SocketAddr::new(seen.ip().to_canonical(), seen.port()).to_string()
}

fn rows(outside: &Outside, words: &[&str]) -> Vec<Value> {
    outside.world.node(1).json(words).as_array().unwrap().clone()
}

/// Dials from port after port until `by` answers; the socket stays open.
fn tcp_by(client: &mut Peer, to: &str, by: &str) -> (u32, Answer) {
    until(
        by,
        || {
            let id = client.id();
            (id, client.command(&Command::Tcp { id, to: address(to) }).unwrap())
        },
        |(_, answer)| answer.by == by,
    )
}

#[test]
fn connections_are_shown_with_both_ends_and_by_whom_they_are_seen() {
    let mut outside = Outside::new(&[1, 2], &[]);
    let (lb, client) = ("203.0.113.10:80", outside.world.client().v4.to_string());
    let (near, far) = (tcp_by(&mut outside.client, lb, "near"), tcp_by(&mut outside.client, lb, "far"));
    outside.client.udp("[2001:db8:50::10]:53").unwrap();
    let shown = rows(&outside, &["conntrack", "--client", &client, "--service", "shop/cart"]);
    let seen = |answer: &Answer| {
        let seen = plain(&answer.client);
        let mut found = shown.iter().filter(|row| row["source"] == seen.as_str());
        found.next().unwrap_or_else(|| panic!("{seen}: {shown:?}")).clone()
    };
    let pods: Vec<String> = outside.pods.iter().map(|(pod, _)| format!("{}:8080", pod.v4)).collect();
    for (case, (_, answer), backend, snat, path) in
        [("near", &near, &pods[0], false, "stack"), ("far", &far, &pods[1], true, "redirect")]
    {
        let row = seen(answer);
        assert_eq!((&row["backend"], &row["dialled"]), (&json!(backend), &json!(lb)), "{case}");
        assert_eq!((&row["snat"], &row["path"]), (&json!(snat), &json!(path)), "{case}");
        assert_eq!((&row["service"], &row["port"]), (&json!("shop/cart"), &json!("http")), "{case}");
        assert_eq!((&row["protocol"], &row["state"]), (&json!("TCP"), &json!("established")), "{case}");
        assert_eq!(address(row["client"].as_str().unwrap()).ip().to_string(), client, "{case}");
        assert!(row["expiresInSeconds"].as_u64().unwrap() > 86_000, "{case}: {row}");
    }
    let nats = rows(&outside, &["nat", "--client", &client]);
    let nat = nats.iter().find(|row| row["node"] == plain(&far.1.client).as_str()).expect("the far one");
    assert_eq!((&nat["dialled"], &nat["service"]), (&json!(lb), &json!("shop/cart")));
    assert!(
        nats.iter().all(|row| row["backend"] == pods[1].as_str()),
        "the near one is no other's: {nats:?}"
    );
    assert!(shown.iter().all(|row| row["protocol"] == "TCP"), "the datagram was another client's: {shown:?}");
    let all = rows(&outside, &["conntrack"]);
    assert!(all.iter().any(|row| row["protocol"] == "UDP" && row["state"] == "replied"), "{all:?}");
    let status = outside.world.node(1).json(&["status"]);
    let flows = status["maps"].as_array().unwrap().iter().find(|map| map["name"] == "FLOWS").cloned();
    assert_eq!(flows.unwrap()["entries"].as_u64(), Some(2 * all.len() as u64), "two entries for each");
    assert!(rows(&outside, &["conntrack", "--service", "shop/other"]).is_empty());
    assert_eq!(outside.world.node(1).sluice(&["conntrack", "--service", "cart"]).status.code(), Some(2));
}

/// Endpoints of `shop/cart` with these states, served at this port of UDP.
fn slices(outside: &Outside, states: &[&str], udp_port: u16) -> String {
    let slice = |v6: bool| {
        let endpoint = |((pod, _), state): (&(Pod, Peer), &&str)| {
            let (ready, terminating) = (*state == READY, *state == TERMINATING);
            json!({
                "addresses": [pod.addresses()[usize::from(v6)]],
                "nodeName": if pod.name == "far" { "node-2" } else { "node-1" },
                "conditions": {"ready": ready, "serving": ready || terminating, "terminating": terminating},
            })
        };
        let family = if v6 { "IPv6" } else { "IPv4" };
        let endpoints: Vec<_> = outside.pods.iter().zip(states).map(endpoint).collect();
        format!(
            "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: cart-{}, namespace: shop, \
             labels: {{kubernetes.io/service-name: cart}}}}\naddressType: {family}\nports: [{{name: http, port: 8080, \
             protocol: TCP}}, {{name: dns, port: {udp_port}, protocol: UDP}}]\nendpoints: {}\n",
            family.to_lowercase(),
            json!(endpoints)
        )
    };
    slice(false) + &slice(true)
}

/// A UDP socket of one source port.
struct Dialogue {
    id: u32,
    to: SocketAddr,
}

impl Dialogue {
    /// From port after port until `by` answers.
    fn with(client: &mut Peer, to: &str, by: &str) -> Self {
        let id = client.id();
        let dialogue = Self { id, to: address(to) };
        until(
            by,
            || {
                client.command(&Command::UdpOpen { id, v6: dialogue.to.is_ipv6() }).unwrap();
                dialogue.ask(client).unwrap()
            },
            |answer| answer.by == by,
        );
        dialogue
    }

    fn ask(&self, client: &mut Peer) -> Outcome {
        client.command(&Command::UdpAsk { id: self.id, to: Some(self.to) })
    }

    fn by(&self, client: &mut Peer) -> String {
        self.ask(client).map_or_else(|error| error, |answer| answer.by)
    }

    fn moves(&self, case: &str, client: &mut Peer, to: &str) {
        until(case, || self.by(client), |by| by == to);
    }
}

/// Three pods, of which two are on the node that is dialled; all serve UDP at two ports.
fn three() -> Outside {
    let mut outside = Outside::new(&[1, 2], &[]);
    let beside = outside.world.server(1, "beside", &[(8080, false), (5353, true)]);
    outside.pods.push(beside);
    for (pod, server) in &mut outside.pods {
        server.serve(&pod.name, 5354, true);
    }
    outside
}

fn udp_leaves_what_does_not_serve(outside: &Outside, from: &Pod, client: &mut Peer, dialled: &[&str]) {
    let apply = |states: [&str; 3], udp_port, more| {
        outside.world.apply("shop", &(cart(more) + &slices(outside, &states, udp_port)));
    };
    // Near, far, beside.
    let all_ready = || {
        apply([READY; 3], 5353, "");
        wait::until("all are ready", || {
            let ports = ["10.96.0.1:53/udp", "[fd00:10:96::1]:53/udp"].map(|to| {
                let shown = outside.world.node(1).json(&["explain", to]);
                let endpoints = shown["endpoints"].as_array().unwrap();
                endpoints.iter().map(|row| row["port"].as_u64().unwrap()).collect::<Vec<_>>()
            });
            if ports == [[5353; 3]; 2] { Ok(()) } else { Err(ports) }
        });
    };
    for to in dialled {
        all_ready();
        let near = Dialogue::with(client, to, "near");
        let far = Dialogue::with(client, to, "far");
        let beside = Dialogue::with(client, to, "beside");
        for _ in 0..8 {
            assert_eq!(near.by(client), "near", "{to}: one source port, one backend");
        }
        // Who moves shows that the others were looked at too.
        apply([TERMINATING, READY, NOT_READY], 5353, "");
        beside.moves("not ready", client, "far");
        assert_eq!(near.by(client), "near", "{to}: it serves while it terminates, and others are ready");
        assert_eq!(far.by(client), "far", "{to}");
        let is_external = !to.starts_with("10.96") && !to.starts_with("[fd00:10:96");
        let policy =
            if is_external { "externalTrafficPolicy: Local" } else { "internalTrafficPolicy: Local" };
        apply([NOT_READY, READY, READY], 5353, policy);
        near.moves("only local ones", client, "beside");
        assert_eq!(far.by(client), "far", "{to}: policy is for those who come");
        let own = &from.addresses()[usize::from(to.starts_with('['))];
        let ports = || {
            let rows = rows(outside, &["conntrack", "--client", own]);
            let udp = rows.into_iter().filter(|row| row["protocol"] == "UDP");
            udp.map(|row| address(row["backend"].as_str().unwrap()).port()).collect::<Vec<_>>()
        };
        assert!(ports().contains(&5353), "{to}");
        apply([READY; 3], 5354, "");
        until("another target port", ports, |ports| !ports.contains(&5353));
    }
}

#[test]
fn udp_clients_outside_leave_backends_that_stop_serving() {
    let outside = three();
    let mut client = outside.world.client().peer();
    let node_port = format!("{}:30053", outside.world.node(1).host.v4);
    let dialled = ["203.0.113.10:53", &node_port, "[2001:db8:50::20]:53", "10.96.0.1:53"];
    udp_leaves_what_does_not_serve(&outside, outside.world.client(), &mut client, &dialled);
}

#[test]
fn udp_clients_in_pods_without_hooks_leave_backends_that_stop_serving() {
    let mut outside = three();
    let pod = outside.world.pod(1, "alone");
    let mut client = Pod { cgroup: sluice::loader::find_cgroup(None).unwrap(), ..pod.clone() }.peer();
    udp_leaves_what_does_not_serve(&outside, &pod, &mut client, &["10.96.0.1:53", "[fd00:10:96::1]:53"]);
}

#[test]
fn when_a_service_goes_its_datagrams_end_and_its_tcp_connections_live_on() {
    let mut outside = Outside::new(&[1, 2], &[]);
    let to = "203.0.113.10";
    let tcp = ["near", "far"].map(|by| tcp_by(&mut outside.client, &format!("{to}:80"), by));
    let udp = ["near", "far"].map(|by| Dialogue::with(&mut outside.client, &format!("{to}:53"), by));
    outside.world.apply("shop", "");
    let protocols = |outside: &Outside| {
        let shown = rows(outside, &["conntrack"]);
        shown.iter().map(|row| row["protocol"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    until("no UDP", || protocols(&outside), |shown| !shown.contains(&"UDP".to_owned()));
    for (id, first) in tcp {
        let again = outside.client.command(&Command::AskAgain { id });
        assert_eq!(again.as_ref(), Ok(&first));
    }
    assert!(protocols(&outside).contains(&"TCP".to_owned()));
    // It comes back, and everything with it.
    outside.apply("");
    for dialogue in udp {
        until("back", || dialogue.ask(&mut outside.client), Result::is_ok).unwrap();
    }
}

fn metrics(outside: &Outside) -> String {
    let script = "exec 3<>/dev/tcp/127.0.0.1/10249; printf 'GET /metrics HTTP/1.0\\r\\n\\r\\n' >&3; cat <&3";
    let host = &outside.world.node(1).host;
    let output = host.command("bash").args(["-c", script]).output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn a_full_table_forgets_connections_and_says_how_many() {
    const MOST: u64 = 64;
    const BEGUN: u64 = 400;
    let mut outside = Outside::new(&[1], &["--max-flows", &MOST.to_string()]);
    let node_port = format!("{}:30053", outside.world.node(1).host.v4);
    let told = |outside: &Outside| {
        let metrics = metrics(outside);
        let count = metrics.lines().find_map(|line| line.strip_prefix("sluice_flows_forgotten_total "));
        count.unwrap_or_else(|| panic!("{metrics}")).parse::<u64>().unwrap()
    };
    assert_eq!(told(&outside), 0);
    let warned = |outside: &Outside| {
        let warnings = outside.world.node(1).json(&["status"])["warnings"].clone();
        let all: Vec<String> =
            warnings.as_array().unwrap().iter().map(|text| text.as_str().unwrap().to_owned()).collect();
        all.into_iter().find(|text| text.contains("were forgotten for new ones"))
    };
    assert_eq!(warned(&outside), None);
    for _ in 0..BEGUN {
        // A socket each, and so a port. Whether an answer finds its way back is not the question here.
        let _answered = outside.client.udp(&node_port);
    }
    let began = {
        let reasons = rows(&outside, &["reasons"]);
        reasons.iter().find(|row| row["name"] == "flow_begun").unwrap()["count"].as_u64().unwrap()
    };
    // A port that comes a second time goes on with its connection.
    assert!(began >= BEGUN - MOST / 2, "{began}");
    // Each takes two entries. The thread looks each half minute.
    let forgotten = wait::until_within(Duration::from_secs(60), "told", || {
        let now = told(&outside);
        if now >= BEGUN - MOST / 2 { Ok(now) } else { Err(now) }
    });
    let live = rows(&outside, &["conntrack"]).len() as u64;
    assert!(live <= MOST / 2 && forgotten <= began, "{live} {forgotten} of {began}");
    let text = warned(&outside).expect("a warning");
    assert!(
        text.starts_with(&format!("{forgotten} connections")) && text.ends_with("raise --max-flows"),
        "{text}"
    );
}

#[test]
fn connections_that_are_over_are_forgotten() {
    let mut outside = Outside::new(&[2], &["--service-metrics"]);
    // The pod refuses: ten seconds after a reset nobody needs to know.
    outside
        .world
        .apply("shop", &(cart("") + &slices(&outside, &[READY], 5353)).replace("port: 8080", "port: 9"));
    let _refused = until(
        "refused",
        || outside.client.tcp("203.0.113.10:80"),
        |met| *met == Err("ECONNREFUSED".to_owned()),
    );
    assert!(outside.client.udp("203.0.113.10:53").is_ok());
    let metrics = || metrics(&outside);
    assert!(metrics().contains("sluice_flows_removed_total{reason=\"expired\"} 0"), "{}", metrics());
    for line in ["sluice_map_entries{map=\"SERVICES\"} 4", "sluice_map_capacity{map=\"FLOWS\"} 131072"] {
        assert!(metrics().lines().any(|other| other == line), "{line}: {}", metrics());
    }
    // The thread looks each half minute.
    wait::until_within(Duration::from_secs(60), "forgotten", || {
        let now = metrics();
        let removed = now.lines().any(|line| {
            let count = line.strip_prefix("sluice_flows_removed_total{reason=\"expired\"} ");
            count.is_some_and(|count| count != "0")
        });
        let counted = |map: &str| now.contains(&format!("sluice_map_entries{{map=\"{map}\"}} "));
        let all = ["FLOWS", "UDP_REVNAT", "AFFINITY", "FRAGMENTS", "PODS", "OPT_OUTS", "DEVICES", "RESERVED"];
        let of_service = "sluice_service_connections{namespace=\"shop\",service=\"cart\",port=\"dns\"} 1\n";
        if removed && all.into_iter().all(counted) && now.contains(of_service) { Ok(()) } else { Err(now) }
    });
}

#[test]
fn status_tells_what_runs_at_devices_and_that_the_node_does_not_forward() {
    let mut outside = Outside::new(&[1, 2], &[]);
    let node = outside.world.node(1);
    let at_devices = || {
        let programs = node.json(&["status"])["programs"].as_array().unwrap().clone();
        let tc = programs.into_iter().filter(|row| row["hook"].as_str().unwrap().starts_with("tc/"));
        tc.map(|row| {
            assert_eq!(row["attached"], true, "{row}");
            format!("{} {}", row["name"].as_str().unwrap(), row["target"].as_str().unwrap())
        })
        .collect::<BTreeSet<_>>()
    };
    let want: BTreeSet<String> = ["eth0", "vxlan0"]
        .into_iter()
        .flat_map(|device| ["from_network", "to_network"].map(|program| format!("{program} {device}")))
        .chain(["from_pod pod1", "to_pod pod1"].map(str::to_owned))
        .collect();
    assert_eq!(at_devices(), want);
    // Somebody takes one away: the agent notices with its next probe.
    let gone = std::fs::read_dir(node.bpffs().join("links")).unwrap().flatten();
    let gone =
        gone.map(|file| file.path()).find(|path| path.display().to_string().ends_with("-to_pod")).unwrap();
    std::fs::remove_file(gone).unwrap();
    let status = node.json(&["status"]);
    assert!(status["problems"].to_string().contains("not attached: to_pod at pod1"), "{status}");
    node.wait_healthy();
    assert_eq!(at_devices(), want);
    let set = |setting: &str, value: &str| {
        let script = format!("echo {value} > /proc/sys/net/{setting}");
        assert!(node.host.command("sh").args(["-c", &script]).status().unwrap().success());
    };
    for (setting, name) in [
        ("ipv4/ip_forward", "net.ipv4.ip_forward is 0"),
        ("ipv6/conf/all/forwarding", "net.ipv6.conf.all.forwarding is 0"),
    ] {
        for (value, told) in [("0", true), ("1", false)] {
            set(setting, value);
            let warnings = || node.json(&["status"])["warnings"].to_string();
            until(name, warnings, |warnings| warnings.contains(name) == told);
        }
    }
    // Programs go on without an agent, and go with `cleanup`.
    outside.agents.clear();
    let node = outside.world.node(1);
    let node_port = format!("{}:30080", node.host.v4);
    assert!(outside.client.tcp(&node_port).is_ok());
    let cleanup = node.sluice(&["cleanup"]);
    assert!(cleanup.status.success(), "{cleanup:?}");
    // The kernel lets a link without a pin go in its own time.
    let _refused =
        until("detached", || outside.client.tcp(&node_port), |met| *met == Err("ECONNREFUSED".to_owned()));
}
