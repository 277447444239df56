//! `sluice conntrack` and `sluice nat`: what the packet path remembers.

use std::net::IpAddr;

use anyhow::Result;
use clap::Args;

use super::{Reading, output};
use crate::{
    inspect::{self, ConnectionFilter, ConnectionRow, NatRow},
    maps::{
        Pins,
        bpf::{BpfMaps, Flows, now_ns},
    },
    model::ObjectName,
};

/// Which connections, and how to show them.
#[derive(Args)]
pub struct Connections {
    /// Only those of this Service, `NAMESPACE/NAME`
    #[arg(long, value_parser = service)]
    service: Option<ObjectName>,
    /// Only those of the client with this address
    #[arg(long)]
    client: Option<IpAddr>,
    #[command(flatten)]
    reading: Reading,
}

/// Reads `NAMESPACE/NAME`.
pub fn service(text: &str) -> Result<ObjectName, String> {
    let names = text.split_once('/').filter(|(namespace, name)| !namespace.is_empty() && !name.is_empty());
    names.map(|(namespace, name)| ObjectName::new(namespace, name)).ok_or("write NAMESPACE/NAME".to_owned())
}

fn rows(asked: &Connections) -> Result<Vec<ConnectionRow>> {
    let pins = Pins::at(&asked.reading.bpffs);
    let flows = Flows::open(&pins)?.all()?;
    let filter = ConnectionFilter { service: asked.service.clone(), client: asked.client };
    Ok(inspect::connections(&BpfMaps::open(&pins)?.services()?, &flows, &filter, now_ns()))
}

/// `sluice conntrack`.
pub fn conntrack(asked: &Connections) -> Result<()> {
    let rows = rows(asked)?;
    output::print(asked.reading.output, &rows, || {
        let line = |row: &ConnectionRow| {
            [
                format!("{}:{}", row.service, row.port),
                format!("{}/{}", row.client, row.protocol),
                row.dialled.to_string(),
                row.backend.to_string(),
                if row.snat { row.source.to_string() } else { String::new() },
                row.state.to_owned(),
                format!("{} s", row.idle_seconds),
                format!("{} s", row.expires_in_seconds),
                row.path.to_owned(),
            ]
        };
        let lines: Vec<_> = rows.iter().map(line).collect();
        output::table(
            ["SERVICE", "CLIENT", "DIALLED", "BACKEND", "SEEN AS", "STATE", "IDLE", "EXPIRES", "PATH"],
            &lines,
        )
    })
}

/// `sluice nat`.
pub fn nat(asked: &Connections) -> Result<()> {
    let rows = inspect::nats(rows(asked)?);
    output::print(asked.reading.output, &rows, || {
        let line = |row: &NatRow| {
            [
                format!("{}/{}", row.node, row.protocol),
                row.client.to_string(),
                row.dialled.to_string(),
                row.backend.to_string(),
                format!("{}:{}", row.service, row.port),
                row.state.to_owned(),
                format!("{} s", row.expires_in_seconds),
            ]
        };
        let lines: Vec<_> = rows.iter().map(line).collect();
        output::table(["NODE", "CLIENT", "DIALLED", "BACKEND", "SERVICE", "STATE", "EXPIRES"], &lines)
    })
}
