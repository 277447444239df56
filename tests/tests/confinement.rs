//! The redirector's filter of system calls: what it refuses, what ends the process, what goes on; and that the redirector
//! that serves is under it, with each of its threads.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::{fs, os::unix::process::ExitStatusExt as _, process::Command};

use sluice_tests::{manifest, shop::shop, wait, world::World};

/// What becomes of an attempt: its text, or the signal that ended it.
fn attempt(how: &str, what: &str) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_sluice-attempt")).args([how, what]).output().unwrap();
    match output.status.signal() {
        Some(signal) => format!("signal {signal}"),
        None => String::from_utf8(output.stdout).unwrap().trim().to_owned(),
    }
}

#[test]
fn what_only_an_intruder_would_call_ends_the_process() {
    for what in ["execve", "ptrace", "mount", "umount", "setns", "bpf"] {
        assert_eq!(attempt("enforce", what), "signal 31", "{what}");
        assert!(!attempt("off", what).starts_with("signal"), "{what}: the filter is what ends it");
    }
}

#[test]
fn what_the_redirector_does_not_need_is_refused() {
    for what in [
        "process",
        "packet socket",
        "raw socket",
        "netlink of netfilter",
        "write a file",
        "make a file",
        "another's signal",
        "a limit",
    ] {
        let refused = "Operation not permitted (os error 1)";
        assert_eq!(attempt("enforce", what), refused, "{what}");
        assert_ne!(attempt("off", what), refused, "{what}: the filter is what refuses");
    }
}

#[test]
fn what_the_redirector_needs_goes_on() {
    for what in ["serve", "datagram", "thread", "resolve", "read a file", "memory"] {
        assert_eq!(attempt("enforce", what), "done", "{what}");
    }
}

/// The redirector of this world's agent.
fn redirector(world: &World) -> Option<String> {
    let pids = fs::read_to_string(world.node().cgroup.join("cgroup.procs")).unwrap();
    let is_it = |pid: &&str| {
        let words = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        words.contains("\0redirector\0")
    };
    pids.lines().find(is_it).map(str::to_owned)
}

#[test]
fn every_thread_of_the_redirector_that_serves_is_under_the_filter() {
    let rules = "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\n\
        metadata: {name: cart, namespace: shop}\nspec:\n  hosts: [cart]\n  tcp:\n\
        \x20 - match: [{destinationSubnets: [0.0.0.0/0]}]\n    route: [{destination: {host: cart}}]\n";
    let shop = shop(1);
    shop.world.apply("shop", &manifest::service("cart", &["10.96.0.1"], &["tcp:80:8080"]));
    shop.world.apply("rules", rules);
    wait::until("the redirector serves", || {
        let rows = shop.world.json(&["frontend"]);
        if rows.as_array().unwrap().iter().any(|row| row["path"] == "redirector") {
            Ok(())
        } else {
            Err(rows)
        }
    });
    let pid = redirector(&shop.world).unwrap();
    let tasks: Vec<_> = fs::read_dir(format!("/proc/{pid}/task")).unwrap().map(Result::unwrap).collect();
    assert!(tasks.len() > 1, "workers");
    for task in tasks {
        let status = fs::read_to_string(task.path().join("status")).unwrap();
        for line in ["NoNewPrivs:\t1", "Seccomp:\t2", "Seccomp_filters:\t3"] {
            assert!(status.lines().any(|found| found == line), "{line}: {status}");
        }
    }
}
