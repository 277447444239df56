//! All files together: duplicates, endpoints from Pods, complete listings. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::Arc,
};

use serde_json::Value;

use super::{FileContents, Finding, Object, Placed, Severity};
use crate::{
    model::{Change, EndpointSlice, Node, ObjectName, OwnPod, RuleKind, ServiceKind},
    objects::{PodFacts, ServiceWithSelector, slices_from_pods},
};

/// What the files say, as complete listings for the node `node_name`. Of objects with the same kind and name the
/// first counts.
pub fn assemble<'c>(
    files: impl Iterator<Item = &'c FileContents>,
    node_name: &str,
) -> (Vec<Change>, Vec<Finding>) {
    let mut all = All { node: Node { name: node_name.to_owned(), ..Node::default() }, ..All::default() };
    for placed in files.flat_map(|file| &file.objects) {
        all.add(placed, node_name);
    }
    all.services_without_address();
    let named: BTreeSet<&ObjectName> = all.slices.iter().map(|slice| &slice.service).collect();
    let made: Vec<EndpointSlice> = all
        .services
        .iter()
        .filter(|service| !named.contains(&service.service.name))
        .flat_map(|service| slices_from_pods(service, &all.pods))
        .collect();
    all.slices.extend(made);
    let pods = all.pods.iter().map(PodFacts::pod).collect();
    let own = all.pods.iter().filter(|pod| pod.node.as_deref() == Some(node_name));
    let own_pod = |pod: &PodFacts| OwnPod { name: pod.name.clone(), left_alone: pod.left_alone.clone() };
    let own_pods = own.map(own_pod).collect();
    let services = all.services.into_iter().map(|service| service.service).collect();
    let changes = vec![
        Change::Node(all.node),
        Change::AllPods(pods),
        Change::AllOwnPods(own_pods),
        Change::AllRules(RuleKind::VirtualService, all.virtual_services),
        Change::AllRules(RuleKind::DestinationRule, all.destination_rules),
        Change::AllSlices(all.slices),
        Change::AllServices(services),
    ];
    (changes, all.findings)
}

#[derive(Default)]
struct All {
    services: Vec<ServiceWithSelector>,
    slices: Vec<EndpointSlice>,
    pods: Vec<PodFacts>,
    virtual_services: Vec<(ObjectName, Arc<Value>)>,
    destination_rules: Vec<(ObjectName, Arc<Value>)>,
    node: Node,
    places: BTreeMap<(&'static str, ObjectName), (PathBuf, usize)>,
    findings: Vec<Finding>,
}

impl All {
    /// Nobody allocates cluster IPs here, as an API server would.
    fn services_without_address(&mut self) {
        for service in &self.services {
            let model = &service.service;
            let wants = model.kind != ServiceKind::Headless && model.external_name.is_none();
            if wants && model.cluster_ips.is_empty() {
                let (file, line) =
                    self.places.get(&("Service", model.name.clone())).cloned().unwrap_or_default();
                self.findings.push(Finding {
                    file,
                    line,
                    object: format!("Service {}", model.name),
                    path: "spec.clusterIP".to_owned(),
                    severity: Severity::Warning,
                    message:
                        "is missing, and with manifests nothing allocates one; the Service is not served"
                            .to_owned(),
                });
            }
        }
    }
    fn add(&mut self, placed: &Placed, node_name: &str) {
        let (kind, name) = match &placed.object {
            Object::Service(name, _) => ("Service", name.clone()),
            Object::Slice(name, _) => ("EndpointSlice", name.clone()),
            Object::Pod(name, _) => ("Pod", name.clone()),
            Object::Rule(kind, name, _) => (kind.name(), name.clone()),
            Object::Node(node) => ("Node", ObjectName::new("", node.name.clone())),
        };
        let place = (placed.file.clone(), placed.line);
        if let Some((first, line)) = self.places.get(&(kind, name.clone())) {
            self.findings.push(Finding {
                file: placed.file.clone(),
                line: placed.line,
                object: format!("{kind} {name}"),
                path: "metadata.name".to_owned(),
                severity: Severity::Error,
                message: format!(
                    "is defined at {}:{line} already; that one counts, this one is left out",
                    first.display()
                ),
            });
            return;
        }
        self.places.insert((kind, name), place);
        match &placed.object {
            Object::Service(_, service) => self.services.extend(service.as_deref().cloned()),
            Object::Slice(_, slice) => self.slices.extend(slice.clone()),
            Object::Pod(_, pod) => self.pods.extend(pod.clone()),
            Object::Rule(RuleKind::VirtualService, name, object) => {
                self.virtual_services.push((name.clone(), Arc::clone(object)));
            }
            Object::Rule(RuleKind::DestinationRule, name, object) => {
                self.destination_rules.push((name.clone(), Arc::clone(object)));
            }
            Object::Node(node) if node.name == node_name => self.node = node.clone(),
            Object::Node(_) => {}
        }
    }
}
