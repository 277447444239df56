//! `loadBalancer.warmup`: an endpoint that has just come is chosen less often, and more from moment to moment.

use std::{cell::RefCell, collections::HashMap, net::SocketAddr, rc::Rc, sync::Arc, time::Duration};

use tokio::time::Instant;

use crate::l7::rules::{LoadBalancer, SimpleBalancer, table::Target};

/// How often another endpoint is drawn for one that is still cold: enough that a single warm one among many is not missed.
pub const TRIES: u32 = 16;
/// What `minimumPercent` is when nobody sets it.
const MINIMUM_PERCENT: f64 = 10.0;

/// Whether the choice heeds it. By chance and by hash, Istio does not either.
pub const fn slows(simple: SimpleBalancer) -> bool {
    match simple {
        SimpleBalancer::Unspecified
        | SimpleBalancer::LeastRequest
        | SimpleBalancer::LeastConn
        | SimpleBalancer::RoundRobin => true,
        SimpleBalancer::Random | SimpleBalancer::Passthrough => false,
    }
}

/// A destination: host, port, subset.
type Name = (Arc<str>, u16, Option<Arc<str>>);

/// Since when one worker has known the endpoints of destinations that ask for it.
#[derive(Default, Debug)]
pub struct Warmth(RefCell<HashMap<Name, HashMap<SocketAddr, Instant>>>);

impl Warmth {
    /// That of the endpoints that `target` has by now; `None` where nobody asks for it, or all are warm.
    pub fn of(&self, target: &Target, endpoints: &[SocketAddr]) -> Option<Rc<Warming>> {
        let balancer = target.policy.as_ref()?.traffic.load_balancer.as_ref()?;
        let (duration, least) = wanted(balancer)?;
        let now = Instant::now();
        let mut known = self.0.borrow_mut();
        let before = known.entry((target.host.clone(), target.port, target.subset.clone())).or_default();
        // An endpoint that went and comes again is cold again.
        let since = endpoints.iter().map(|at| (*at, before.get(at).copied().unwrap_or(now))).collect();
        before.clone_from(&since);
        Some(Rc::new(Warming { since, duration, least }))
    }
}

/// How long endpoints are new, and which share they have at first, 0 to 1.
fn wanted(balancer: &LoadBalancer) -> Option<(Duration, f64)> {
    let warmup = balancer.warmup.as_ref();
    let duration = warmup.and_then(|warmup| warmup.duration).or(balancer.warmup_duration_secs)?;
    let percent = warmup.and_then(|warmup| warmup.minimum_percent).unwrap_or(MINIMUM_PERCENT);
    Some((duration.0, (percent / 100.0).clamp(0.0, 1.0)))
}

/// Endpoints, and since when each is known.
#[derive(Debug)]
pub struct Warming {
    since: HashMap<SocketAddr, Instant>,
    duration: Duration,
    least: f64,
}

impl Warming {
    /// Whether an endpoint that was drawn is taken, by a `draw` that is uniform over all of `u32`.
    pub fn takes(&self, endpoint: SocketAddr, draw: u32) -> bool {
        let age = self.since.get(&endpoint).map_or(self.duration, Instant::elapsed);
        f64::from(draw) < share(age, self.duration, self.least) * (f64::from(u32::MAX) + 1.0)
    }
}

/// The share of an endpoint of this age, against one that is warm.
fn share(age: Duration, duration: Duration, least: f64) -> f64 {
    if age >= duration { 1.0 } else { (age.as_secs_f64() / duration.as_secs_f64()).max(least) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_grows_evenly_from_the_least() {
        let at = |age_s: u64, least: f64| share(Duration::from_secs(age_s), Duration::from_secs(100), least);
        for (case, age_s, least, want) in [
            ("just come", 0, 0.1, 0.1),
            ("not grown past the least yet", 5, 0.1, 0.1),
            ("half", 50, 0.1, 0.5),
            ("half, from more", 50, 0.8, 0.8),
            ("warm", 100, 0.1, 1.0),
            ("long since", 1_000, 0.0, 1.0),
        ] {
            assert!((at(age_s, least) - want).abs() < 1e-9, "{case}");
        }
        let cold = "10.0.0.1:80".parse().unwrap();
        let warming = Warming {
            since: [(cold, Instant::now())].into(),
            duration: Duration::from_secs(1_000),
            least: 0.25,
        };
        assert!(warming.takes(cold, u32::MAX / 4 - 1) && !warming.takes(cold, u32::MAX / 4 + 4_000_000));
        assert!(warming.takes("10.0.0.2:80".parse().unwrap(), u32::MAX), "nobody said that this one is new");
    }
}
