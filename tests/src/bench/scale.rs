//! The agent as a process, fed by an API server: from cold, and under a hundred changes of endpoints per second.

use std::{
    collections::BTreeSet,
    net::Ipv4Addr,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use serde_json::json;
use sluice::maps::{Pins, bpf::BpfMaps};
use sluice_common::layout::{FrontendKey, TCP};

use super::Results;
use crate::{
    apiserver::ApiServer,
    wait,
    world::{Agent, World},
};

const ENDPOINTS: u32 = 10;
const CHANGES_PER_SECOND: u32 = 100;
const MINUTE: u32 = 60;
const DEADLINE: Duration = Duration::from_secs(10);
/// Room for the largest.
const FLAGS: [&str; 10] = [
    "--max-services",
    "131072",
    "--max-frontends",
    "131072",
    "--max-slots",
    "1048576",
    "--max-backends",
    "524288",
    "--pod-devices",
    "none",
];

/// Runs everything.
///
/// # Errors
/// The agent does not come up, or a change does not arrive.
pub fn scale(mut say: impl FnMut(&str)) -> Result<Results> {
    let mut results = Results::named("scale");
    let mut cpu_of_a_change = Vec::new();
    for services in [1_000, 10_000, 30_000] {
        say(&format!("{services} Services with {} endpoints: from cold", services * ENDPOINTS));
        let mut side = Side::start(services)?;
        let rate = f64::from(services * ENDPOINTS) / side.cold.as_secs_f64();
        eprintln!(
            "    {:.2} s, {rate:.0} endpoints per second, {:.0} MB, {:.2} s of CPU",
            side.cold.as_secs_f64(),
            side.resident()? / 1e6,
            side.cpu()?
        );
        results.runs.push(json!({"services": services, "coldSeconds": side.cold.as_secs_f64(),
            "residentBytes": side.resident()?, "cpuSeconds": side.cpu()?}));
        if services == 10_000 {
            results.at_least("10,000 Services, 100,000 endpoints: from cold", rate, 50_000.0, "/s");
        }
        say(&format!(
            "{services} Services: {CHANGES_PER_SECOND} changes of endpoints per second for a minute"
        ));
        let minute = side.minute()?;
        eprintln!(
            "    p50 {:.2} ms, p99 {:.2} ms, {:.2} % of a core, {:.0} changes per second",
            minute.p50_ms,
            minute.p99_ms,
            minute.core * 100.0,
            minute.rate
        );
        results.runs.push(json!({"services": services, "p50Ms": minute.p50_ms, "p99Ms": minute.p99_ms,
            "core": minute.core, "changesPerSecond": minute.rate}));
        let label = |what: &str| format!("{services} Services: {what}");
        results.at_most(&label("from event to map, p99"), minute.p99_ms, 10.0, "ms");
        results.at_most(&label("share of a core at 100 changes/s"), minute.core, 0.05, "cores");
        cpu_of_a_change.push(minute.core / minute.rate);
    }
    let growth = cpu_of_a_change[2] / cpu_of_a_change[0];
    results.at_most("CPU of a change, 30,000 Services / 1,000", growth, 1.2, "ratio");
    Ok(results)
}

/// A node on a cluster of that size.
struct Side {
    cold: Duration,
    agent: Agent,
    maps: BpfMaps,
    api: ApiServer,
    services: u32,
    _world: World,
}

struct Minute {
    p50_ms: f64,
    p99_ms: f64,
    core: f64,
    rate: f64,
}

impl Side {
    fn start(services: u32) -> Result<Self> {
        let world = World::new();
        let api = ApiServer::start(&world);
        for number in 0..services {
            api.put(service(number));
            api.put(slice(number, ENDPOINTS));
        }
        let begun = Instant::now();
        let kubeconfig = api.kubeconfig();
        let agent = world.spawn_agent(&[&["--kubeconfig", &kubeconfig], &FLAGS[..]].concat());
        wait::until_within(Duration::from_secs(120), "everything is in the maps", || {
            let status = world.json(&["status"]);
            if status["healthy"] == true { Ok(()) } else { Err(status["problems"].clone()) }
        });
        let whole = begun.elapsed();
        let maps = BpfMaps::open(&Pins::at(&world.bpffs()))?;
        let side = Self { cold: whole, agent, maps, api, services, _world: world };
        if side.count(services - 1)? != ENDPOINTS {
            bail!("the last Service is not in the maps");
        }
        Ok(side)
    }

    /// Endpoints that the maps have for that Service.
    fn count(&self, number: u32) -> Result<u32> {
        let addr = std::net::IpAddr::from(cluster_ip(number)).into();
        let key = FrontendKey { addr, port_be: 80_u16.to_be(), protocol: TCP, scope: 0 };
        let tables = self.maps.dump_of(&BTreeSet::from([key]))?;
        Ok(tables.frontends.get(&key).map_or(0, |value| value.cluster_count))
    }

    fn minute(&mut self) -> Result<Minute> {
        let changes = CHANGES_PER_SECOND * MINUTE;
        let (begun, cpu) = (Instant::now(), self.cpu()?);
        let mut took = Vec::new();
        for change in 0..changes {
            let at = begun + Duration::from_secs(1) / CHANGES_PER_SECOND * change;
            std::thread::sleep(at.saturating_duration_since(Instant::now()));
            // Over all Services in turn, one endpoint fewer or back.
            let number = change * 7 % self.services;
            let want = if self.count(number)? == ENDPOINTS { ENDPOINTS - 1 } else { ENDPOINTS };
            self.api.put(slice(number, want));
            took.push(self.wait(number, want)?.as_secs_f64() * 1e3);
        }
        let whole = begun.elapsed().as_secs_f64();
        took.sort_by(f64::total_cmp);
        let share = |share: usize| took[(took.len() - 1) * share / 100];
        let core = (self.cpu()? - cpu) / whole;
        Ok(Minute { p50_ms: share(50), p99_ms: share(99), core, rate: f64::from(changes) / whole })
    }

    fn wait(&self, number: u32, want: u32) -> Result<Duration> {
        let begun = Instant::now();
        while self.count(number)? != want {
            if begun.elapsed() > DEADLINE {
                bail!("a change of Service {number} is not in the maps after {DEADLINE:?}");
            }
            std::thread::sleep(Duration::from_micros(50));
        }
        Ok(begun.elapsed())
    }

    fn resident(&self) -> Result<f64> {
        let text = std::fs::read_to_string(format!("/proc/{}/status", self.agent.pid()))?;
        let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
        let kib: f64 = line.split_whitespace().next().context("no number")?.parse()?;
        Ok(kib * 1024.0)
    }

    /// Seconds of CPU that the agent has taken.
    fn cpu(&self) -> Result<f64> {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.agent.pid()))?;
        let mut ns = 0.0;
        for task in tasks.flatten() {
            let text = std::fs::read_to_string(task.path().join("schedstat"))?;
            ns += text.split(' ').next().context("no number")?.parse::<f64>()?;
        }
        Ok(ns / 1e9)
    }
}

fn cluster_ip(number: u32) -> Ipv4Addr {
    Ipv4Addr::from(0x0a60_0001 + number)
}

fn service(number: u32) -> serde_json::Value {
    let address = cluster_ip(number).to_string();
    json!({"apiVersion": "v1", "kind": "Service",
        "metadata": {"name": format!("service-{number}"), "namespace": "bench"},
        "spec": {"clusterIP": address, "clusterIPs": [address],
            "ports": [{"name": "http", "port": 80, "targetPort": 8080, "protocol": "TCP"}]}})
}

fn slice(number: u32, endpoints: u32) -> serde_json::Value {
    let endpoint = |index: u32| {
        let address = Ipv4Addr::from(0x0b00_0000 + number * 16 + index);
        json!({"addresses": [address], "conditions": {"ready": true}, "nodeName": format!("node-{}", index % 100)})
    };
    json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": format!("service-{number}-1"), "namespace": "bench",
            "labels": {"kubernetes.io/service-name": format!("service-{number}")}},
        "addressType": "IPv4", "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
        "endpoints": (0..endpoints).map(endpoint).collect::<Vec<_>>()})
}
