//! `sluice status`: what the agent says of itself, and what the kernel runs, with or without it.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    path::PathBuf,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use serde::Serialize;

use super::{Reading, output};
use crate::{
    health::{Source, State},
    loader,
    maps::{Pins, bpf::BpfMaps},
};

const TIMEOUT: Duration = Duration::from_secs(2);

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Status {
    healthy: bool,
    problems: Vec<String>,
    warnings: Vec<String>,
    node: Option<String>,
    version: String,
    agent_pid: Option<u32>,
    sources: Vec<Source>,
    programs: Vec<ProgramRow>,
    maps: Vec<MapRow>,
    last_error: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ProgramRow {
    name: &'static str,
    hook: String,
    target: PathBuf,
    attached: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct MapRow {
    name: &'static str,
    entries: usize,
    capacity: u32,
}

/// Prints the status. False unless everything is well.
pub fn status(reading: &Reading) -> Result<bool> {
    let pins = Pins::at(&reading.bpffs);
    let mut problems = Vec::new();
    let holder = loader::holder(&reading.bpffs);
    let state = match (ask(reading.admin), holder) {
        (Ok(state), _) => Some(state),
        (Err(error), Some(pid)) => {
            problems.push(format!("the agent (pid {pid}) does not answer on {}: {error:#}", reading.admin));
            None
        }
        (Err(_), None) => {
            problems.push(format!(
                "no agent runs on the pins in {}; the kernel goes on with what the maps hold",
                reading.bpffs.display()
            ));
            None
        }
    };
    let cgroup = state.as_ref().map(|state| state.cgroup.clone());
    let programs = programs(&pins, cgroup, &mut problems);
    let maps = match maps(&pins) {
        Ok(maps) => maps,
        Err(error) => {
            problems.push(format!("{error:#}"));
            Vec::new()
        }
    };
    if let Some(state) = &state {
        problems.extend(state.problems.values().cloned());
        let waiting: Vec<&str> =
            state.sources.iter().filter(|source| !source.synced).map(|source| source.name.as_str()).collect();
        if !waiting.is_empty() {
            problems.push(format!("not listed completely yet: {}", waiting.join(", ")));
        }
        if state.programmed && state.probed_s.is_none() && state.problems.is_empty() {
            problems.push("the self-probe has not passed yet".to_owned());
        }
    }
    let mut warnings: Vec<String> = state
        .as_ref()
        .map(|state| state.warnings.values().map(|warning| warning.text.clone()).collect())
        .unwrap_or_default();
    if state.as_ref().is_some_and(|state| state.node_leaving) {
        warnings.push("this node is about to be deleted: load balancers are told not to use it".to_owned());
    }
    let status = Status {
        healthy: problems.is_empty(),
        problems,
        warnings,
        node: state.as_ref().map(|state| state.node.clone()),
        version: state.as_ref().map_or(env!("CARGO_PKG_VERSION"), |state| &state.version).to_owned(),
        agent_pid: state.as_ref().map(|state| state.pid).or(holder),
        sources: state.as_ref().map(|state| state.sources.clone()).unwrap_or_default(),
        last_error: state.and_then(|state| state.last_error),
        programs,
        maps,
    };
    output::print(reading.output, &status, || text(&status))?;
    Ok(status.healthy)
}

fn programs(pins: &Pins, cgroup: Option<PathBuf>, problems: &mut Vec<String>) -> Vec<ProgramRow> {
    let attachments = loader::attachments(pins, cgroup.as_deref());
    let missing: Vec<&str> =
        attachments.iter().filter(|item| item.program_id.is_none()).map(|item| item.hook).collect();
    if !missing.is_empty() {
        problems.push(format!("not attached: {}", missing.join(", ")));
    }
    let row = |item: loader::Attachment| ProgramRow {
        name: item.hook,
        hook: format!("cgroup/{}", item.hook),
        target: item.target,
        attached: item.program_id.is_some(),
    };
    let steering = loader::steered_netns(pins).map(|netns| ProgramRow {
        name: loader::STEERING,
        hook: "netns/sk_lookup".to_owned(),
        target: PathBuf::from(format!("network namespace {netns}")),
        attached: true,
    });
    attachments.into_iter().map(row).chain(steering).collect()
}

fn maps(pins: &Pins) -> Result<Vec<MapRow>> {
    let maps = BpfMaps::open(pins)?;
    let tables = maps.dump()?;
    let udp_flows = BpfMaps::udp_flows(pins)?;
    let affinities = BpfMaps::affinities(pins)?.len();
    let entries = |name: &str| match name {
        "FRONTENDS" => Some(tables.frontends.len()),
        "SLOTS" => Some(tables.slots.len()),
        "BACKENDS" => Some(tables.backends.len()),
        "SERVICES" => Some(tables.services.len()),
        "NODES" => Some(tables.nodes.len()),
        "UDP_REVNAT" => Some(udp_flows),
        "AFFINITY" => Some(affinities),
        _ => None,
    };
    let rows = maps.capacities().iter().copied();
    Ok(rows.filter_map(|(name, capacity)| Some(MapRow { name, entries: entries(name)?, capacity })).collect())
}

/// Fetches the agent's state.
pub fn ask(admin: SocketAddr) -> Result<State> {
    let mut stream = TcpStream::connect_timeout(&admin, TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    write!(stream, "GET /state HTTP/1.1\r\nHost: {admin}\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("the answer is not HTTP")?;
    if !head.starts_with("HTTP/1.1 200") {
        bail!("the answer is {:?}", head.lines().next().unwrap_or_default());
    }
    serde_json::from_str(body).context("the answer is not the state of an agent of this version")
}

fn text(status: &Status) -> String {
    let mut text = if status.healthy { "healthy\n".to_owned() } else { "NOT HEALTHY\n".to_owned() };
    for problem in &status.problems {
        text += &format!("  ✗ {problem}\n");
    }
    for warning in &status.warnings {
        text += &format!("  ! {warning}\n");
    }
    let pid = status.agent_pid.map_or_else(|| "not running".to_owned(), |pid| format!("pid {pid}"));
    let node = status.node.as_deref().unwrap_or("unknown");
    text += &format!("agent    {pid}, version {}, node {node}\n", status.version);
    for source in &status.sources {
        text += &format!(
            "source   {}: {}\n",
            source.name,
            if source.synced { "in sync" } else { "not listed yet" }
        );
    }
    let rows: Vec<_> = status
        .programs
        .iter()
        .map(|row| {
            let place =
                if row.attached { row.target.display().to_string() } else { "NOT ATTACHED".to_owned() };
            [row.hook.clone(), place]
        })
        .collect();
    text += "\n";
    text += &output::table(["PROGRAM", "ATTACHED TO"], &rows);
    let rows: Vec<_> = status
        .maps
        .iter()
        .map(|row| [row.name.to_owned(), row.entries.to_string(), row.capacity.to_string()])
        .collect();
    text += "\n";
    text += &output::table(["MAP", "ENTRIES", "CAPACITY"], &rows);
    if let Some(error) = status.last_error.as_ref().filter(|_| status.healthy) {
        text += &format!("\nlast error (over now): {error}\n");
    }
    text
}
