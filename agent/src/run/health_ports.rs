//! `healthCheckNodePort`: what tells a load balancer whether this node has endpoints of a Service with
//! `externalTrafficPolicy: Local`. [`Checks`] decides what is served where; [`serve`] serves it.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result};
use hyper::{
    StatusCode,
    header::{HeaderName, HeaderValue},
};
use serde::Serialize;
use tokio::{sync::watch, task::JoinSet};

use super::http;
use crate::{
    compile::CompiledPort,
    health::{About, Shared},
    k8s::{Notice, Teller},
    model::{EndpointState, Family, ObjectName, Service},
};

/// After how long a port that could not be had is tried again.
const AGAIN: Duration = Duration::from_secs(2);
const WEIGHT: HeaderName = HeaderName::from_static("x-load-balancing-endpoint-weight");

/// What a Service's health check says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Check {
    port: u16,
    created_s: i64,
    /// How many ready endpoints of each of its IP families live on this node.
    ready: BTreeMap<Family, usize>,
}

impl Check {
    /// `ports` is what `service` was compiled to. `None` when it has no health check, or no address yet.
    pub fn of(service: &Service, ports: &[CompiledPort]) -> Option<Self> {
        if service.health_check_node_port == 0 {
            return None;
        }
        let mut ready: BTreeMap<Family, BTreeSet<IpAddr>> = BTreeMap::new();
        for port in ports {
            // Terminating ones serve on, but the load balancer should send its new connections elsewhere.
            let here = port.endpoints.iter().filter(|end| end.local && end.state == EndpointState::Ready);
            ready.entry(port.id.family).or_default().extend(here.map(|end| end.address));
        }
        let ready: BTreeMap<Family, usize> =
            ready.into_iter().map(|(family, addresses)| (family, addresses.len())).collect();
        let check = Self { port: service.health_check_node_port, created_s: service.created_s, ready };
        (!check.ready.is_empty()).then_some(check)
    }
}

/// What is served where.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Table {
    /// Whom each listener speaks for, and how many endpoints that Service has here.
    servers: BTreeMap<SocketAddr, (ObjectName, usize)>,
    /// Services whose port is another's: loser, port, winner.
    conflicts: BTreeSet<(ObjectName, u16, ObjectName)>,
}

/// The health checks of all Services.
#[derive(Debug)]
pub struct Checks {
    by_service: BTreeMap<ObjectName, Check>,
    table: watch::Sender<Table>,
}

impl Checks {
    /// None yet; what is served goes to `table`.
    pub fn new(table: watch::Sender<Table>) -> Self {
        Self { by_service: BTreeMap::new(), table }
    }

    /// Replaces the check of one Service.
    pub fn set(&mut self, service: ObjectName, check: Option<Check>) {
        match check {
            Some(check) => drop(self.by_service.insert(service, check)),
            None => drop(self.by_service.remove(&service)),
        }
    }

    /// The ports, each once.
    pub fn ports(&self) -> impl Iterator<Item = u16> {
        self.by_service.values().map(|check| check.port)
    }

    /// Serves all checks on these addresses from now on.
    pub fn publish(&self, addresses: &[IpAddr]) {
        let next = table(&self.by_service, addresses);
        self.table.send_if_modified(|table| {
            let changed = *table != next;
            *table = next;
            changed
        });
    }
}

/// Of two Services that want one port the older has it, as with every other address.
fn table(checks: &BTreeMap<ObjectName, Check>, addresses: &[IpAddr]) -> Table {
    let mut by_age: Vec<(&ObjectName, &Check)> = checks.iter().collect();
    by_age.sort_by_key(|(name, check)| (check.created_s, *name));
    let mut table = Table::default();
    for (name, check) in by_age {
        for address in addresses {
            let Some(ready) = check.ready.get(&Family::of(*address)) else { continue };
            let place = SocketAddr::new(*address, check.port);
            match table.servers.get(&place) {
                Some((winner, _)) => {
                    table.conflicts.insert((name.clone(), check.port, winner.clone()));
                }
                None => drop(table.servers.insert(place, (name.clone(), *ready))),
            }
        }
    }
    table
}

/// Listens where `table` says, and answers as it says. A port that cannot be had is a warning, and an event that `teller` is
/// told once, and is tried again.
///
/// # Errors
/// The programming thread is gone.
pub async fn serve(mut table: watch::Receiver<Table>, shared: Arc<Shared>, teller: Teller) -> Result<()> {
    let mut open: BTreeMap<SocketAddr, JoinSet<Result<()>>> = BTreeMap::new();
    let mut warned = BTreeSet::new();
    // However many Services have one, they cost no more file descriptors.
    let places = Arc::<http::Places>::default();
    loop {
        let wanted = table.borrow_and_update().clone();
        let gone: Vec<SocketAddr> =
            open.keys().filter(|place| !wanted.servers.contains_key(place)).copied().collect();
        for place in gone {
            if let Some(mut server) = open.remove(&place) {
                server.shutdown().await;
            }
        }
        let mut failures = BTreeMap::new();
        for place in wanted.servers.keys().filter(|place| !open.contains_key(place)).collect::<Vec<_>>() {
            match http::listen(*place, http::Families::V6) {
                Ok(listener) => {
                    let mut server = JoinSet::new();
                    let answer = Arc::new(answer_at(*place, &table, &shared));
                    server.spawn(http::serve(listener, http::Use::Check, Arc::clone(&places), answer));
                    open.insert(*place, server);
                }
                Err(error) => drop(failures.insert(*place, error)),
            }
        }
        let warnings = warnings(&wanted, &failures);
        if warnings != warned {
            notices(warnings.difference(&warned)).into_iter().for_each(|notice| teller.tell(notice));
            shared.clear("health-check/");
            for (service, message) in &warnings {
                let text = format!("Service {service}: {message}");
                if !warned.contains(&(service.clone(), message.clone())) {
                    tracing::warn!("{text}");
                }
                shared.warn_about(&format!("health-check/{text}"), text, about(service, message));
            }
            warned = warnings;
        }
        tokio::select! {
            changed = table.changed() => changed.context("the programming thread is gone")?,
            () = tokio::time::sleep(AGAIN), if !failures.is_empty() => {}
        }
    }
}

fn warnings(
    table: &Table,
    failures: &BTreeMap<SocketAddr, std::io::Error>,
) -> BTreeSet<(ObjectName, String)> {
    let failed = failures.iter().filter_map(|(place, error)| {
        let (service, _) = table.servers.get(place)?;
        let message = match error.kind() {
            std::io::ErrorKind::AddrInUse => format!(
                "healthCheckNodePort {} is in use on {} by another program of this node; load balancers do not see \
                 that this node has endpoints",
                place.port(),
                place.ip()
            ),
            _ => format!("healthCheckNodePort {} cannot be served on {}: {error}", place.port(), place.ip()),
        };
        Some((service.clone(), message))
    });
    let lost = table.conflicts.iter().map(|(loser, port, winner)| {
        let message = format!(
            "healthCheckNodePort {port} belongs to Service {winner}, which comes first (by age, then name)"
        );
        (loser.clone(), message)
    });
    failed.chain(lost).collect()
}

/// One for each Service, with all that is new about it.
fn notices<'w>(fresh: impl Iterator<Item = &'w (ObjectName, String)>) -> Vec<Notice> {
    let mut by_service: BTreeMap<&ObjectName, Vec<&str>> = BTreeMap::new();
    fresh.for_each(|(service, message)| by_service.entry(service).or_default().push(message));
    let notice = |(service, messages): (&ObjectName, Vec<&str>)| Notice {
        service: service.clone(),
        reason: "HealthCheckNodePortUnavailable",
        action: "ServeHealthCheck",
        note: messages.join("; "),
    };
    by_service.into_iter().map(notice).collect()
}

fn about(service: &ObjectName, message: &str) -> About {
    About {
        kind: "Service".to_owned(),
        namespace: service.namespace.clone(),
        name: service.name.clone(),
        rejected: false,
        path: "spec.healthCheckNodePort".to_owned(),
        message: message.to_owned(),
    }
}

/// What the listener at `place` says, whatever is asked: the table as it is at that moment.
fn answer_at(
    place: SocketAddr,
    table: &watch::Receiver<Table>,
    shared: &Arc<Shared>,
) -> impl Fn(&hyper::Method, &str, bool) -> http::Answer + Send + Sync + use<> {
    let (table, shared) = (table.clone(), Arc::clone(shared));
    move |_, _, _| {
        let entry = table.borrow().servers.get(&place).cloned();
        match entry {
            Some((service, ready)) => answer(&service, ready, shared.is_forwarding()),
            // Between the Service's end and the listener's.
            None => http::text(StatusCode::SERVICE_UNAVAILABLE, String::new()),
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Body<'a> {
    service: BodyService<'a>,
    local_endpoints: usize,
    service_proxy_healthy: bool,
}

#[derive(Serialize)]
struct BodyService<'a> {
    namespace: &'a str,
    name: &'a str,
}

/// Source: kube-proxy `pkg/proxy/healthcheck/service_health.go`; load balancers' controllers parse it.
fn answer(service: &ObjectName, ready: usize, healthy: bool) -> http::Answer {
    let body = Body {
        service: BodyService { namespace: &service.namespace, name: &service.name },
        local_endpoints: ready,
        service_proxy_healthy: healthy,
    };
    let mut text = Vec::new();
    let tabs = serde_json::ser::PrettyFormatter::with_indent(b"\t");
    // Writing to a Vec cannot fail.
    let _ = body.serialize(&mut serde_json::Serializer::with_formatter(&mut text, tabs));
    let status = if ready > 0 && healthy { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let mut answer = http::json(status, String::from_utf8_lossy(&text).into_owned());
    answer.headers_mut().insert(WEIGHT, HeaderValue::from(ready));
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_family_of_a_service_is_served_on_its_own_addresses_and_the_older_service_wins_a_port() {
        let name = |name: &str| ObjectName::new("shop", name);
        let check = |port, created_s, ready: &[(Family, usize)]| Check {
            port,
            created_s,
            ready: ready.iter().copied().collect(),
        };
        let addresses: Vec<IpAddr> =
            ["10.0.0.5", "fd00::5"].iter().map(|text| text.parse().unwrap()).collect();
        let both = [(Family::V4, 2), (Family::V6, 0)];
        for (case, checks, servers, losers) in [
            (
                "dual-stack",
                vec![("a", check(1, 0, &both))],
                vec![("10.0.0.5:1", "a", 2), ("[fd00::5]:1", "a", 0)],
                vec![],
            ),
            ("IPv4", vec![("a", check(1, 0, &both[..1]))], vec![("10.0.0.5:1", "a", 2)], vec![]),
            (
                "a younger one, the first by name",
                vec![("a", check(1, 9, &both[..1])), ("b", check(1, 8, &both))],
                vec![("10.0.0.5:1", "b", 2), ("[fd00::5]:1", "b", 0)],
                vec!["a"],
            ),
            (
                "other ports",
                vec![("a", check(1, 0, &both[..1])), ("b", check(2, 0, &both[..1]))],
                vec![("10.0.0.5:1", "a", 2), ("10.0.0.5:2", "b", 2)],
                vec![],
            ),
        ] {
            let checks = checks.into_iter().map(|(service, check)| (name(service), check)).collect();
            let got = table(&checks, &addresses);
            let servers: BTreeMap<SocketAddr, (ObjectName, usize)> = servers
                .into_iter()
                .map(|(place, service, ready)| (place.parse().unwrap(), (name(service), ready)))
                .collect();
            assert_eq!(got.servers, servers, "{case}");
            let lost: Vec<_> = got.conflicts.iter().map(|(loser, _, _)| loser.name.as_str()).collect();
            assert_eq!(lost, losers, "{case}");
        }
    }

    #[test]
    fn a_service_is_told_of_once_with_all_that_is_new() {
        let fresh = [("a", "one"), ("a", "two"), ("b", "three")]
            .map(|(service, message)| (ObjectName::new("shop", service), message.to_owned()));
        let told: Vec<(String, String)> =
            notices(fresh.iter()).into_iter().map(|notice| (notice.service.name, notice.note)).collect();
        assert_eq!(told, [("a", "one; two"), ("b", "three")].map(|(a, b)| (a.to_owned(), b.to_owned())));
        assert!(notices(std::iter::empty()).is_empty());
    }
}
