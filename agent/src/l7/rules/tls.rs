//! `VirtualService.spec.tls[]`, compiled. Nothing is decrypted; the server name comes from `clienthello.rs`.

use std::sync::Arc;

use super::{
    ObjectName,
    client::{Filter, RawFilter},
    hosts::{self, HostPattern, Mesh},
    l4::{L4Match, L4Rule, warn_unreachable},
    objects::{Messages, TlsMatch, TlsRoute},
};

/// Compiles the rules of an object that owns `own` hosts.
pub(crate) fn compile(
    raw: &[TlsRoute],
    own: &[HostPattern],
    name: &Arc<ObjectName>,
    mesh: &Mesh,
    messages: &mut Messages,
) -> Vec<L4Rule> {
    let mut rules = Vec::with_capacity(raw.len());
    for (i, route) in raw.iter().enumerate() {
        let place = format!("tls[{i}]");
        if route.matches.is_empty() {
            messages.error(format!("spec.{place}.match"), "is missing: tls rules match by sniHosts");
        }
        let mut matches = Vec::with_capacity(route.matches.len());
        for (j, entry) in route.matches.iter().enumerate() {
            matches.push(compile_match(entry, own, &format!("spec.{place}.match[{j}]"), messages));
        }
        rules.push(L4Rule::compile(&place, matches, &route.route, name, mesh, messages));
    }
    warn_unreachable(&rules, messages);
    rules
}

fn compile_match(raw: &TlsMatch, own: &[HostPattern], path: &str, messages: &mut Messages) -> L4Match {
    if raw.sni_hosts.is_empty() {
        messages.error(format!("{path}.sniHosts"), "is missing");
    }
    let mut names = Vec::with_capacity(raw.sni_hosts.len());
    for (i, text) in raw.sni_hosts.iter().enumerate() {
        let path = format!("{path}.sniHosts[{i}]");
        if let Some(why) = hosts::fault(text) {
            messages.error(path, format!("{text:?}: {why}"));
            continue;
        }
        // Clients send the name as it is, so short names stay short.
        let pattern = HostPattern::new(text.to_ascii_lowercase());
        let short = |host: &HostPattern| {
            !text.contains('*') && host.as_str().split('.').next() == Some(pattern.as_str())
        };
        if !own.iter().any(|host| host.covers(&pattern) || short(host)) {
            messages.error(path, format!("{text:?} is not among spec.hosts"));
        }
        names.push(pattern);
    }
    let filter = RawFilter {
        gateways: &raw.gateways,
        port: raw.port,
        source_namespace: raw.source_namespace.as_ref(),
        source_labels: &raw.source_labels,
        subnets: &raw.destination_subnets,
    };
    L4Match { server_names: Some(names), filter: Filter::compile(filter, path, messages) }
}
