//! The time of day jumps: agent and redirector go on, and in the end the maps say what a fresh start would have written. The
//! agent's clock is libfaketime's, for this machine's own is everybody's.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::{fs, os::unix::fs::PermissionsExt as _, path::PathBuf};

use serde_json::json;
use sluice_tests::{
    canonical,
    cluster::Cluster,
    manifest, wait,
    world::{sluice_binary, tool_path},
};

/// What a clock says before and after, and where it goes meanwhile.
const STEPS: [&str; 5] = ["+3d", "-10d", "+0", "-20y", "+1y"];

/// The library beside that program.
fn library() -> PathBuf {
    let root = PathBuf::from(tool_path("faketime"));
    let root = root.ancestors().nth(3).expect("a folder above usr/bin");
    let name = format!("usr/lib/{}-linux-gnu/faketime/libfaketime.so.1", std::env::consts::ARCH);
    let file = root.join(name);
    assert!(file.is_file(), "{} is not there: install the package libfaketime", file.display());
    file
}

#[test]
fn a_clock_that_jumps_moves_nothing_and_the_next_token_is_read() {
    let mut cluster = Cluster::new();
    let folder = cluster.world.folder().to_owned();
    let (clock, token, script) = (folder.join("clock"), folder.join("token"), folder.join("sluice"));
    let set_clock = |step: &str| {
        fs::write(folder.join("next"), format!("{step}\n")).unwrap();
        fs::rename(folder.join("next"), &clock).unwrap();
    };
    set_clock("+0");
    let variables = "FAKETIME_NO_CACHE=1 FAKETIME_DONT_FAKE_MONOTONIC=1 DONT_FAKE_MONOTONIC=1";
    let (library, binary) = (library().display().to_string(), sluice_binary().display().to_string());
    let text = format!(
        "#!/bin/sh\nexec env LD_PRELOAD={library} FAKETIME_TIMESTAMP_FILE={} {variables} {binary} \"$@\"\n",
        clock.display()
    );
    fs::write(&script, text).unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    let mut config: serde_json::Value =
        serde_json::from_slice(&fs::read(cluster.api.kubeconfig()).unwrap()).unwrap();
    config["users"][0]["user"] = json!({"tokenFile": token});
    let kubeconfig = folder.join("with-token");
    fs::write(&kubeconfig, config.to_string()).unwrap();
    fs::write(&token, "first").unwrap();
    cluster.api.want_token("first");
    cluster.cart(1);
    let kubeconfig = kubeconfig.display().to_string();
    let agent = cluster.world.spawn_other_agent(&script, &["--kubeconfig", &kubeconfig]);
    cluster.world.wait_healthy();
    cluster.world.wait_verdict("10.96.0.1:80", "translate", 1);
    for (round, step) in STEPS.into_iter().enumerate() {
        // The token is another one from now on, as after an hour of a service account's.
        let next = format!("token-{round}");
        fs::write(&token, &next).unwrap();
        cluster.api.want_token(&next);
        set_clock(step);
        cluster.api.drop_watches();
        let (count, ip) = (1 + (round + 1) % 2, format!("10.96.1.{round}"));
        let slice = cluster.slice("cart", count, &[]);
        cluster.api.apply(&slice);
        cluster.api.apply(&manifest::service(&format!("more-{round}"), &[&ip], &["http:80:8080"]));
        wait::until_within(std::time::Duration::from_secs(90), step, || {
            let answer = cluster.world.json(&["explain", "10.96.0.1:80"]);
            let right = answer["endpoints"].as_array().map(Vec::len) == Some(count);
            if right { Ok(()) } else { Err((answer, cluster.world.log())) }
        });
        cluster.world.wait_verdict(&format!("{ip}:80"), "reject", 0);
        cluster.world.wait_healthy();
        assert!(cluster.client.tcp("10.96.0.1:80").is_ok(), "{step}");
    }
    let contents = || {
        wait::until("maps at rest", || {
            canonical::contents(&cluster.world).map_err(|error| format!("{error:#}"))
        })
    };
    let after = contents();
    drop(agent);
    assert!(cluster.world.sluice(&["cleanup"]).status.success());
    let _fresh = cluster.world.spawn_agent(&["--kubeconfig", &kubeconfig]);
    wait::until("the contents of a fresh start", || {
        let difference = canonical::difference(&after, &contents());
        if difference.is_empty() { Ok(()) } else { Err(difference) }
    });
}
