//! `cargo xtask bench east-west` (and `l7`, `north-south`, `packet`, `scale` in their files): what a Service costs a socket, and what a cluster costs the agent.
//! One run, one topology, interleaved rounds, medians. Never a timed test.

use std::collections::BTreeMap;

use anyhow::Result;
use serde_json::{Value, json};

mod choice;
mod cluster;
mod connections;
mod kube_proxy;
mod l7;
mod north_south;
mod packet;
mod pod_devices;
mod scale;

pub use cluster::Cluster;
pub use kube_proxy::{Mode, ProxyNode, Rule};
pub use l7::{hold, l7};
pub use north_south::north_south;
pub use packet::packet;
pub use scale::scale;

/// Something that was wanted, and what came of it.
#[derive(Clone, Debug)]
pub struct Target {
    name: String,
    value: f64,
    wanted: f64,
    unit: &'static str,
    /// Whether more is better.
    at_least: bool,
}

impl Target {
    fn met(&self) -> bool {
        if self.at_least { self.value >= self.wanted } else { self.value <= self.wanted }
    }

    fn json(&self) -> Value {
        let rounded = (self.value * 1000.0).round() / 1000.0;
        json!({"name": self.name, "value": rounded, "wanted": self.wanted, "unit": self.unit, "met": self.met()})
    }

    fn line(&self) -> String {
        let (sign, met) = (if self.at_least { "≥" } else { "≤" }, if self.met() { "met" } else { "MISSED" });
        format!(
            "{:<58} {:>10.3} {:<6} wanted {sign} {:<6} {met}\n",
            self.name, self.value, self.unit, self.wanted
        )
    }
}

/// Everything that was measured.
#[derive(Debug, Default)]
pub struct Results {
    bench: &'static str,
    targets: Vec<Target>,
    runs: Vec<Value>,
}

impl Results {
    fn named(bench: &'static str) -> Self {
        Self { bench, ..Self::default() }
    }

    fn at_least(&mut self, name: &str, value: f64, wanted: f64, unit: &'static str) {
        self.targets.push(Target { name: name.to_owned(), value, wanted, unit, at_least: true });
    }

    fn at_most(&mut self, name: &str, value: f64, wanted: f64, unit: &'static str) {
        self.targets.push(Target { name: name.to_owned(), value, wanted, unit, at_least: false });
    }

    /// The targets for people.
    pub fn table(&self) -> String {
        self.targets.iter().map(Target::line).collect()
    }

    /// The last line for scripts.
    pub fn json(&self) -> Value {
        let targets: Vec<Value> = self.targets.iter().map(Target::json).collect();
        json!({ "bench": self.bench, "targets": targets, "runs": self.runs })
    }
}

/// Runs everything.
///
/// # Errors
/// The topology cannot be made, or the programs do not load.
pub fn east_west(mut say: impl FnMut(&str)) -> Result<Results> {
    let mut results = Results::named("east-west");
    one_cpu()?;
    let mut cluster = Cluster::start()?;
    let mut proxies = [Mode::Nftables, Mode::Iptables].map(ProxyNode::start);
    for services in [1, 1_000, 10_000] {
        say(&format!("{services} Services: connections, interleaved rounds"));
        cluster.grow_to(services, 1)?;
        proxies.iter().try_for_each(|proxy| proxy.grow_to(services))?;
        connections::measure(&mut cluster, &mut proxies, services, &mut results)?;
    }
    drop((cluster, proxies));
    say("the programs at the pods' devices");
    pod_devices::measure(&mut results)?;
    say("10,000 Services with 100,000 endpoints: programming");
    cluster::programming(&mut results)?;
    Ok(results)
}

/// Client, server and kernel on one CPU. Across CPUs a round trip is a wake-up of an idle CPU or is none, as the
/// scheduler likes, and on a virtual machine that is worth thirty times what a hook costs.
fn one_cpu() -> Result<()> {
    let mut set = rustix::thread::CpuSet::new();
    set.set(0);
    Ok(rustix::thread::sched_setaffinity(None, &set)?)
}

/// The middle of `values`; 0 if there are none.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

/// Medians by name.
fn medians(rounds: &BTreeMap<&'static str, Vec<f64>>) -> BTreeMap<&'static str, f64> {
    rounds.iter().map(|(name, values)| (*name, median(values.clone()))).collect()
}
