//! `VirtualService.spec.tcp[]`, compiled.

use std::sync::Arc;

use super::{
    ObjectName,
    client::{Filter, RawFilter},
    hosts::Mesh,
    l4::{L4Match, L4Rule, warn_unreachable},
    objects::{Messages, TcpMatch, TcpRoute},
};

/// Compiles the rules of an object.
pub(crate) fn compile(
    raw: &[TcpRoute],
    name: &Arc<ObjectName>,
    mesh: &Mesh,
    messages: &mut Messages,
) -> Vec<L4Rule> {
    let mut rules = Vec::with_capacity(raw.len());
    for (i, route) in raw.iter().enumerate() {
        let place = format!("tcp[{i}]");
        let mut matches = Vec::with_capacity(route.matches.len());
        for (j, entry) in route.matches.iter().enumerate() {
            matches.push(compile_match(entry, &format!("spec.{place}.match[{j}]"), messages));
        }
        rules.push(L4Rule::compile(&place, matches, &route.route, name, mesh, messages));
    }
    warn_unreachable(&rules, messages);
    rules
}

fn compile_match(raw: &TcpMatch, path: &str, messages: &mut Messages) -> L4Match {
    if raw.source_subnet.is_some() {
        messages.unsupported(format!("{path}.sourceSubnet"), "use sourceLabels or sourceNamespace");
    }
    let filter = RawFilter {
        gateways: &raw.gateways,
        port: raw.port,
        source_namespace: raw.source_namespace.as_ref(),
        source_labels: &raw.source_labels,
        subnets: &raw.destination_subnets,
    };
    L4Match { server_names: None, filter: Filter::compile(filter, path, messages) }
}
