//! Writes to maps that the kernel refuses: the node serves what it served, says so, and comes to what a fresh start would have
//! written once the kernel takes them again. A library in front of the C library's `syscall` refuses in the kernel's place.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use sluice_tests::{
    canonical,
    cluster::Cluster,
    http::curl,
    manifest, wait,
    world::{World, sluice_binary},
};

/// BPF_MAP_UPDATE_ELEM is 2, BPF_MAP_DELETE_ELEM 3: bpf(2). While the file is there, both fail, each second call or all.
const SHIM: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

long syscall(long number, ...) {
    static long (*real)(long, ...);
    static unsigned calls;
    va_list list;
    long a[6];
    va_start(list, number);
    for (int i = 0; i < 6; i++) a[i] = va_arg(list, long);
    va_end(list);
    if (!real) real = (long (*)(long, ...))dlsym(RTLD_NEXT, "syscall");
    if (number == SYS_bpf && (a[0] == 2 || a[0] == 3)) {
        const char *all = getenv("REFUSE_ALL"), *half = getenv("REFUSE_HALF");
        if ((all && access(all, F_OK) == 0) || (half && access(half, F_OK) == 0 && calls++ % 2)) {
            errno = ENOMEM;
            return -1;
        }
    }
    return real(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}
"#;

/// A program that runs the agent behind the shim, and the files that make it refuse all writes, or each second one.
fn refusing(folder: &Path) -> (PathBuf, PathBuf, PathBuf) {
    let (source, library, script) = (folder.join("shim.c"), folder.join("shim.so"), folder.join("sluice"));
    fs::write(&source, SHIM).unwrap();
    let output = Command::new("cc")
        .args(["-shared", "-fPIC", "-O1", "-o"])
        .args([&library, &source])
        .arg("-ldl")
        .output()
        .unwrap();
    assert!(output.status.success(), "cc: {}", String::from_utf8_lossy(&output.stderr));
    let (all, half) = (folder.join("refuse-all"), folder.join("refuse-half"));
    let text = format!(
        "#!/bin/sh\nexec env LD_PRELOAD={} REFUSE_ALL={} REFUSE_HALF={} {} \"$@\"\n",
        library.display(),
        all.display(),
        half.display(),
        sluice_binary().display()
    );
    fs::write(&script, text).unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    (script, all, half)
}

fn contents(world: &World) -> Vec<String> {
    wait::until("maps at rest", || canonical::contents(world).map_err(|error| format!("{error:#}")))
}

#[test]
fn writes_that_the_kernel_refuses_are_told_and_made_up_for() {
    let mut cluster = Cluster::new();
    let (script, all, half) = refusing(cluster.world.folder());
    let kubeconfig = cluster.api.kubeconfig();
    cluster.cart(1);
    let health =
        |world: &World, path: &str| curl(world.node(), &[&format!("http://127.0.0.1:10256{path}")]).status;
    let agent =
        cluster.world.spawn_other_agent(&script, &["--kubeconfig", &kubeconfig, "--sync-timeout", "2"]);
    cluster.world.wait_healthy();
    cluster.world.wait_verdict("10.96.0.1:80", "translate", 1);

    fs::write(&all, "").unwrap();
    let more = cluster.slice("cart", 2, &[]);
    let client = &mut cluster.client;
    cluster.api.apply(&more);
    cluster.api.apply(&manifest::service("late", &["10.96.0.9"], &["http:80:8080"]));
    wait::until("status and health say what the kernel refuses", || {
        let problems = cluster.world.json(&["status"])["problems"].to_string();
        let told =
            problems.contains("cannot write to ") && problems.contains("refused writes to the maps for");
        assert!(client.tcp("10.96.0.1:80").is_ok(), "what is in the maps serves on");
        let codes = (health(&cluster.world, "/healthz"), health(&cluster.world, "/livez"));
        if told && codes == (503, 503) { Ok(()) } else { Err((problems, codes)) }
    });
    let page = curl(cluster.world.node(), &["http://127.0.0.1:10249/metrics"]).body;
    assert!(page.contains("sluice_map_write_failures_total{map="), "{page}");
    fs::remove_file(&all).unwrap();
    cluster.world.wait_verdict("10.96.0.1:80", "translate", 2);
    cluster.world.wait_verdict("10.96.0.9:80", "reject", 0);
    wait::until("health again", || match health(&cluster.world, "/healthz") {
        200 => Ok(()),
        code => Err(code),
    });

    fs::write(&half, "").unwrap();
    for round in 0..12 {
        let (count, ip) = (1 + round % 2, format!("10.96.1.{round}"));
        let slice = cluster.slice("cart", count, &[]);
        cluster.api.apply(&slice);
        cluster.api.apply(&manifest::service(&format!("more-{}", round % 4), &[&ip], &["http:80:8080"]));
        assert!(cluster.client.tcp("10.96.0.1:80").is_ok(), "round {round}");
    }
    wait::until("some writes were refused", || {
        let page = curl(cluster.world.node(), &["http://127.0.0.1:10249/metrics"]).body;
        let refused =
            page.lines().filter(|line| line.starts_with("sluice_map_write_failures_total{")).count();
        if refused > 1 { Ok(()) } else { Err(page) }
    });
    fs::remove_file(&half).unwrap();
    cluster.world.wait_healthy();
    let after = contents(&cluster.world);
    drop(agent);
    assert!(cluster.world.sluice(&["cleanup"]).status.success());
    let _fresh = cluster.world.spawn_agent(&["--kubeconfig", &kubeconfig]);
    wait::until("the contents of a fresh start", || {
        let difference = canonical::difference(&after, &contents(&cluster.world));
        if difference.is_empty() { Ok(()) } else { Err(difference) }
    });
}
