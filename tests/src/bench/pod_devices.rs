//! What the programs at the pods' devices, which are on by default, cost connections that sockets translate: two nodes,
//! one without them, side by side.

use std::{collections::BTreeMap, net::SocketAddr};

use anyhow::{Result, anyhow};
use serde_json::json;

use super::{Results, medians};
use crate::{
    manifest,
    peer::{Command, Peer},
    world::{Agent, Pod, World},
};

const ROUNDS: u32 = 15;
const EACH: u32 = 1_000;

/// A node, and a client on it.
struct Side {
    client: Peer,
    server: (Pod, Peer),
    _agent: Agent,
    _world: World,
}

impl Side {
    fn start(pod_devices: &str) -> Self {
        let mut world = World::new();
        let server = world.server("server", &[(8080, false), (5353, true)]);
        let pod = world.routed_pod("client");
        let service = manifest::service("cart", &["10.96.0.1"], &["http:80:8080", "dns:53:5353/UDP"]);
        let pod_manifest = manifest::pod("server", "cart", &[&server.0.v4.to_string()]);
        world.apply("shop", &format!("{service}{pod_manifest}"));
        let agent = world.agent_with(&["--pod-devices", pod_devices]);
        Self { client: world.peer(&pod), server, _agent: agent, _world: world }
    }
}

/// Measures TCP and UDP.
pub fn measure(results: &mut Results) -> Result<()> {
    let mut sides = ["none", "auto"].map(|flag| (flag, Side::start(flag)));
    for (protocol, udp) in [("TCP", false), ("UDP", true)] {
        let mut rates: BTreeMap<&'static str, Vec<f64>> = BTreeMap::new();
        for _ in 0..ROUNDS {
            for (flag, side) in &mut sides {
                let direct = SocketAddr::from((side.server.0.v4, if udp { 5353 } else { 8080 }));
                let service = SocketAddr::from(([10, 96, 0, 1], if udp { 53 } else { 80 }));
                for (way, to) in [("direct", direct), ("ClusterIP", service)] {
                    let measured = side
                        .client
                        .measure(&Command::Measure { to, count: EACH, udp })
                        .map_err(|error| anyhow!("dialling {to}: {error}"))?;
                    rates.entry(name(flag, way)).or_default().push(measured.per_second);
                    results.runs.push(json!({"podDevices": flag, "protocol": protocol, "way": way,
                        "perSecond": measured.per_second, "p50Us": measured.p50_us, "p99Us": measured.p99_us}));
                }
            }
        }
        let rates = medians(&rates);
        let bare = rates[name("none", "direct")];
        for way in ["direct", "ClusterIP"] {
            let label = format!("{protocol}, programs at the pods' devices: {way} / direct without");
            let wanted = if way == "direct" { 0.99 } else { 0.97 };
            results.at_least(&label, rates[name("auto", way)] / bare, wanted, "ratio");
        }
        eprintln!("    {protocol}: {rates:.0?}");
    }
    Ok(())
}

fn name(flag: &str, way: &str) -> &'static str {
    match (flag, way) {
        ("none", "direct") => "direct",
        ("none", _) => "ClusterIP",
        (_, "direct") => "direct, programs at devices",
        _ => "ClusterIP, programs at devices",
    }
}
