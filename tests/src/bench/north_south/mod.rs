//! `cargo xtask bench north-south`: packets and connections from outside through a node, against kube-proxy's rules and
//! against nothing but routing.
//!
//! Client, node and backend share one CPU, and costs are CPU time, so that what else the machine does matters little.
//! The node's part of a datagram is what is left after the sender's own: the same flood, dropped the moment that it
//! leaves the client. Packets per second are those that the node's part allows one CPU.

use std::collections::BTreeMap;

use anyhow::{Result, bail};
use serde_json::{Value, json};

use super::{Results, median, one_cpu, packet};

mod assembled;
mod empty;
mod frames;
mod load;
mod targets;
mod ways;

use ways::{Destination, Kind, WAYS, Way};

const ROUNDS: usize = 9;
const SIZES: [u16; 3] = [1, 1_000, 10_000];

/// Name of the way, what was dialled, how many Services.
type Case = (&'static str, Destination, u16);

/// Measured values of each case.
#[derive(Default)]
struct Series(BTreeMap<Case, Vec<f64>>);

impl Series {
    fn add(&mut self, case: Case, value: f64) {
        self.0.entry(case).or_default().push(value);
    }

    fn median(&self, case: Case) -> Option<f64> {
        self.0.get(&case).map(|values| median(values.clone()))
    }

    /// Median and quartiles.
    fn spread(&self, case: Case) -> Value {
        let mut values = self.0.get(&case).cloned().unwrap_or_default();
        values.sort_by(f64::total_cmp);
        let at = |quarter: usize| values.get((values.len().max(1) - 1) * quarter / 4);
        json!({"median": at(2), "low": at(1), "high": at(3)})
    }
}

/// Everything measured, round by round: ns of CPU for a datagram of a socket and for one as a driver's frame, connections per second of CPU, µs of their slowest.
#[derive(Default)]
struct Measures {
    datagrams: Series,
    frames: Series,
    connections: Series,
    latencies: Series,
}

impl Measures {
    /// The node's part of a datagram in each round, ns.
    fn node_ns(&self, case: Case) -> Option<Vec<f64>> {
        less_the_sender(&self.datagrams, case)
    }

    /// The same of datagrams that come as a driver's frames.
    fn node_ns_of_frames(&self, case: Case) -> Option<Vec<f64>> {
        less_the_sender(&self.frames, case)
    }
}

fn less_the_sender(series: &Series, case: Case) -> Option<Vec<f64>> {
    let base = series.0.get(&(BASE, Destination::Pod, case.2))?;
    Some(series.0.get(&case)?.iter().zip(base).map(|(total, base)| total - base).collect())
}

/// How many times as many packets `ours` lets pass as `others`, of costs round by round: what drifts from one round to
/// the next is in both.
fn times_as_many(ours: Option<Vec<f64>>, others: Option<Vec<f64>>) -> Option<f64> {
    Some(median(ours?.into_iter().zip(others?).map(|(ours, others)| others / ours).collect()))
}

const BASE: &str = "sender alone";

/// Runs everything, or the ways of these names.
///
/// # Errors
/// A way leads astray, or its node does not start.
pub fn north_south(names: &[String], mut say: impl FnMut(&str)) -> Result<Results> {
    let mut results = Results::named("north-south");
    one_cpu()?;
    if let Some(unknown) = names.iter().find(|name| WAYS.iter().all(|(way, _)| way != name)) {
        bail!("there is no way {unknown:?}; there are {}", WAYS.map(|(name, _)| name).join(", "));
    }
    let chosen = WAYS.into_iter().filter(|(way, _)| names.is_empty() || names.iter().any(|name| name == way));
    let mut ways = [(BASE, Kind::Base)]
        .into_iter()
        .chain(chosen)
        .map(|(name, kind)| Way::start(name, kind))
        .collect::<Result<Vec<_>>>()?;
    ways.iter().try_for_each(load::count_at_backend)?;
    let mut measures = Measures::default();
    for services in SIZES {
        say(&format!("{services} Services: datagrams and connections, interleaved rounds"));
        for way in &mut ways {
            way.grow_to(services)?;
            for destination in way.destinations() {
                load::prove(way, *destination)?;
                if way.kind != Kind::Base {
                    frames::prove(way, *destination)?;
                }
            }
        }
        for _ in 0..ROUNDS {
            ways.iter_mut().try_for_each(|way| round(way, services, &mut measures))?;
        }
        ways.iter().for_each(|way| report(way, services, &measures, &mut results));
    }
    for way in ways.iter_mut().filter(|way| matches!(way.kind, Kind::Sluice(_) | Kind::EmptyXdp)) {
        programs(way, &measures, &mut results)?;
    }
    targets::add(&measures, &mut results);
    if ways.iter().any(|way| matches!(way.kind, Kind::Sluice(_))) {
        drop(ways);
        say("the programs alone: not ours, new, known, answer");
        results.runs.extend(packet(say)?.runs);
    }
    Ok(results)
}

fn round(way: &mut Way, services: u16, measures: &mut Measures) -> Result<()> {
    for destination in way.destinations() {
        let case = (way.name, *destination, services);
        measures.datagrams.add(case, load::datagram_ns(way, *destination)?);
        measures.frames.add(case, frames::frame_ns(way, *destination)?);
        if way.kind != Kind::Base {
            let measured = load::connections(way, *destination)?;
            measures.connections.add(case, measured.per_cpu_second);
            measures.latencies.add(case, measured.p99_us);
        }
    }
    Ok(())
}

fn report(way: &Way, services: u16, measures: &Measures, results: &mut Results) {
    for destination in way.destinations() {
        let case = (way.name, *destination, services);
        let total = measures.datagrams.median(case).unwrap_or_default();
        let node = measures.node_ns(case).filter(|_| way.kind != Kind::Base).map(median);
        let frames = measures.node_ns_of_frames(case).filter(|_| way.kind != Kind::Base).map(median);
        let (connections, p99) = (measures.connections.median(case), measures.latencies.median(case));
        results.runs.push(json!({
            "services": services, "way": way.name, "destination": destination.name(),
            "datagramNs": measures.datagrams.spread(case), "nodeNs": node, "nodePacketsPerSecond": node.map(|ns| 1e9 / ns),
            "frameNs": measures.frames.spread(case), "nodeNsOfFrames": frames,
            "connectionsPerCpuSecond": measures.connections.spread(case), "p99Us": p99,
        }));
        let mut line = format!("    {:<13} {:<13} {total:>6.0} ns", way.name, destination.name());
        if let (Some(node), Some(frames), Some(connections), Some(p99)) = (node, frames, connections, p99) {
            let per_second = 1e3 / node;
            line += &format!(
                ", the node's {node:>5.0} ns ({per_second:.2} M/s), of frames {frames:>5.0} ns; {connections:>6.0} connections/s (p99 {p99:.0} µs)"
            );
        }
        eprintln!("{line}");
    }
}

/// Where the time of a datagram goes: which programs ran, and what is left for route, redirect and devices.
fn programs(way: &mut Way, measures: &Measures, results: &mut Results) -> Result<()> {
    for destination in way.destinations() {
        let mut sum = 0.0;
        for load::Program { name, runs, ns } in load::programs(way, *destination)? {
            sum += runs * ns;
            eprintln!("    {}, {}: {name} runs {runs:.2} times, {ns:.0} ns", way.name, destination.name());
            results.runs.push(json!({"way": way.name, "destination": destination.name(), "program": name,
                "runsPerDatagram": runs, "nsPerRun": ns}));
        }
        let case = (way.name, *destination, SIZES[SIZES.len() - 1]);
        let node = measures.node_ns(case).map(median).unwrap_or_default();
        let frames = measures.node_ns_of_frames(case).map(median).unwrap_or_default();
        eprintln!(
            "    {}, {}: programs {sum:.0} ns, with what it takes to count that; the rest {:.0} ns, of frames {:.0} ns",
            way.name,
            destination.name(),
            node - sum,
            frames - sum
        );
        results.runs.push(json!({"way": way.name, "destination": destination.name(), "programsNs": sum,
            "restNs": node - sum, "restNsOfFrames": frames - sum}));
    }
    Ok(())
}
