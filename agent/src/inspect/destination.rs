//! What people write for what is dialled, and the address that they mean.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    str::FromStr,
};

use sluice_common::layout::{FrontendKey, ServiceValue};

use super::rows::protocol_name;
use crate::{compile::Dialled, maps::Tables, model::Protocol, reconcile::dialled};

/// An address, or a Service by name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Destination {
    /// `ADDRESS:PORT[/PROTOCOL]`.
    Address(Dialled),
    /// `NAMESPACE/NAME[:PORT][/PROTOCOL]` or `NAME.NAMESPACE[.svc…][:PORT]`; the port by number or name.
    Service {
        /// Namespace.
        namespace: String,
        /// Name.
        name: String,
        /// Port number or name; the first port if absent.
        port: Option<String>,
        /// Transport; any if absent.
        protocol: Option<Protocol>,
    },
}

impl FromStr for Destination {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let lower = text.to_ascii_lowercase();
        let (rest, protocol) = match lower.rsplit_once('/') {
            Some((rest, tail)) if Protocol::from_name(tail).is_some() => (rest, Protocol::from_name(tail)),
            Some(_) | None => (lower.as_str(), None),
        };
        if let Ok(address) = rest.parse::<SocketAddr>() {
            let protocol = protocol.unwrap_or(Protocol::Tcp);
            return Ok(Self::Address(Dialled {
                address: address.ip().to_canonical(),
                port: address.port(),
                protocol,
            }));
        }
        if rest.parse::<IpAddr>().is_ok() {
            return Err(format!("{text} has no port; write ADDRESS:PORT, an IPv6 address in brackets"));
        }
        let (host, port) = match rest.rsplit_once(':') {
            Some((host, port)) => (host, Some(port.to_owned())),
            None => (rest, None),
        };
        let names = match host.split_once('/') {
            Some((namespace, name)) => Some((namespace, name)),
            None => {
                host.split_once('.').map(|(name, rest)| (rest.split('.').next().unwrap_or_default(), name))
            }
        };
        match names {
            Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() => {
                Ok(Self::Service { namespace: namespace.to_owned(), name: name.to_owned(), port, protocol })
            }
            Some(_) | None => Err(format!(
                "{text:?} is neither ADDRESS:PORT[/PROTOCOL] nor NAMESPACE/NAME[:PORT] nor NAME.NAMESPACE[.svc][:PORT]"
            )),
        }
    }
}

impl fmt::Display for Dialled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", SocketAddr::new(self.address, self.port), self.protocol.name())
    }
}

/// The address of a Service by name.
pub fn resolve(
    tables: &Tables,
    namespace: &str,
    name: &str,
    port: Option<&str>,
    protocol: Option<Protocol>,
) -> Result<Dialled, String> {
    let mut candidates: Vec<(u8, FrontendKey, &ServiceValue)> = tables
        .frontends
        .iter()
        .filter_map(|(key, value)| Some((value.kind, *key, tables.services.get(&value.service_id)?)))
        .filter(|(_, _, service)| service.namespace.as_str() == namespace && service.name.as_str() == name)
        .collect();
    if candidates.is_empty() {
        return Err(format!(
            "no Service {namespace}/{name} is in the maps; `sluice service` lists those that are"
        ));
    }
    // A NodePort has no address of its own to dial.
    candidates.retain(|(_, key, _)| key.scope == 0);
    candidates.sort_by_key(|(kind, key, service)| (service.family, *kind, *key));
    let matches = |service: &ServiceValue| {
        let right = protocol.is_none_or(|protocol| protocol as u8 == service.protocol);
        right
            && port.is_none_or(|port| {
                port == service.port_name.as_str() || port.parse() == Ok(u16::from_be(service.port_be))
            })
    };
    let chosen =
        candidates.iter().find(|(_, _, service)| matches(service)).and_then(|(_, key, _)| dialled(key));
    chosen.ok_or_else(|| {
        let ports: std::collections::BTreeSet<String> = candidates
            .iter()
            .map(|(_, _, service)| {
                format!("{}/{}", u16::from_be(service.port_be), protocol_name(service.protocol))
            })
            .collect();
        let ports: Vec<String> = ports.into_iter().collect();
        format!("{namespace}/{name} has no port {}; it has {}", port.unwrap_or_default(), ports.join(", "))
    })
}
