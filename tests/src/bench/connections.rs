//! Connect-request-response through a ClusterIP, past the hooks, and where there are no hooks at all.

use std::{collections::BTreeMap, net::SocketAddr};

use anyhow::{Result, anyhow};
use serde_json::json;

use super::{Cluster, ProxyNode, Results, medians};
use crate::peer::{Command, Measured, Peer};

const ROUNDS: u32 = 15;
const EACH: u32 = 1_000;

/// Measures TCP and UDP at this size of the cluster.
pub fn measure(
    cluster: &mut Cluster,
    proxies: &mut [ProxyNode],
    services: u32,
    results: &mut Results,
) -> Result<()> {
    for (protocol, udp) in [("TCP", false), ("UDP", true)] {
        let mut rates: BTreeMap<&'static str, Vec<f64>> = BTreeMap::new();
        let mut latencies: BTreeMap<&'static str, Vec<f64>> = BTreeMap::new();
        let (direct, service) = (cluster.direct(udp), cluster.service(udp));
        let [first, second, third] =
            [("direct, no hooks", direct), ("direct, past the hooks", direct), ("ClusterIP", service)];
        let mut note = |name: &'static str, measured: Measured| {
            rates.entry(name).or_default().push(measured.per_second);
            latencies.entry(name).or_default().push(measured.p99_us);
            results.runs.push(json!({"services": services, "protocol": protocol, "way": name,
                "perSecond": measured.per_second, "p50Us": measured.p50_us, "p99Us": measured.p99_us}));
        };
        for _ in 0..ROUNDS {
            for (name, to) in [first, second, third] {
                let peer = if name == first.0 { &mut cluster.clean } else { &mut cluster.client };
                note(name, run(peer, to, udp)?);
            }
            for proxy in proxies.iter_mut() {
                let to = proxy.service(udp);
                note(proxy.mode.name(), run(&mut proxy.client, to, udp)?);
            }
        }
        let (rates, latencies) = (medians(&rates), medians(&latencies));
        let (direct, past, service) = (rates[first.0], rates[second.0], rates[third.0]);
        let label = |what: &str| format!("{protocol}, {services} Services: {what}");
        results.at_least(&label("ClusterIP / direct"), service / direct, 0.97, "ratio");
        results.at_least(&label("not ours / direct"), past / direct, 0.99, "ratio");
        for proxy in proxies.iter() {
            let name = proxy.mode.name();
            results.at_least(&label(&format!("ClusterIP / {name}")), service / rates[name], 1.0, "ratio");
            eprintln!("    {protocol}: {name} {:.0}/s (p99 {:.0} µs)", rates[name], latencies[name]);
        }
        eprintln!(
            "    {protocol}: direct {direct:.0}/s (p99 {:.0} µs), past the hooks {past:.0}/s, ClusterIP {service:.0}/s (p99 {:.0} µs)",
            latencies[first.0], latencies[third.0]
        );
    }
    Ok(())
}

fn run(peer: &mut Peer, to: SocketAddr, udp: bool) -> Result<Measured> {
    peer.measure(&Command::Measure { to, count: EACH, udp })
        .map_err(|error| anyhow!("dialling {to}: {error}"))
}
