//! Who connects, and the filters that depend on nothing else. They are applied once per connection.

use std::{collections::BTreeMap, fmt, net::IpAddr};

use super::{
    actions::port_number,
    hosts::binds_mesh,
    objects::{Labels, Messages},
    subnet::Subnet,
};

/// A client, as rules tell clients apart.
#[derive(Clone, Copy, Debug)]
pub struct Client<'a> {
    /// Namespace of the pod; `None` for the host and for clients outside the cluster.
    pub namespace: Option<&'a str>,
    /// Labels of the pod; empty for all others.
    pub labels: &'a BTreeMap<String, String>,
    /// The address that was dialled; `destinationSubnets` look at it, and do not apply where it is unknown.
    pub dialled: Option<IpAddr>,
}

impl Client<'_> {
    /// A client that nothing is known of: the host, or one outside the cluster.
    pub const UNKNOWN: Client<'static> = Client { namespace: None, labels: &BTreeMap::new(), dialled: None };
}

/// The static part of a match.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Filter {
    on_mesh: bool,
    port: Option<u16>,
    source_namespace: Option<String>,
    source_labels: Labels,
    subnets: Vec<Subnet>,
}

/// The same fields of HTTP, TLS and TCP matches, as written.
#[derive(Clone, Copy)]
pub(crate) struct RawFilter<'a> {
    pub gateways: &'a [String],
    pub port: Option<u32>,
    pub source_namespace: Option<&'a String>,
    pub source_labels: &'a Labels,
    pub subnets: &'a [String],
}

/// A rule, as far as filters are concerned.
pub(crate) trait Filtered {
    /// The filters of its matches; none for a rule without matches, which concerns everyone.
    fn filters(&self) -> impl ExactSizeIterator<Item = &Filter>;

    /// Whether it may concern some client at `port`.
    fn may_hold(&self, port: u16) -> bool {
        let mut filters = self.filters();
        filters.len() == 0 || filters.any(|filter| filter.allows_port(port))
    }

    /// Whether it holds for all clients or for none.
    fn is_same_for_all(&self) -> bool {
        !self.filters().any(Filter::tells_apart)
    }
}

/// Why a match does not concern a client.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Miss<'a> {
    Gateway,
    Port(u16, u16),
    Namespace(&'a str, Option<String>),
    Label(&'a str, &'a str, Option<String>),
    Subnet(Option<IpAddr>),
}

impl Filter {
    pub(crate) fn compile(raw: RawFilter<'_>, path: &str, messages: &mut Messages) -> Self {
        let port = raw.port.and_then(|port| port_number(port, &format!("{path}.port"), messages));
        let mut subnets = Vec::new();
        for (i, text) in raw.subnets.iter().enumerate() {
            match Subnet::parse(text) {
                Some(subnet) => subnets.push(subnet),
                None => messages.error(
                    format!("{path}.destinationSubnets[{i}]"),
                    format!("{text:?} is no address or prefix"),
                ),
            }
        }
        let namespace = raw.source_namespace.filter(|name| !name.is_empty());
        let mut filter = Self {
            on_mesh: binds_mesh(raw.gateways),
            port,
            source_namespace: namespace.cloned(),
            source_labels: raw.source_labels.clone(),
            subnets,
        };
        let has_source = namespace.is_some() || !raw.source_labels.is_empty();
        if !raw.gateways.is_empty() && has_source {
            messages.warn(path, "names gateways, so that sourceLabels and sourceNamespace are not looked at");
            filter.source_namespace = None;
            filter.source_labels.clear();
        }
        if !filter.on_mesh {
            messages
                .warn(format!("{path}.gateways"), "not bound to mesh: this match does nothing on this node");
        }
        filter
    }

    /// Why this does not concern `client` at `port`; `None` if it does.
    pub(crate) fn miss(&self, port: u16, client: &Client<'_>) -> Option<Miss<'_>> {
        if !self.on_mesh {
            return Some(Miss::Gateway);
        }
        if let Some(wanted) = self.port.filter(|wanted| *wanted != port) {
            return Some(Miss::Port(wanted, port));
        }
        if let Some(wanted) =
            self.source_namespace.as_deref().filter(|wanted| client.namespace != Some(wanted))
        {
            return Some(Miss::Namespace(wanted, client.namespace.map(str::to_owned)));
        }
        let wrong = self.source_labels.iter().find(|(key, value)| client.labels.get(*key) != Some(*value));
        if let Some((key, value)) = wrong {
            return Some(Miss::Label(key, value, client.labels.get(key).cloned()));
        }
        let inside = |address| self.subnets.iter().any(|subnet| subnet.contains(address));
        if !self.subnets.is_empty() && !client.dialled.is_some_and(inside) {
            return Some(Miss::Subnet(client.dialled));
        }
        None
    }

    /// Whether it tells clients, or the addresses that they dial, apart.
    fn tells_apart(&self) -> bool {
        self.source_namespace.is_some() || !self.source_labels.is_empty() || !self.subnets.is_empty()
    }

    /// Whether everything that `inner` lets through goes through this one too, as far as can be told; in doubt no.
    pub(crate) fn covers(&self, inner: &Self) -> bool {
        let subnets = self.subnets.is_empty()
            || (!inner.subnets.is_empty()
                && inner.subnets.iter().all(|subnet| self.subnets.contains(subnet)));
        self.on_mesh
            && subnets
            && (self.port.is_none() || self.port == inner.port)
            && (self.source_namespace.is_none() || self.source_namespace == inner.source_namespace)
            && self.source_labels.iter().all(|(key, value)| inner.source_labels.get(key) == Some(value))
    }

    /// Whether it concerns clients on this node at all, and not only those of gateways.
    pub(crate) fn is_on_mesh(&self) -> bool {
        self.on_mesh
    }

    /// What must hold besides the port, in words.
    pub(crate) fn words(&self) -> Vec<String> {
        let mut words = Vec::new();
        words.extend(self.source_namespace.as_ref().map(|name| format!("from namespace {name:?}")));
        words.extend(self.source_labels.iter().map(|(key, value)| format!("from pods with {key}={value}")));
        if !self.subnets.is_empty() {
            let subnets: Vec<String> = self.subnets.iter().map(ToString::to_string).collect();
            words.push(format!("dialled within {}", subnets.join(" or ")));
        }
        words
    }

    /// The port that it names.
    pub(crate) fn port(&self) -> Option<u16> {
        self.port
    }

    /// Whether it may concern some client at `port`.
    pub(crate) fn allows_port(&self, port: u16) -> bool {
        self.on_mesh && self.port.is_none_or(|wanted| wanted == port)
    }
}

impl fmt::Display for Miss<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gateway => f.write_str("gateways do not include mesh"),
            Self::Port(wanted, port) => write!(f, "port is {port}, wanted {wanted}"),
            Self::Namespace(wanted, Some(namespace)) => {
                write!(f, "the client's namespace is {namespace:?}, wanted {wanted:?}")
            }
            Self::Namespace(wanted, None) => write!(f, "the client is no pod, wanted namespace {wanted:?}"),
            Self::Label(key, wanted, Some(value)) => {
                write!(f, "the client's label {key:?} is {value:?}, wanted {wanted:?}")
            }
            Self::Label(key, wanted, None) => write!(f, "the client has no label {key:?}, wanted {wanted:?}"),
            Self::Subnet(Some(address)) => write!(f, "{address} is in none of destinationSubnets"),
            Self::Subnet(None) => {
                f.write_str("the address dialled is unknown, wanted one of destinationSubnets")
            }
        }
    }
}
