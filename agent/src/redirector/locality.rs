//! `localityLbSetting`: which share of the requests goes to endpoints of which zone. Pure.

use std::{
    collections::{BTreeSet, HashMap},
    net::SocketAddr,
    sync::Arc,
};

use super::{config::Destination, draws::Draws};
use crate::l7::rules::{locality::Zones, table::Policy};

/// As long as so many percent of the own zone's endpoints are well, 72, they take everything: Envoy's overprovisioning
/// factor of 1.4, `envoy/config/endpoint/v3/endpoint.proto`.
const OVERPROVISIONING: f64 = 1.4;

/// How requests to a destination are shared among zones.
#[derive(Clone, Debug)]
pub struct Locality {
    zones: HashMap<SocketAddr, Arc<str>>,
    how: How,
}

#[derive(Clone, PartialEq, Debug)]
enum How {
    /// Locality of endpoints, percent.
    Distribute(Vec<(String, u32)>),
    /// The own zone, which has so many endpoints if all are well, before the others.
    Failover(String, usize),
}

/// Endpoints that share their part of the requests evenly.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Part {
    /// Of all parts' weights.
    pub weight: u32,
    /// What they have in common.
    pub name: String,
    /// Which they are.
    pub endpoints: Vec<SocketAddr>,
}

impl Locality {
    /// What `policy` says of the `endpoints` of `destination` for clients in the zone `own`; `None` where that is nothing.
    pub fn new(
        policy: &Policy,
        own: Option<&str>,
        destination: &Destination,
        endpoints: &[SocketAddr],
    ) -> Option<Self> {
        let balancer = policy.traffic.load_balancer.as_ref()?;
        let setting =
            balancer.locality_lb_setting.as_ref().filter(|setting| setting.enabled != Some(false))?;
        let known = destination.endpoints.iter().filter(|backend| endpoints.contains(&backend.address));
        let zones: HashMap<SocketAddr, Arc<str>> =
            known.filter_map(|backend| Some((backend.address, backend.zone.clone()?))).collect();
        if setting.distribute.is_empty() {
            policy.traffic.outlier_detection.as_ref()?;
            let own = own?.to_owned();
            let total = zones.values().filter(|zone| ***zone == *own).count();
            return Some(Self { zones, how: How::Failover(own, total) });
        }
        let fits = |from: &str| Zones::of(from).is_some_and(|zones| zones.has(own));
        let found = setting.distribute.iter().find(|distribute| fits(&distribute.from))?;
        if found.to.keys().any(|to| Zones::of(to).is_none()) {
            return None;
        }
        let shares = found.to.iter().map(|(to, percent)| (to.clone(), *percent)).collect();
        Some(Self { zones, how: How::Distribute(shares) })
    }

    /// The parts of those of the `endpoints` that are well; always as many, in the same order.
    pub fn split(&self, endpoints: &[SocketAddr]) -> Vec<Part> {
        let zone = |endpoint: &SocketAddr| self.zones.get(endpoint).map(|zone| &**zone);
        match &self.how {
            How::Distribute(shares) => {
                let mut taken = BTreeSet::new();
                let part = |(to, weight): &(String, u32)| {
                    let zones = Zones::of(to).unwrap_or(Zones::Any);
                    let own = endpoints.iter().copied().filter(|at| zones.has(zone(at)) && taken.insert(*at));
                    Part { weight: *weight, name: to.clone(), endpoints: own.collect() }
                };
                shares.iter().map(part).collect()
            }
            How::Failover(own, total) => {
                let (near, far): (Vec<SocketAddr>, Vec<SocketAddr>) =
                    endpoints.iter().copied().partition(|at| zone(at) == Some(own));
                let well = near.len() as f64 / (*total).max(1) as f64;
                let weight = ((well * OVERPROVISIONING).min(1.0) * 100.0).round() as u32;
                let far = Part { weight: 100 - weight, name: "other zones".to_owned(), endpoints: far };
                vec![Part { weight, name: format!("zone {own}"), endpoints: near }, far]
            }
        }
    }
}

/// The part that a request goes to; `None` where parts do not matter. A retry that may leave its zone goes to a part in
/// which no endpoint was `tried`, if there is one.
pub fn choose<'p>(
    draws: &Draws,
    parts: impl Iterator<Item = (u32, bool)> + Clone + 'p,
    leaves: bool,
) -> Option<usize> {
    let fresh = parts.clone().any(|(_, tried)| !tried);
    let parts = parts.enumerate().filter(move |(_, (_, tried))| !(leaves && fresh && *tried));
    let total: u32 = parts.clone().map(|(_, (weight, _))| weight).sum();
    if total == 0 {
        return parts.map(|(index, _)| index).next();
    }
    let mut draw = draws.below(total as usize) as u32;
    for (index, (weight, _)) in parts {
        if draw < weight {
            return Some(index);
        }
        draw -= weight;
    }
    None
}
