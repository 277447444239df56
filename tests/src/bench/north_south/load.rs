//! What is done to a way through a node, and what that costs.

use std::{collections::BTreeMap, process::Stdio};

use anyhow::{Context as _, Result, anyhow, bail};
use aya::programs::loaded_programs;

use super::ways::{Destination, Kind, Way};
use crate::{
    flood::{Flood, PAYLOAD},
    peer::{Command, Measured},
    world::tool_path,
};

/// Source ports of the datagrams.
const FLOWS: u16 = 64;
const FLOOD_MILLIS: u64 = 200;
const PROOF_MILLIS: u64 = 30;
const CONNECTIONS: u32 = 400;
/// Headers of IPv4 and UDP.
const HEADERS: usize = 28;

/// Counts what a flood brings to the backend and drops it there.
pub fn count_at_backend(way: &Way) -> Result<()> {
    let bytes = PAYLOAD + HEADERS;
    let rules = format!(
        "table netdev sink {{ chain sink {{ type filter hook ingress device eth0 priority 0; \
         ip daddr {} ip length {bytes} udp dport 5353 counter drop; }}; }}",
        way.line.backend.v4
    );
    nft(way, &[&rules]).map(drop)
}

fn nft(way: &Way, words: &[&str]) -> Result<String> {
    let mut command = way.line.backend.command(&tool_path("nft"));
    let output = command.args(words).stdin(Stdio::null()).output()?;
    if !output.status.success() {
        bail!("nft {}: {}", words.join(" "), String::from_utf8_lossy(&output.stderr));
    }
    Ok(String::from_utf8(output.stdout)?)
}

/// Datagrams that came to the backend so far.
pub fn counted(way: &Way) -> Result<u64> {
    let text = nft(way, &["list", "table", "netdev", "sink"])?;
    let mut words = text.split_whitespace().skip_while(|word| *word != "packets");
    Ok(words.nth(1).context("nft shows no counter")?.parse()?)
}

/// Asks the backend over both protocols, then floods it for a moment: whoever does not lead everything to it is not
/// measured.
///
/// # Errors
/// That is so.
pub fn prove(way: &mut Way, destination: Destination) -> Result<()> {
    let place = format!("{}, {}", way.name, destination.name());
    for (udp, dial) in [(false, crate::shop::TCP), (true, crate::shop::UDP)] {
        let to = way.address(destination, udp).to_string();
        let answer = dial(&mut way.client, &to).map_err(|error| anyhow!("{place}: {to}: {error}"))?;
        if answer.by != way.line.backend.name {
            bail!("{place}: {to}: {:?} answers", answer.by);
        }
    }
    let before = counted(way)?;
    let sent = flood(way, destination, PROOF_MILLIS)?.sent;
    let arrived = counted(way)? - before;
    if (arrived as f64) < sent as f64 * 0.999 || arrived > sent {
        bail!("{place}: {arrived} of {sent} datagrams arrived");
    }
    Ok(())
}

fn flood(way: &mut Way, destination: Destination, millis: u64) -> Result<Flood> {
    let to = way.address(destination, true);
    let flood = way.client.flood(&Command::Flood { to, flows: FLOWS, millis, cpu: 0 });
    flood.map_err(|error| anyhow!("{}: flooding {to}: {error}", way.name))
}

/// CPU time for one datagram from the sender's call until the node has sent it, ns.
pub fn datagram_ns(way: &mut Way, destination: Destination) -> Result<f64> {
    let base = way.kind == Kind::Base;
    if base {
        way.line.open_node(false)
    } else {
        way.line.open_backend(false)
    }
    let flood = flood(way, destination, FLOOD_MILLIS);
    if base {
        way.line.open_node(true)
    } else {
        way.line.open_backend(true)
    }
    let flood = flood?;
    Ok(flood.cpu_s * 1e9 / flood.sent as f64)
}

/// What connections came to.
pub struct Connections {
    /// For each second of CPU time that client, node's softirqs and server took.
    pub per_cpu_second: f64,
    /// The time that one in a hundred exceeds, µs.
    pub p99_us: f64,
}

/// TCP connections with a request and a response each, one after the other.
pub fn connections(way: &mut Way, destination: Destination) -> Result<Connections> {
    let to = way.address(destination, false);
    let before = cpu_s(way)?;
    let measured = way.client.measure(&Command::Measure { to, count: CONNECTIONS, udp: false });
    let Measured { p99_us, .. } =
        measured.map_err(|error| anyhow!("{}: dialling {to}: {error}", way.name))?;
    let per_cpu_second = f64::from(CONNECTIONS) / (cpu_s(way)? - before);
    Ok(Connections { per_cpu_second, p99_us })
}

/// CPU time of client and backend so far. The node's own work is in it: the kernel does it on their behalf.
fn cpu_s(way: &Way) -> Result<f64> {
    let mut sum = 0.0;
    for pod in [&way.line.client, &way.line.backend] {
        let text = std::fs::read_to_string(pod.cgroup.join("cpu.stat"))?;
        let line = text.lines().find_map(|line| line.strip_prefix("usage_usec "));
        sum += line.context("cpu.stat has no usage_usec")?.parse::<f64>()? / 1e6;
    }
    Ok(sum)
}

/// What the kernel says of one program while a flood lasted.
pub struct Program {
    /// Its name, which the kernel cuts at 15 bytes.
    pub name: String,
    /// How often it ran for one datagram.
    pub runs: f64,
    /// Time of one run, ns; the kernel's clock is in it.
    pub ns: f64,
}

/// Programs that ran during a flood, whoever's they are. Nobody else's traffic should pass meanwhile.
pub fn programs(way: &mut Way, destination: Destination) -> Result<Vec<Program>> {
    let _stats = aya::sys::enable_stats(aya::sys::Stats::RunTime)?;
    let before = run_times()?;
    let sent = flood(way, destination, FLOOD_MILLIS)?.sent as f64;
    let programs = run_times()?.into_iter().filter_map(|(id, (name, time_ns, count))| {
        let (_, old_ns, old_count) = before.get(&id).cloned().unwrap_or_default();
        let (runs, time_ns) = ((count - old_count) as f64, (time_ns - old_ns) as f64);
        // Fewer are somebody else's: an answer to ARP, a socket of this process.
        (runs > sent / 10.0).then(|| Program { name, runs: runs / sent, ns: time_ns / runs })
    });
    Ok(programs.collect())
}

/// Name, time and count of all programs that the kernel has, by id.
fn run_times() -> Result<BTreeMap<u32, (String, u64, u64)>> {
    let mut all = BTreeMap::new();
    for program in loaded_programs() {
        // One that ends while we list is nobody that we measure.
        let Ok(program) = program else { continue };
        let name = program.name_as_str().unwrap_or("?").to_owned();
        let time_ns = u64::try_from(program.run_time().as_nanos())?;
        all.insert(program.id(), (name, time_ns, program.run_count()));
    }
    Ok(all)
}
