//! What is wrong gets one clear message, and all that is good goes on working.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::process::Command;

use sluice_tests::{
    http::curl,
    manifest, wait,
    world::{World, sluice_binary, text, tool},
};

/// Runs `sluice run` behind `wrapper` (a program and its words) until it ends; returns what it printed.
fn refused(world: &World, wrapper: &[&str], flags: &[&str]) -> String {
    let (program, words) = wrapper.split_first().unwrap_or((&"env", &[]));
    let mut command = world.node().command(program);
    command.args(words).arg(sluice_binary()).arg("run").args(["--node-name", "node-1"]);
    command.arg("--cgroup").arg(world.cgroup()).arg("--bpffs").arg(world.bpffs()).args(flags);
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    let printed = text(&output);
    assert_eq!(printed.matches("error: ").count(), 1, "one message: {printed}");
    printed
}

#[test]
fn a_start_that_cannot_work_says_why() {
    let world = World::new();
    let manifests = world.manifests().display().to_string();
    let good = ["--manifests", manifests.as_str()];
    let busy = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    drop(busy);
    let no_cgroup = format!("umount {} && exec \"$@\"", sluice::loader::find_cgroup(None).unwrap().display());
    for (case, wrapper, flags, want) in [
        (
            "no capabilities",
            vec!["setpriv", "--bounding-set", "-all"],
            good.to_vec(),
            "loading eBPF programs needs CAP_BPF (or CAP_SYS_ADMIN) and CAP_PERFMON (or CAP_SYS_ADMIN) and CAP_NET_ADMIN",
        ),
        (
            "one missing",
            vec!["setpriv", "--bounding-set", "-net_admin"],
            good.to_vec(),
            "loading eBPF programs needs CAP_NET_ADMIN; run as root",
        ),
        (
            "no cgroup v2",
            vec!["unshare", "--mount", "sh", "-c", &no_cgroup, "sh"],
            good.to_vec(),
            "no cgroup v2 hierarchy is mounted; mount one with",
        ),
        (
            "no such path",
            vec![],
            vec!["--manifests", "/does/not/exist"],
            "--manifests /does/not/exist: there is no such file or folder",
        ),
        (
            "no such kubeconfig",
            vec![],
            vec!["--kubeconfig", "/does/not/exist"],
            "cannot read the kubeconfig /does/not/exist",
        ),
        (
            "no cluster",
            vec![],
            vec![],
            "neither --manifests nor --kubeconfig is given, and this is not a pod",
        ),
        (
            "not our address",
            vec![],
            vec!["--manifests", &manifests, "--admin", "192.0.2.1:1"],
            "cannot listen on 192.0.2.1:1; choose another address with --admin",
        ),
    ] {
        let printed = refused(&world, &wrapper, &flags);
        assert!(printed.contains(want), "{case}: {printed}");
    }
    let wrong = Command::new(sluice_binary()).args(["run", "--no-such-flag"]).output().unwrap();
    assert_eq!(wrong.status.code(), Some(2), "wrong usage");
    let wrong = Command::new(sluice_binary()).args(["run", "--max-slots", "0"]).output().unwrap();
    assert_eq!(wrong.status.code(), Some(2), "a size out of range");
}

#[test]
fn a_kernel_is_asked_what_it_has_and_not_judged_by_its_release() {
    // As on a distribution whose 4.18 or 5.14 has what newer ones brought.
    let mut command = Command::new("setarch");
    command.args([std::env::consts::ARCH, "--uname-2.6"]).arg(sluice_binary()).arg("verify");
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
}

#[test]
fn reading_without_pins_says_where_it_looked() {
    let world = World::new();
    for command in ["service", "frontend", "backend"] {
        let output = world.sluice(&[command]);
        assert_eq!(output.status.code(), Some(1));
        assert!(
            text(&output).contains("are you root, is Sluice running here, and with this --bpffs?"),
            "{}",
            text(&output)
        );
    }
}

#[test]
fn a_broken_file_is_named_and_the_others_serve() {
    let mut world = World::new();
    let (pod, _server) = world.server("cart-1", &[(8080, false)]);
    let client_pod = world.pod("client");
    let mut client = world.peer(&client_pod);
    let service = manifest::service("cart", &["10.96.0.1"], &["http:80:8080"]);
    world.apply("good", &(service.clone() + &manifest::pod("cart-1", "cart", &[&pod.v4.to_string()])));
    world.apply("broken", "kind: Service\nmetadata: [\n");
    let _agent = world.agent();
    assert!(client.tcp("10.96.0.1:80").is_ok());
    let warning = world.json(&["status"])["warnings"][0].as_str().unwrap().to_owned();
    assert!(warning.contains("broken.yaml:2: broken YAML"), "{warning}");
    // What worked is broken by an edit: it stays as it was, and the message says so.
    world.apply("good", &service.replace("port: 80", "port: no"));
    wait::until("the edit is seen", || {
        let warnings = world.json(&["status"])["warnings"].to_string();
        if warnings.contains("spec.ports[0].port: invalid type") { Ok(()) } else { Err(warnings) }
    });
    assert!(client.tcp("10.96.0.1:80").is_ok());
    world.apply("broken", "# mended\n");
    world.apply("good", &service);
    world.wait_verdict("10.96.0.1:80", "reject", 0);
    assert_eq!(world.json(&["status"])["warnings"].as_array().map(Vec::len), Some(0));
}

#[test]
fn check_finds_the_same_offline() {
    let world = World::new();
    let file = world.folder().join("bad.yaml");
    std::fs::write(&file, "apiVersion: v1\nkind: Service\nmetadata: {name: a, annotations: {sluice.dev/algorithm: luck}}\nspec: {clusterIP: 1.2.3, ports: [{port: 0}], typo: 1}\n").unwrap();
    let output = world.sluice(&["check", &file.display().to_string()]);
    let printed = text(&output);
    assert_eq!(output.status.code(), Some(1), "{printed}");
    for want in [
        "bad.yaml:1: Service default/a: spec.clusterIP: \"1.2.3\" is not an IP address; left out",
        "bad.yaml:1: Service default/a: spec.ports[0].port: 0 is not within 1 to 65535; the port is left out",
        "warning: ",
        "spec.typo: no such field; it has no effect",
        "metadata.annotations[sluice.dev/algorithm]: \"luck\" is neither maglev nor random; random is used",
        "1 files, 1 objects, 2 errors, 3 warnings",
    ] {
        assert!(printed.contains(want), "{want}: {printed}");
    }
    let json = world.json(&["check", &file.display().to_string()]);
    assert_eq!(json[0]["line"], 1);
    assert_eq!(world.sluice(&["check", &world.manifests().display().to_string()]).status.code(), Some(0));
}

#[test]
fn check_finds_the_usual_mistakes_of_rules() {
    let world = World::new();
    let file = world.folder().join("rules.yaml");
    let service = manifest::service("reviews", &["10.96.0.1"], &["http:80:8080"]);
    let subsets = "---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: reviews, namespace: shop}\n\
                   spec: {host: reviews, subsets: [{name: v1, labels: {version: v1}}]}\n";
    let above = (service + subsets).lines().count();
    let v1 = "    - destination: {host: reviews, subset: v1}\n";
    for (case, http, code, path, says) in [
        (
            "a weight within the destination",
            "  - route:\n    - destination:\n        host: reviews\n        weight: 80\n".to_owned(),
            1,
            "spec.http[0].route[0].destination.weight",
            "`weight` belongs to spec.http[0].route[0]",
        ),
        (
            "a route within a route",
            format!("  - route:\n    - route:\n    {}", v1.replace("    -", "  -")),
            1,
            "spec.http[0].route[0].route",
            "`route` belongs to spec.http[0]",
        ),
        (
            "a subset that nobody defines",
            v1.replace("v1", "v9").replacen("    -", "  - route:\n    -", 1),
            0,
            "spec.http[0].route[0].destination",
            "has subset \"v9\"",
        ),
        (
            "a rule that no request reaches",
            format!("  - route:\n{v1}  - match: [{{uri: {{prefix: /a}}}}]\n    route:\n{v1}"),
            0,
            "spec.http[1]",
            "http[0] takes all that it wants",
        ),
        (
            "weights that are all zero",
            format!("  - route:\n{v1}      weight: 0\n{v1}      weight: 0\n"),
            1,
            "spec.http[0].route",
            "0",
        ),
        ("nothing", format!("  - route:\n{v1}"), 0, "", ""),
    ] {
        let good = manifest::service("reviews", &["10.96.0.1"], &["http:80:8080"]) + subsets;
        let rule = "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: reviews, namespace: shop}\n\
                    spec:\n  hosts: [reviews]\n  http:\n";
        std::fs::write(&file, good + rule + &http).unwrap();
        let output = world.sluice(&["check", &file.display().to_string()]);
        let printed = text(&output);
        assert_eq!(output.status.code(), Some(code), "{case}: {printed}");
        let place = format!("rules.yaml:{}: VirtualService shop/reviews: {path}: ", above + 1);
        let found: Vec<&str> = printed.lines().filter(|line| line.contains("VirtualService")).collect();
        assert_eq!(found.is_empty(), path.is_empty(), "{case}: {printed}");
        let told = found.iter().any(|line| line.contains(&place) && line.contains(says));
        assert!(told || path.is_empty(), "{case}: {printed}");
    }
}

#[test]
fn sctp_whose_port_would_change_is_told_before_packets_are_dropped() {
    let world = World::new();
    let service = "apiVersion: v1\nkind: Service\nmetadata: {name: signals, namespace: shop}\nspec:\n  type: NodePort\n  \
                   clusterIP: 10.96.0.1\n  selector: {app: signals}\n  \
                   ports: [{port: 80, targetPort: 2905, nodePort: 30905, protocol: SCTP}]\n---\n";
    let yaml = service.to_owned() + &manifest::pod("signals-1", "signals", &["10.244.0.9"]);
    world.apply("shop", &yaml);
    let _agent = world.agent();
    world.wait_verdict("10.96.0.1:80/sctp", "pass", 0);
    let checked = || text(&world.sluice(&["check", &world.manifests().display().to_string()]));
    let told = |wanted: [bool; 2]| {
        let sentences =
            ["SCTP to port 80 would have to change its port to 2905", "SCTP to nodePort 30905 would"];
        wait::until(&format!("told: {wanted:?}"), || {
            let warnings = world.json(&["status"])["warnings"].to_string();
            if sentences.map(|sentence| warnings.contains(sentence)) == wanted {
                Ok(())
            } else {
                Err(warnings)
            }
        });
        let checked = checked();
        assert_eq!(sentences.map(|sentence| checked.contains(sentence)), wanted, "{checked}");
        assert!(!wanted[0] || checked.contains("spec.ports[0].port: SCTP"), "{checked}");
    };
    told([true, true]);
    world.apply("shop", &yaml.replace("port: 80,", "port: 2905,"));
    told([false, true]);
    world.apply("shop", &yaml.replace("port: 80,", "port: 2905,").replace(", nodePort: 30905", ""));
    told([false, false]);
}

#[test]
fn a_failing_self_probe_makes_the_agent_unhealthy_and_says_why() {
    let mut world = World::new();
    let other = world.pod("other");
    let netns = world.node().netns.clone();
    let loopback = |state: &str| {
        assert!(tool("ip").args(["-n", &netns, "link", "set", "lo", state]).status().unwrap().success());
    };
    loopback("down");
    let admin = format!("{}:10249", world.node().v4);
    let _agent =
        world.spawn_agent(&["--manifests", &world.manifests().display().to_string(), "--admin", &admin]);
    // Without a loopback the node cannot reach itself, but its pods can reach it, whom it tells little.
    wait::until("it says so", || {
        let live = curl(&other, &[&format!("http://{admin}/livez")]).status;
        let log = world.log();
        if live == 503 && log.contains("the self-probe failed: connections are not translated: ") {
            Ok(())
        } else {
            Err(format!("{live}: {log}"))
        }
    });
    loopback("up");
    wait::until("a healthy agent", || {
        let mut command = world.node().command(&sluice_binary().display().to_string());
        command.args(["status", "--admin", &admin, "--bpffs"]).arg(world.bpffs());
        let status = text(&command.output().unwrap());
        if status.starts_with("healthy\n") { Ok(()) } else { Err(status) }
    });
}

#[test]
fn a_full_map_is_named_and_what_fits_serves() {
    let mut world = World::new();
    let (pod, _server) = world.server("cart-1", &[(8080, false)]);
    let client_pod = world.pod("client");
    let mut client = world.peer(&client_pod);
    world.apply(
        "a",
        &(manifest::service("cart", &["10.96.0.1"], &["http:80:8080"])
            + &manifest::pod("cart-1", "cart", &[&pod.v4.to_string()])),
    );
    let manifests = world.manifests().display().to_string();
    let _agent = world.spawn_agent(&["--manifests", &manifests, "--max-frontends", "16"]);
    world.wait_healthy();
    let many: String = (0..40)
        .map(|i| manifest::service(&format!("z{i}"), &[&format!("10.97.0.{}", i + 1)], &["http:80:8080"]))
        .collect();
    world.apply("many", &many);
    wait::until("status names the flag", || {
        let problems = world.json(&["status"])["problems"].to_string();
        if problems.contains("FRONTENDS is full (16 entries); raise --max-frontends") {
            Ok(())
        } else {
            Err(problems)
        }
    });
    assert!(client.tcp("10.96.0.1:80").is_ok());
    assert_eq!(world.json(&["frontend"]).as_array().map(Vec::len), Some(16));
    // The self-probe has a place of its own, and goes on: a full map is no reason to take the node away or to start anew.
    let probed = || {
        let state = curl(world.node(), &["http://127.0.0.1:10249/state"]).body;
        serde_json::from_str::<serde_json::Value>(&state).unwrap_or_default()["probedS"].clone()
    };
    let before = probed();
    wait::until_within(std::time::Duration::from_secs(40), "the next self-probe", || {
        let now = probed();
        if now != before && !now.is_null() { Ok(()) } else { Err((now, world.log())) }
    });
    for path in ["/healthz", "/livez"] {
        let answer = curl(world.node(), &[&format!("http://127.0.0.1:10256{path}")]);
        assert_eq!(answer.status, 200, "{path}: {answer:?}");
    }
    world.apply("many", "");
    world.wait_healthy();
}
