//! The feed of rules is the redirector's: a process of the same user that is none gets nothing, and takes nobody's place.

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

/// What the agent answers to a process of this user that says `hello`.
fn ask(socket: &Path, user: u32, hello: &str) -> Vec<u8> {
    let (socket, hello) = (socket.to_owned(), hello.to_owned());
    // Credentials are a thread's own here.
    let thread = std::thread::spawn(move || {
        let (user, group) = (Uid::from_raw(user), Gid::from_raw(user));
        rustix::thread::set_thread_res_gid(group, group, group).unwrap();
        rustix::thread::set_thread_res_uid(user, user, user).unwrap();
        let mut stream = UnixStream::connect(socket).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let _refused_already =
            stream.write_all(&[&(hello.len() as u32).to_be_bytes(), hello.as_bytes()].concat());
        let mut answer = vec![0; 4];
        stream.read_exact(&mut answer).unwrap();
        answer
    });
    thread.join().unwrap()
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
    let go = vec![0; 4];
    for (case, user, hello) in [
        ("no token", NOBODY, "{\"epoch\":0}".to_owned()),
        ("no token, and the latest", NOBODY, newest("")),
        ("a wrong one", NOBODY, newest(&"0".repeat(64))),
        ("another user", 1_000, newest("")),
        ("root, who could have read it", 0, newest("")),
    ] {
        let before = refused(&shop.world);
        assert_eq!(ask(&socket, user, &hello), go, "{case}: told to go, and nothing else");
        wait::until(case, || match refused(&shop.world) {
            now if now == before + 1 => Ok(()),
            now => Err(now),
        });
        assert!(shop.client.tcp("10.96.0.1:80").is_ok(), "{case}: the redirector serves on");
    }
    let status = shop.world.sluice(&["status"]);
    assert!(text(&status).contains("without its token"), "{}", text(&status));
    let token = std::fs::read_to_string(&token_file).unwrap();
    let nobody = std::thread::spawn(move || {
        let user = Uid::from_raw(NOBODY);
        rustix::thread::set_thread_res_uid(user, user, user).unwrap();
        std::fs::read(token_file).unwrap_err().kind()
    });
    assert_eq!(nobody.join().unwrap(), std::io::ErrorKind::PermissionDenied);
    // With the token the same words are believed: it is what was missing.
    let before = refused(&shop.world);
    let answer = ask(&socket, NOBODY, &format!("{{\"epoch\":0,\"token\":\"{token}\"}}"));
    assert_ne!(answer, go, "the length of a snapshot");
    assert_eq!(refused(&shop.world), before);
}
