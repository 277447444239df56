//! A list of 100,000 objects, streamed: what it takes, and that connections go on while it is listed anew.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use serde_json::json;
use sluice_tests::{canonical, cluster::Cluster, manifest, wait};

const SLICES: u32 = 100_000;
const SERVICES: u32 = 2_000;
/// The unoptimised agent on a busy machine needs a third of it.
const PATIENCE: Duration = Duration::from_secs(180);
/// The unoptimised agent on x86-64 takes half of it, at the listing that replaces another.
const MOST_BYTES: u64 = 1 << 30;

/// What the agent had at most.
fn peak(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}

fn programmed(cluster: &Cluster, address: &str, wanted: usize) {
    wait::until_within(PATIENCE, address, || {
        let output = cluster.world.sluice(&["explain", address, "-o", "json"]);
        let answer: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        let count = answer["endpoints"].as_array().map(Vec::len);
        if count == Some(wanted) { Ok(()) } else { Err((count, cluster.world.log())) }
    });
}

#[test]
fn a_hundred_thousand_slices_are_listed_and_listed_anew_without_a_gap() {
    let mut cluster = Cluster::new();
    cluster.api.version(34, false);
    cluster.cart(1);
    for number in 0..SERVICES {
        let [.., high, low] = number.to_be_bytes();
        let service = manifest::service(
            &format!("large-{number}"),
            &[&format!("10.100.{high}.{low}")],
            &["http:80:8080"],
        );
        cluster.api.apply(&service);
    }
    for number in 0..SLICES {
        let [_, a, b, c] = number.to_be_bytes();
        let service = format!("large-{}", number % SERVICES);
        cluster.api.put(json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {"namespace": "shop", "name": format!("slice-{number}"),
                "labels": {"kubernetes.io/service-name": service}},
            "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
            "endpoints": [{"addresses": [format!("10.{}.{b}.{c}", 128 + a)], "conditions": {"ready": true},
                "nodeName": format!("node-{}", number % 1_000)}],
        }));
    }
    let start = Instant::now();
    let agent = cluster.spawn();
    let per_service = (SLICES / SERVICES) as usize;
    programmed(&cluster, "10.100.7.207:80", per_service);
    wait::until_within(PATIENCE, "a healthy agent", || {
        let status = cluster.world.json(&["status"]);
        if status["healthy"] == true { Ok(()) } else { Err(status["problems"].clone()) }
    });
    let first = peak(agent.pid());
    println!("{SLICES} slices: {:.1} s, {} MB at most", start.elapsed().as_secs_f64(), first >> 20);
    let fewer = cluster.slice("large-0", 2, &[]).replace("large-0-1", "slice-0");
    let streams = cluster.api.streams();
    let start = Instant::now();
    cluster.never_fails(|api, world| {
        api.compact();
        api.drop_watches();
        api.apply(&fewer);
        wait::until_within(PATIENCE, "the list anew", || {
            let count = world.json(&["explain", "10.100.0.0:80"])["endpoints"].as_array().map(Vec::len);
            if count == Some(per_service + 1) { Ok(()) } else { Err(count) }
        });
    });
    assert!(cluster.api.streams() > streams, "it was listed anew");
    let second = peak(agent.pid());
    println!("listed anew: {:.1} s, {} MB at most", start.elapsed().as_secs_f64(), second >> 20);
    assert!(second < MOST_BYTES, "{second} bytes");
    let contents = || {
        wait::until_within(PATIENCE, "maps at rest", || {
            canonical::contents(&cluster.world).map_err(|error| format!("{error:#}"))
        })
    };
    let after = contents();
    assert!(after.len() > SLICES as usize / 2, "{} entries", after.len());
    drop(agent);
    assert!(cluster.world.sluice(&["cleanup"]).status.success());
    let _fresh = cluster.spawn();
    programmed(&cluster, "10.100.0.0:80", per_service + 1);
    wait::until_within(PATIENCE, "the contents of a fresh start", || {
        // By sets: there are very many.
        let fresh = contents();
        let (left, right): (BTreeSet<_>, BTreeSet<_>) = (after.iter().collect(), fresh.iter().collect());
        let first = left.symmetric_difference(&right).next();
        if first.is_none() && after.len() == fresh.len() {
            Ok(())
        } else {
            Err((first.cloned().cloned(), after.len(), fresh.len()))
        }
    });
}
