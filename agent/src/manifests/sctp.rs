//! SCTP ports that would have to change, as far as files show them.

use std::collections::{BTreeMap, BTreeSet};

use super::{FileContents, Finding, Object, Severity};
use crate::{
    model::{Change, EndpointSlice, ObjectName, Protocol, ServicePort, sctp_trouble},
    objects::{ServiceWithSelector, TargetPort},
};

/// What is wrong with SCTP Services: by the endpoints that `changes` have for them, and by what they say themselves.
pub fn sctp_ports<'c>(files: impl Iterator<Item = &'c FileContents>, changes: &[Change]) -> Vec<Finding> {
    let mut slices: BTreeMap<&ObjectName, Vec<&EndpointSlice>> = BTreeMap::new();
    for change in changes {
        if let Change::AllSlices(all) = change {
            all.iter().for_each(|slice| slices.entry(&slice.service).or_default().push(slice));
        }
    }
    let mut findings = Vec::new();
    for placed in files.flat_map(|file| &file.objects) {
        let Object::Service(name, Some(service)) = &placed.object else { continue };
        for (path, message) in troubles(service, slices.get(name).map_or(&[], Vec::as_slice)) {
            findings.push(Finding {
                file: placed.file.clone(),
                line: placed.line,
                object: format!("Service {name}"),
                path,
                severity: Severity::Warning,
                message,
            });
        }
    }
    findings
}

/// Paths and what is wrong there.
fn troubles(service: &ServiceWithSelector, slices: &[&EndpointSlice]) -> BTreeMap<String, String> {
    let mut troubles = BTreeMap::new();
    let ports = service.service.ports.iter().enumerate().filter(|(_, port)| port.protocol == Protocol::Sctp);
    for (index, port) in ports {
        for target in targets(service, port, slices) {
            for (field, dialled) in [("port", port.port), ("nodePort", port.node_port)] {
                let trouble =
                    sctp_trouble(&format!("{field} {dialled}"), dialled, target, field == "nodePort");
                if let Some(trouble) = trouble.filter(|_| dialled != 0) {
                    troubles.insert(format!("spec.ports[{index}].{field}"), trouble);
                }
            }
        }
    }
    troubles
}

/// The ports that the Service's pods listen on.
fn targets(service: &ServiceWithSelector, port: &ServicePort, slices: &[&EndpointSlice]) -> BTreeSet<u16> {
    let joined = slices.iter().flat_map(|slice| &slice.ports);
    let joined = joined.filter(|slot| slot.name == port.name && slot.protocol == port.protocol);
    let mut targets: BTreeSet<u16> = joined.filter_map(|slot| slot.port).collect();
    if let (true, Some(TargetPort::Number(number))) =
        (targets.is_empty(), service.target_ports.get(&port.name))
    {
        targets.insert(*number);
    }
    targets
}
