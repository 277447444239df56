//! Commands that read the pinned maps, and the one that removes them.

use std::{net::SocketAddr, path::Path};

use anyhow::{Result, anyhow, bail};

use super::{
    Reading, output,
    request::{self, Asked, Request},
};
use crate::{
    harmless,
    inspect::{self, Explanation, Query, ServiceRow},
    kube_proxy, loader,
    maps::{
        Pins, Tables,
        bpf::{BpfMaps, Devices, OptOuts, now_ns},
    },
};

fn tables(reading: &Reading) -> Result<Tables> {
    BpfMaps::open(&Pins::at(&reading.bpffs))?.dump()
}

/// `sluice service`.
pub fn service(name: Option<&str>, reading: &Reading) -> Result<()> {
    let mut rows = inspect::services(&tables(reading)?);
    if let Some(name) = name {
        let Some((namespace, name)) = name.split_once('/') else {
            bail!("{name:?} is not NAMESPACE/NAME");
        };
        rows.retain(|row| row.namespace == namespace && row.name == name);
        if rows.is_empty() {
            bail!("no Service {namespace}/{name} is in the maps");
        }
    }
    output::print(reading.output, &rows, || service_table(&rows))
}

fn service_table(rows: &[ServiceRow]) -> String {
    let mut lines = Vec::new();
    for row in rows {
        for port in &row.ports {
            let mut frontends = port.frontends.iter().map(|frontend| {
                format!("{} {}", frontend.kind, SocketAddr::new(frontend.address, frontend.port))
            });
            let mut endpoints = port.endpoints.iter().map(|endpoint| {
                // The places in a table differ by one at most.
                let even = port.algorithm == "maglev"
                    || port.endpoints.iter().all(|other| !other.used || other.weight == endpoint.weight);
                let share = match endpoint.used {
                    true if even => String::new(),
                    true => format!(" weight {}", endpoint.weight),
                    false => " unused".to_owned(),
                };
                let place = if endpoint.local { " local" } else { "" };
                format!(
                    "{} {}{place}{share}",
                    SocketAddr::new(endpoint.address, endpoint.port),
                    endpoint.state
                )
            });
            let title = match port.name.as_str() {
                "" => format!("{}/{}", port.port, port.protocol),
                name => format!("{}/{} ({name})", port.port, port.protocol),
            };
            let title = if port.algorithm == "maglev" { title + " maglev" } else { title };
            let mut first = [format!("{}/{}", row.namespace, row.name), row.r#type.to_owned(), title];
            for index in 0.. {
                let (frontend, endpoint) = (frontends.next(), endpoints.next());
                if index > 0 && frontend.is_none() && endpoint.is_none() {
                    break;
                }
                let [name, kind, title] = std::mem::take(&mut first);
                lines.push([name, kind, title, frontend.unwrap_or_default(), endpoint.unwrap_or_default()]);
            }
        }
    }
    output::table(["SERVICE", "TYPE", "PORT", "FRONTEND", "ENDPOINT"], &lines)
}

/// `sluice frontend`.
pub fn frontend(reading: &Reading) -> Result<()> {
    let rows = inspect::frontends(&tables(reading)?);
    output::print(reading.output, &rows, || {
        let lines: Vec<_> = rows
            .iter()
            .map(|row| {
                [
                    format!("{}/{}", SocketAddr::new(row.address, row.port), row.protocol),
                    row.kind.to_owned(),
                    row.service.clone(),
                    row.port_name.clone(),
                    row.cluster_endpoints.to_string(),
                    row.local_endpoints.to_string(),
                    row.path.to_owned(),
                ]
            })
            .collect();
        output::table(["FRONTEND", "KIND", "SERVICE", "PORT", "CLUSTER", "LOCAL", "PATH"], &lines)
    })
}

/// `sluice backend`.
pub fn backend(reading: &Reading) -> Result<()> {
    let rows = inspect::backends(&tables(reading)?);
    output::print(reading.output, &rows, || {
        let lines: Vec<_> = rows
            .iter()
            .map(|row| {
                let services: Vec<&str> = row.services.iter().map(String::as_str).collect();
                [
                    row.id.to_string(),
                    SocketAddr::new(row.address, row.port).to_string(),
                    row.node.clone(),
                    row.zone.clone(),
                    services.join(", "),
                ]
            })
            .collect();
        output::table(["ID", "BACKEND", "NODE", "ZONE", "SERVICES"], &lines)
    })
}

/// `sluice affinity`.
pub fn affinity(reading: &Reading) -> Result<()> {
    let entries = BpfMaps::affinities(&Pins::at(&reading.bpffs))?;
    let rows = inspect::affinities(&tables(reading)?, &entries, now_ns());
    output::print(reading.output, &rows, || {
        let line = |row: &inspect::AffinityRow| {
            let age = format!("{} s of {} s", row.age_seconds, row.timeout_seconds);
            let live = if row.live { "" } else { "expired" }.to_owned();
            [row.service.clone(), row.port_name.clone(), row.client.clone(), row.backend.clone(), age, live]
        };
        let lines: Vec<_> = rows.iter().map(line).collect();
        output::table(["SERVICE", "PORT", "CLIENT", "BACKEND", "AGE", ""], &lines)
    })
}

/// `sluice config`. What is wrong with an object only the agent knows.
pub fn config(reading: &Reading) -> Result<()> {
    let state = super::ask::state(reading.admin);
    if let Err(error) = &state {
        let error = harmless::line(&format!("{error:#}"));
        eprintln!(
            "only what the maps hold: the agent, which knows what is wrong with objects, does not answer: {error}"
        );
    }
    let (rules, warnings) = state.map(|state| (state.rules, state.warnings)).unwrap_or_default();
    let abouts = warnings.into_values().filter_map(|warning| warning.about);
    let complaints = abouts
        .map(|about| ([about.kind, about.namespace, about.name], about.rejected, about.path, about.message));
    let rows = inspect::config(&tables(reading)?, rules, complaints);
    output::print(reading.output, &rows, || {
        let mut lines = Vec::new();
        for row in &rows {
            let name = if row.namespace.is_empty() {
                row.name.clone()
            } else {
                format!("{}/{}", row.namespace, row.name)
            };
            let mut first = [row.kind.clone(), name, row.state.to_owned()];
            let texts = row.messages.iter().map(|message| format!("{}: {}", message.path, message.message));
            let texts = if row.messages.is_empty() { vec![String::new()] } else { texts.collect() };
            for text in texts {
                let [kind, name, state] = std::mem::take(&mut first);
                lines.push([kind, name, state, text]);
            }
        }
        output::table(["KIND", "OBJECT", "STATE", "WHY"], &lines)
    })
}

/// One line of `sluice reasons`.
#[derive(serde::Serialize)]
struct ReasonRow {
    name: &'static str,
    count: u64,
    meaning: &'static str,
}

/// `sluice reasons`.
pub fn reasons(reading: &Reading) -> Result<()> {
    let counts = BpfMaps::open(&Pins::at(&reading.bpffs))?.reasons()?;
    let rows: Vec<ReasonRow> = counts
        .into_iter()
        .map(|(reason, count)| ReasonRow { name: reason.name(), count, meaning: reason.meaning().trim() })
        .collect();
    output::print(reading.output, &rows, || {
        let lines: Vec<_> = rows
            .iter()
            .map(|row| [row.name.to_owned(), row.count.to_string(), row.meaning.to_owned()])
            .collect();
        output::table(["REASON", "COUNT", "MEANING"], &lines)
    })
}

/// `sluice explain`.
pub fn explain(
    (from, by_packets): (String, bool),
    asked: Asked,
    (method, headers): (String, Vec<(http::HeaderName, http::HeaderValue)>),
    run_dir: &Path,
    reading: &Reading,
) -> Result<()> {
    let tables = tables(reading)?;
    let (from, from_port) = request::without_port(from);
    // Only the agent knows the pods; where there is none, nobody can say that a name is wrong.
    if request::is_pod(&from)
        && let Ok(state) = super::ask::state(reading.admin)
    {
        request::check_client(&from, state.pods.as_deref())?;
    }
    let left_alone = OptOuts::open(&Pins::at(&reading.bpffs))?.all()?.values().any(|pod| {
        from == pod.name.as_str() || from == format!("{}/{}", pod.namespace.as_str(), pod.name.as_str())
    });
    let (destination, request) = match asked {
        Asked::Connection(destination) => (destination, None),
        Asked::Request(destination, authority, path) => {
            (destination, Some(Request { authority, path, method, headers }))
        }
    };
    let options = Devices::open(&Pins::at(&reading.bpffs))?.options();
    let sender = super::client::sender(&tables, &Pins::at(&reading.bpffs), &from, (left_alone, by_packets))?;
    let query = Query { from, left_alone, sender, from_port, destination, options };
    let mut answer = inspect::explain(&tables, &query).map_err(|error| anyhow!(error))?;
    match request.filter(|_| answer.path == "redirector") {
        Some(request) => request::add_route(&mut answer, request, run_dir)?,
        None if answer.path == "redirector" => {
            answer
                .steps
                .push("ask about http://ADDRESS:PORT/PATH for the rule that takes a request".to_owned());
        }
        None => request::add_split(&mut answer, run_dir),
    }
    output::print(reading.output, &answer, || explain_text(&answer))
}

fn explain_text(answer: &Explanation) -> String {
    let mut text = harmless::line(&format!("{} → {}", answer.from, answer.destination)) + "\n";
    for (index, step) in answer.steps.iter().enumerate() {
        text += &format!("  {}. {}\n", index + 1, harmless::line(step));
    }
    let sum: u32 = answer.endpoints.iter().map(|endpoint| endpoint.weight).sum();
    for endpoint in &answer.endpoints {
        let share = f64::from(endpoint.weight) * 100.0 / f64::from(sum.max(1));
        let chosen = answer.chosen == Some(SocketAddr::new(endpoint.address, endpoint.port));
        let chosen = if chosen { " ←" } else { "" };
        text +=
            &format!("     {} ({share:.0} %){chosen}\n", SocketAddr::new(endpoint.address, endpoint.port));
    }
    text + &format!("verdict: {} ({}), in the {}\n", answer.verdict, answer.reason, answer.path)
}

/// `sluice cleanup`.
pub fn cleanup(bpffs: &Path) -> Result<()> {
    let removed = loader::cleanup(bpffs)?;
    if removed.is_empty() {
        println!("nothing to remove at {}", shown(bpffs));
    }
    for path in removed {
        println!("removed {}", shown(&path));
    }
    Ok(())
}

fn shown(path: &Path) -> String {
    harmless::line(&path.display().to_string())
}

/// `sluice mount`.
pub fn mount(bpffs: &Path) -> Result<()> {
    match loader::mount(bpffs)? {
        Some(place) => println!("mounted a bpffs at {}", shown(&place)),
        None => println!("{} is on a bpffs already", shown(bpffs)),
    }
    Ok(())
}

/// `sluice cleanup --kube-proxy`.
pub fn cleanup_kube_proxy(host_root: Option<&Path>) -> Result<()> {
    let told = kube_proxy::cleanup(host_root)?;
    if told.is_empty() {
        println!("kube-proxy left nothing here");
    }
    told.iter().for_each(|line| println!("{}", harmless::line(line)));
    Ok(())
}
