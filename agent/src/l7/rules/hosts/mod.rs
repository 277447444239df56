//! Host names of rules: short names, wildcards, gateways. Visibility is in `export.rs`, who wins in `table`.

use std::fmt;

use super::{
    ObjectName,
    objects::{Messages, VirtualServiceSpec},
};

mod export;

#[cfg(test)]
mod tests;

pub use export::{Export, Tier};

/// What the whole mesh has in common.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mesh {
    /// DNS domain of the cluster, without dots at its ends.
    pub domain: String,
    /// Where DestinationRules for everyone live.
    pub root_namespace: String,
}

impl Default for Mesh {
    fn default() -> Self {
        Self { domain: "cluster.local".to_owned(), root_namespace: "istio-system".to_owned() }
    }
}

impl Mesh {
    /// `host` in full and in lower case: a name without a dot is a Service of `namespace`.
    pub fn resolve(&self, host: &str, namespace: &str) -> String {
        let host = host.to_ascii_lowercase();
        let unchanged = host.is_empty() || host == "*" || host.contains(['.', ':']);
        if unchanged { host } else { format!("{host}.{namespace}.svc.{}", self.domain) }
    }

    /// Namespace of the Service that `host` names, if it has the form of one.
    pub fn namespace_of<'a>(&self, host: &'a str) -> Option<&'a str> {
        let name = host.strip_suffix(self.domain.as_str())?.strip_suffix(".svc.")?;
        name.split_once('.').map(|(_, namespace)| namespace).filter(|namespace| !namespace.contains('.'))
    }
}

/// A host as a rule names it, resolved.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct HostPattern(String);

impl HostPattern {
    /// From a resolved host.
    pub fn new(host: impl Into<String>) -> Self {
        Self(host.into())
    }

    /// How well `host` is met: longer is more specific, an exact name most of all; `None` is not at all.
    pub fn specificity(&self, host: &str) -> Option<usize> {
        match self.0.strip_prefix('*') {
            // `*.foo.com` is not `.foo.com`, nor `foo.com`.
            Some(suffix) => (host.len() > suffix.len() && host.ends_with(suffix)).then_some(suffix.len()),
            None => (self.0 == host).then_some(usize::MAX),
        }
    }

    /// Whether some host meets both.
    pub fn overlaps(&self, other: &Self) -> bool {
        match (self.0.strip_prefix('*'), other.0.strip_prefix('*')) {
            (Some(a), Some(b)) => a.ends_with(b) || b.ends_with(a),
            (Some(_), None) => self.specificity(&other.0).is_some(),
            (None, Some(_)) => other.specificity(&self.0).is_some(),
            (None, None) => self == other,
        }
    }

    /// Whether all hosts that meet `inner` meet this one too.
    pub fn covers(&self, inner: &Self) -> bool {
        match (self.0.strip_prefix('*'), inner.0.strip_prefix('*')) {
            (Some(outer), Some(inner)) => inner.ends_with(outer),
            (_, None) => self.specificity(&inner.0).is_some(),
            (None, Some(_)) => false,
        }
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What is wrong with `host` as a name that may have a wildcard; `None` is nothing.
pub(crate) fn fault(host: &str) -> Option<&'static str> {
    if host == "*" || host.parse::<std::net::IpAddr>().is_ok() {
        return None;
    }
    let name = host.strip_prefix("*.").unwrap_or(host);
    if name.contains('*') {
        return Some("a wildcard must be `*` or begin with `*.`");
    }
    let label_ok = |label: &str| {
        let inner = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        (1..=63).contains(&label.len())
            && label.chars().all(inner)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let ok = name.len() <= 255 && name.split('.').all(label_ok);
    (!ok).then_some("is no DNS name")
}

/// Whether a list of gateways includes the mesh; an empty list does.
pub(crate) fn binds_mesh(gateways: &[String]) -> bool {
    gateways.is_empty() || gateways.iter().any(|gateway| gateway == "mesh")
}

/// Resolves and checks `spec.hosts` and `spec.gateways`; overlapping hosts are an error.
pub(crate) fn compile_hosts(
    spec: &VirtualServiceSpec,
    name: &ObjectName,
    mesh: &Mesh,
    messages: &mut Messages,
) -> Vec<HostPattern> {
    let on_mesh = binds_mesh(&spec.gateways);
    for (i, gateway) in spec.gateways.iter().enumerate() {
        let plain = gateway.strip_prefix("./").unwrap_or(gateway);
        let parts_ok = plain.split('/').count() <= 2 && plain.split('/').all(|part| fault(part).is_none());
        if !parts_ok || plain.contains('*') {
            messages.error(
                format!("spec.gateways[{i}]"),
                format!("{gateway:?} is neither `mesh` nor the name of a Gateway"),
            );
        }
    }
    if !on_mesh {
        messages.warn("spec.gateways", "not bound to mesh: these rules do nothing on this node");
    }
    let mut hosts: Vec<HostPattern> = Vec::new();
    for (i, raw) in spec.hosts.iter().enumerate() {
        let path = format!("spec.hosts[{i}]");
        if let Some(why) = fault(raw) {
            messages.error(path, format!("{raw:?}: {why}"));
            continue;
        }
        if raw == "*" && on_mesh {
            messages.error(&path, "`*` is not allowed on mesh: name the hosts, or bind to a gateway only");
        }
        let host = HostPattern::new(mesh.resolve(raw, &name.namespace));
        if let Some(other) = hosts.iter().find(|other| other.overlaps(&host)) {
            messages.error(path, format!("{host} overlaps {other}, which this object names too"));
        }
        hosts.push(host);
    }
    hosts
}
