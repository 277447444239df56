//! Keeps NodePorts out of the node's ephemeral range (`net.ipv4.ip_local_reserved_ports`, both IP versions): a client on
//! the node that got one as its own port would lose its replies to the Service. Which of them we added is in a pinned
//! map, so that what others reserved stays theirs, and `cleanup` takes back only what is ours.

use std::{collections::BTreeSet, fs, path::Path};

use anyhow::{Context as _, Result};

use crate::maps::{Pins, bpf::ReservedPorts};

const RESERVED: &str = "/proc/sys/net/ipv4/ip_local_reserved_ports";
/// Where a container has the node's own, for what is below its /proc/sys is read-only.
const OF_THE_NODE: &str = "/host/proc/sys/net/ipv4/ip_local_reserved_ports";
const RANGE: &str = "/proc/sys/net/ipv4/ip_local_port_range";

/// Ports, each once, in order.
pub type Ports = BTreeSet<u16>;

/// Reserves those of `node_ports` that lie in the ephemeral range, and frees what we reserved before and need no more.
///
/// # Errors
/// The kernel's settings or the map cannot be read or written; nothing is lost then, the next try does the rest.
pub fn reserve(pins: &Pins, node_ports: &Ports) -> Result<()> {
    let range = range_of(&read(RANGE)?);
    let wanted = node_ports
        .iter()
        .copied()
        .filter(|port| range.is_some_and(|(low, high)| (low..=high).contains(port)));
    apply(&mut ReservedPorts::open(pins)?, &wanted.collect())
}

/// Frees all that we reserved. Does nothing where no agent ever ran.
///
/// # Errors
/// See [`reserve`].
pub fn release(pins: &Pins) -> Result<()> {
    if !pins.map(ReservedPorts::NAME).exists() {
        return Ok(());
    }
    apply(&mut ReservedPorts::open(pins)?, &Ports::new())
}

fn apply(map: &mut ReservedPorts, wanted: &Ports) -> Result<()> {
    let (current, ours) = (parse(&read(RESERVED)?), map.all()?);
    let next = plan(&current, &ours, wanted);
    // Noted before it is done: an agent that dies in between leaves a note of a port that it did not reserve yet.
    next.ours.difference(&ours).try_for_each(|port| map.insert(*port))?;
    if next.reserved != current {
        write(&(format(&next.reserved) + "\n"))?;
    }
    ours.difference(&next.ours).try_for_each(|port| map.remove(*port))
}

fn write(text: &str) -> Result<()> {
    let mut result = fs::write(RESERVED, text);
    if result.as_ref().is_err_and(|error| error.kind() == std::io::ErrorKind::ReadOnlyFilesystem)
        && Path::new(OF_THE_NODE).exists()
    {
        result = fs::write(OF_THE_NODE, text);
    }
    result.with_context(|| {
        format!("cannot write to {RESERVED}; in a container, mount /proc/sys/net at /host/proc/sys/net")
    })
}

fn read(path: &str) -> Result<String> {
    fs::read_to_string(Path::new(path)).with_context(|| format!("cannot read {path}"))
}

#[derive(Debug, PartialEq, Eq)]
struct Plan {
    reserved: Ports,
    ours: Ports,
}

/// What to reserve, and which of it is ours, when `current` is reserved, `ours` of it by us.
fn plan(current: &Ports, ours: &Ports, wanted: &Ports) -> Plan {
    let others: Ports = current.difference(ours).copied().collect();
    Plan {
        reserved: others.union(wanted).copied().collect(),
        ours: wanted.difference(&others).copied().collect(),
    }
}

/// Reads `80,100-102`; what is no port is passed over.
fn parse(text: &str) -> Ports {
    let range = |part: &str| {
        let (first, last) = part.trim().split_once('-').unwrap_or((part.trim(), part.trim()));
        Some(first.parse::<u16>().ok()?..=last.parse::<u16>().ok()?)
    };
    text.split(',').filter_map(range).flatten().collect()
}

/// Writes `80,100-102`: in ranges, for the kernel takes a page of text at once.
fn format(ports: &Ports) -> String {
    let mut ranges: Vec<(u16, u16)> = Vec::new();
    for port in ports {
        match ranges.last_mut() {
            Some((_, last)) if last.checked_add(1) == Some(*port) => *last = *port,
            _ => ranges.push((*port, *port)),
        }
    }
    let text = |(first, last)| if first == last { format!("{first}") } else { format!("{first}-{last}") };
    ranges.into_iter().map(text).collect::<Vec<_>>().join(",")
}

fn range_of(text: &str) -> Option<(u16, u16)> {
    let mut numbers = text.split_whitespace().map(|number| number.parse().ok());
    Some((numbers.next()??, numbers.next()??))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_read_and_written_as_the_kernel_does() {
        for (text, ports, again) in [
            ("", vec![], ""),
            ("\n", vec![], ""),
            ("80", vec![80], "80"),
            ("8080,9148", vec![8080, 9148], "8080,9148"),
            ("1-3,4,6-7", vec![1, 2, 3, 4, 6, 7], "1-4,6-7"),
            ("65534-65535", vec![65534, 65535], "65534-65535"),
            ("x,1", vec![1], "1"),
        ] {
            let read = parse(text);
            assert_eq!(read, ports.into_iter().collect(), "{text:?}");
            assert_eq!(format(&read), again, "{text:?}");
        }
        assert_eq!(range_of("32768\t60999\n"), Some((32768, 60999)));
        assert_eq!(range_of("no"), None);
    }

    #[test]
    fn what_others_reserved_stays_theirs() {
        for (case, current, ours, wanted, reserved, then_ours) in [
            ("first port", "", "", "40000", "40000", "40000"),
            ("beside another's", "50000", "", "40000", "40000,50000", "40000"),
            ("another's own", "40000", "", "40000", "40000", ""),
            ("no more", "40000,50000", "40000", "", "50000", ""),
            ("another's, no more", "40000", "", "", "40000", ""),
            ("somebody reset it", "", "40000", "40000", "40000", "40000"),
            ("noted, not done", "", "40000", "", "", ""),
        ] {
            let plan = plan(&parse(current), &parse(ours), &parse(wanted));
            assert_eq!(
                (format(&plan.reserved), format(&plan.ours)),
                (reserved.into(), then_ours.into()),
                "{case}"
            );
        }
    }
}
