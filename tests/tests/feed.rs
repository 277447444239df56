//! The feed of rules is the redirector's: a process of the same user that is none gets nothing, and takes nobody's place;
//! and the redirector is never told to go by what it has to report.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::{
    io::{Read as _, Write as _},
    os::unix::net::UnixStream,
    path::Path,
    time::Duration,
};

use rustix::process::{Gid, Uid};
use sluice_tests::{
    http::curl,
    manifest,
    shop::shop,
    wait,
    world::{World, text},
};

const NOBODY: u32 = 65_534;
const RULES: &str = "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\n\
    metadata: {name: cart, namespace: shop}\nspec:\n  hosts: [cart]\n  tcp:\n\
    \x20 - match: [{destinationSubnets: [0.0.0.0/0, \"::/0\"]}]\n    route: [{destination: {host: cart}}]\n";

/// How the agent begins its answer to a process of this user that says `hello`; empty if it closes the connection.
fn ask(socket: &Path, user: u32, hello: &str) -> Vec<u8> {
    ask_of(socket, user, hello.len() as u32, hello)
}

/// The same of one that calls it so long.
fn ask_of(socket: &Path, user: u32, length: u32, hello: &str) -> Vec<u8> {
    let (socket, hello) = (socket.to_owned(), hello.to_owned());
    // Credentials are a thread's own here.
    let thread = std::thread::spawn(move || {
        let (user, group) = (Uid::from_raw(user), Gid::from_raw(user));
        rustix::thread::set_thread_res_gid(group, group, group).unwrap();
        rustix::thread::set_thread_res_uid(user, user, user).unwrap();
        let mut stream = UnixStream::connect(socket).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let _refused_already = stream.write_all(&[&length.to_be_bytes(), hello.as_bytes()].concat());
        let mut answer = Vec::new();
        // What was not read when the other end closed is an error here.
        let _closed = stream.take(4).read_to_end(&mut answer);
        answer
    });
    thread.join().unwrap()
}

fn redirectors(world: &World) -> Vec<String> {
    let pids = std::fs::read_to_string(world.node().cgroup.join("cgroup.procs")).unwrap();
    let is_one = |pid: &&str| {
        let words = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        words.contains("\0redirector\0")
    };
    pids.lines().filter(is_one).map(str::to_owned).collect()
}

fn refused(world: &World) -> u64 {
    let page = curl(world.node(), &["http://127.0.0.1:10249/metrics"]).body;
    let line = page.lines().find(|line| line.starts_with("sluice_feed_refused_total "));
    line.and_then(|line| line.split(' ').nth(1)).unwrap().parse().unwrap()
}

#[test]
fn a_process_of_the_redirectors_user_is_refused_and_counted() {
    let mut shop = shop(1);
    let service =
        manifest::service("cart", &["10.96.0.1", "fd00:96::1"], &["tcp:80:8080", "dns:53:5353/UDP"]);
    shop.world.apply("shop", &service);
    shop.world.apply("rules", RULES);
    let run = shop.world.folder().join("run");
    wait::until("rules hold", || {
        let rows = shop.world.json(&["frontend"]);
        let steered = rows.as_array().unwrap().iter().any(|row| row["path"] == "redirector");
        if steered { Ok(()) } else { Err(rows) }
    });
    shop.world.wait_healthy();
    let (socket, token_file) = (run.join("redirector.sock"), run.join("redirector.token"));
    // The latest epoch there can be: whoever is believed takes the redirector's place.
    let newest = |token: &str| format!("{{\"epoch\":{},\"version\":1,\"token\":\"{token}\"}}", u64::MAX);
    let refusal = sluice::l7::snapshot::REFUSED.to_be_bytes();
    for (case, user, hello) in [
        ("no token", NOBODY, "{\"epoch\":0}".to_owned()),
        ("no token, and the latest", NOBODY, newest("")),
        ("a wrong one", NOBODY, newest(&"0".repeat(64))),
        ("another user", 1_000, newest("")),
        ("root, who could have read it", 0, newest("")),
    ] {
        let before = refused(&shop.world);
        assert_eq!(ask(&socket, user, &hello), refusal, "{case}: refused, and nothing else");
        wait::until(case, || match refused(&shop.world) {
            now if now == before + 1 => Ok(()),
            now => Err(now),
        });
        assert!(shop.client.tcp("10.96.0.1:80").is_ok(), "{case}: the redirector serves on");
    }
    let token = std::fs::read_to_string(&token_file).unwrap();
    let good = newest(&token);
    for (case, length, hello) in [
        ("longer than any report", (1 << 20) + 1, &*good),
        ("not what a report is written in", 7, "epoch=0"),
        ("of other types", 15, "{\"epoch\":\"now\"}"),
    ] {
        let before = refused(&shop.world);
        let answer = ask_of(&socket, NOBODY, length, hello);
        assert!(answer.is_empty(), "{case}: the connection is closed, and not {answer:?}");
        wait::until(case, || match refused(&shop.world) {
            now if now == before + 1 => Ok(()),
            now => Err(now),
        });
        assert!(shop.client.tcp("10.96.0.1:80").is_ok(), "{case}: the redirector serves on");
    }
    let status = shop.world.sluice(&["status"]);
    assert!(
        text(&status).contains("said to the redirector's socket: a report that is none"),
        "{}",
        text(&status)
    );
    assert!(text(&status).contains("without its token"), "{}", text(&status));
    let nobody = std::thread::spawn(move || {
        let user = Uid::from_raw(NOBODY);
        rustix::thread::set_thread_res_uid(user, user, user).unwrap();
        std::fs::read(token_file).unwrap_err().kind()
    });
    assert_eq!(nobody.join().unwrap(), std::io::ErrorKind::PermissionDenied);
    // With the token the same words are believed: it is what was missing.
    let before = refused(&shop.world);
    let answer = ask(&socket, NOBODY, &format!("{{\"epoch\":0,\"token\":\"{token}\"}}"));
    assert!(
        answer.len() == 4 && answer != refusal && answer != [0; 4],
        "the length of a snapshot: {answer:?}"
    );
    assert_eq!(refused(&shop.world), before);
}

#[test]
fn a_rule_of_any_name_is_reported_and_its_redirector_stays() {
    let mut shop = shop(1);
    let name = "x".repeat(3 << 20);
    let service = manifest::service("cart", &["10.96.0.1"], &["http:80:8080"]);
    shop.world.apply("shop", &service);
    shop.world.apply(
        "rules",
        &format!(
            "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: cart, namespace: shop}}\n\
             spec:\n  hosts: [cart]\n  http:\n  - name: {name}\n    directResponse: {{status: 204}}\n"
        ),
    );
    let ask = |world: &World| curl(world.node(), &["http://10.96.0.1/"]).status;
    wait::until("the rule holds", || match ask(&shop.world) {
        204 => Ok(()),
        other => Err((
            other,
            shop.world.log().lines().last().unwrap_or_default().chars().take(400).collect::<String>(),
        )),
    });
    let row = format!("rule=\"{}\"", &name[..253]);
    let told = |world: &World| {
        let page = curl(world.node(), &["http://127.0.0.1:10249/metrics"]).body;
        let found = page.lines().any(|line| line.contains(&row));
        if found { Ok(()) } else { Err(page.lines().filter(|line| line.contains("requests_total")).count()) }
    };
    wait::until("the row", || told(&shop.world));
    let before = redirectors(&shop.world);
    assert_eq!(before.len(), 1);
    // To the next agent it tells all of its rows at once.
    shop.kill_agent();
    shop.restart_agent();
    wait::until("the row, to another agent", || told(&shop.world));
    assert_eq!(redirectors(&shop.world), before, "it was not told to go");
    assert_eq!(refused(&shop.world), 0);
    assert_eq!(ask(&shop.world), 204);
}
