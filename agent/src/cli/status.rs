//! `sluice status`: what the agent says of itself, and what the kernel runs, with or without it.

use std::{collections::BTreeSet, path::PathBuf};

use anyhow::Result;
use serde::Serialize;

use super::{Reading, ask, output};
use crate::{
    devices, harmless,
    health::{AtDevice, Source},
    inspect, loader,
    maps::{
        Pins, SPECS,
        bpf::{BpfMaps, Devices, Flows},
    },
};

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
    kernel: KernelRow,
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

#[derive(Serialize)]
struct KernelRow {
    release: String,
    lacks: Vec<Lack>,
}

/// A feature that the kernel lacks.
#[derive(Serialize)]
struct Lack {
    feature: &'static str,
    since: &'static str,
    instead: &'static str,
}

/// Prints the status. False unless everything is well.
pub fn status(reading: &Reading) -> Result<bool> {
    let pins = Pins::at(&reading.bpffs);
    let mut problems = Vec::new();
    let holder = loader::holder(&reading.bpffs);
    let state = match (ask::state(reading.admin), holder) {
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
    let mut programs = programs(&pins, cgroup, &mut problems);
    let at_devices = state.as_ref().map_or(&[][..], |state| &state.at_devices);
    programs.extend(at_device_rows(&pins, at_devices, &mut problems));
    let (maps, sctp) = match maps(&pins) {
        Ok(found) => found,
        Err(error) => {
            problems.push(format!("{error:#}"));
            Default::default()
        }
    };
    if let Some(state) = &state {
        problems.extend(state.problems.values().cloned());
        let waiting: Vec<&str> =
            state.sources.iter().filter(|source| !source.synced).map(|source| source.name.as_str()).collect();
        if !waiting.is_empty() {
            problems.push(format!("not listed completely yet: {}", waiting.join(", ")));
        }
        if state.problems.is_empty() && waiting.is_empty() {
            if !state.programmed {
                problems.push("not everything is in the maps and attached yet".to_owned());
            } else if state.probed_s.is_none() {
                problems.push("the self-probe has not passed yet".to_owned());
            }
        }
    }
    let mut warnings: Vec<String> = state
        .as_ref()
        .map(|state| state.warnings.values().map(|warning| warning.text.clone()).collect())
        .unwrap_or_default();
    if state.as_ref().is_some_and(|state| state.node_leaving) {
        warnings.push("this node is about to be deleted: load balancers are told not to use it".to_owned());
    }
    warnings.extend(maps.iter().filter_map(fills_up));
    warnings.extend(state.as_ref().zip(holder).and_then(|(state, pid)| stranger(state.pid, pid, reading)));
    warnings.extend(sctp);
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
        kernel: kernel(),
    };
    output::print(reading.output, &status, || text(&status))?;
    Ok(status.healthy)
}

fn kernel() -> KernelRow {
    let lacks = loader::Kernel::ask(devices::are_told()).lacking();
    let row = |loader::Lacking { feature, since, instead }| Lack { feature, since, instead };
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    KernelRow { release, lacks: lacks.into_iter().map(row).collect() }
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
    let counting = loader::counted_cgroup(pins).map(|id| ProgramRow {
        name: loader::COUNTING,
        hook: "cgroup/sock_ops".to_owned(),
        target: PathBuf::from(format!("cgroup id {id}")),
        attached: true,
    });
    attachments.into_iter().map(row).chain(steering).chain(counting).collect()
}

/// Programs that run at devices, or should.
fn at_device_rows(pins: &Pins, wanted: &[AtDevice], problems: &mut Vec<String>) -> Vec<ProgramRow> {
    let links = devices::links().unwrap_or_default();
    let name = |ifindex: u32| {
        let link = links.iter().find(|link| link.index == ifindex);
        link.map_or_else(|| format!("device {ifindex}"), |link| link.name.clone())
    };
    let present = loader::device_attachments(pins);
    let row = |point: loader::Point, hook: &str, target: String, attached| ProgramRow {
        name: point.program(),
        hook: hook.to_owned(),
        target: target.into(),
        attached,
    };
    let mut rows: Vec<ProgramRow> =
        present.iter().map(|item| row(item.point, item.hook(), name(item.ifindex), item.attached)).collect();
    for item in wanted {
        let is_it = |other: &&loader::DeviceAttachment| {
            (other.ifindex, other.point.program()) == (item.ifindex, item.program.as_str())
        };
        let found = present.iter().find(is_it);
        if found.is_some_and(|found| found.attached) {
            continue;
        }
        problems.push(format!("not attached: {} at {}", item.program, item.device));
        let point = loader::Point::ALL.into_iter().find(|point| point.program() == item.program);
        let point = point.filter(|_| found.is_none());
        rows.extend(point.map(|point| row(point, point.hook(), item.device.clone(), false)));
    }
    rows
}

/// A word about an agent that is not the one whose pins these are.
fn stranger(answers: u32, holder: u32, Reading { admin, bpffs, .. }: &Reading) -> Option<String> {
    (answers != holder).then(|| {
        format!(
            "what answers on {admin} says that it has pid {answers}, but the agent of the pins in {} has pid {holder}: \
             another agent, unless this one runs in a pid namespace of its own",
            bpffs.display()
        )
    })
}

/// A word about a map in which new connections take the place of old ones, once it is nearly full.
fn fills_up(map: &MapRow) -> Option<String> {
    let spec = SPECS.iter().find(|spec| spec.name == map.name && map.name == "FLOWS")?;
    let percent = map.entries as u64 * 100 / u64::from(map.capacity.max(1));
    // Each CPU keeps some places free, so that the last ones are never taken.
    let consequence = match percent {
        0..=90 => return None,
        91..98 => "soon connections that are quiet will be forgotten, and break",
        _ => "connections that are quiet are forgotten for new ones, and break",
    };
    let (name, flag, MapRow { entries, capacity, .. }) = (spec.name, spec.flag, map);
    Some(format!("{name} is {percent} % full ({entries} of {capacity} entries): {consequence}; raise {flag}"))
}

/// How full they are, and what of their contents is worth a look.
fn maps(pins: &Pins) -> Result<(Vec<MapRow>, BTreeSet<String>)> {
    let maps = BpfMaps::open(pins)?;
    let tables = maps.dump()?;
    let counts = tables.counts();
    let udp_flows = BpfMaps::udp_flows(pins)?;
    let affinities = BpfMaps::affinities(pins)?.len();
    let flows = Flows::open(pins)?.all()?.len();
    let devices = Devices::open(pins)?.count();
    let entries = |name: &str| match name {
        "UDP_REVNAT" => Some(udp_flows),
        "AFFINITY" => Some(affinities),
        "FLOWS" => Some(flows),
        "DEVICES" => Some(devices),
        _ => counts.iter().find(|(map, _)| *map == name).map(|(_, count)| *count),
    };
    let rows = maps.capacities().iter().copied();
    let rows = rows.filter_map(|(name, capacity)| Some(MapRow { name, entries: entries(name)?, capacity }));
    Ok((rows.collect(), inspect::sctp_ports(&tables)))
}

fn text(status: &Status) -> String {
    let mut text = if status.healthy { "healthy\n".to_owned() } else { "NOT HEALTHY\n".to_owned() };
    for problem in &status.problems {
        text += &format!("  ✗ {}\n", harmless::line(problem));
    }
    for warning in &status.warnings {
        text += &format!("  ! {}\n", harmless::line(warning));
    }
    let pid = status.agent_pid.map_or_else(|| "not running".to_owned(), |pid| format!("pid {pid}"));
    let node = status.node.as_deref().unwrap_or("unknown");
    text += &format!(
        "agent    {pid}, version {}, node {}\n",
        harmless::line(&status.version),
        harmless::line(node)
    );
    for source in &status.sources {
        let synced = if source.synced { "in sync" } else { "not listed yet" };
        text += &format!("source   {}: {synced}\n", harmless::line(&source.name));
    }
    text += &format!("kernel   {}\n", harmless::line(&status.kernel.release));
    for Lack { feature, since, instead } in &status.kernel.lacks {
        text += &format!("  - without {feature} (Linux {since}): {instead}\n");
    }
    let rows: Vec<_> = status
        .programs
        .iter()
        .map(|row| {
            let place = if row.attached { "" } else { "NOT ATTACHED " };
            [row.hook.clone(), format!("{place}{}", row.target.display())]
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
        text += &format!("\nlast error (over now): {}\n", harmless::line(error));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_that_forgets_is_told_of_before_it_does() {
        for (name, entries, want) in [
            ("FLOWS", 910, None),
            ("FLOWS", 920, Some("soon")),
            ("FLOWS", 985, Some("for new ones")),
            ("AFFINITY", 1_000, None),
        ] {
            let row = MapRow { name, entries, capacity: 1_001 };
            let text = fills_up(&row);
            assert_eq!(text.is_some(), want.is_some(), "{name} {entries}: {text:?}");
            let right =
                |text: &String| want.is_some_and(|want| text.contains(want) && text.ends_with("--max-flows"));
            assert!(text.as_ref().is_none_or(right), "{name} {entries}: {text:?}");
        }
    }
}
