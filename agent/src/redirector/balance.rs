//! The choice of an endpoint: by requests in flight, by chance, in turn, or by a hash of the client.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    net::SocketAddr,
    rc::Rc,
    sync::Arc,
};

use crate::l7::rules::{
    SimpleBalancer, TlsMode,
    actions::RetryPolicy,
    protocol::Speech,
    table::{Policy, Target, TargetState},
};

use super::{
    attempts::Trouble,
    config::{Config, Destination},
    destinations::{OneUse, Row, Use},
    draws::{Draws, mix},
    hash::hash_of,
    locality::{self, Locality, Part},
    monitors::Monitor,
    outliers::Event,
    upstream::Place,
    warmup::{self, Warming, Warmth},
    worker::Worker,
};

/// How often another endpoint is drawn when one was tried before.
const CHOICES: u32 = RetryPolicy::HOST_SELECTION_ATTEMPTS;

/// Requests in flight by endpoint, and the endpoints of each destination.
#[derive(Default, Debug)]
pub struct Balancer {
    in_flight: Rc<RefCell<HashMap<SocketAddr, u32>>>,
    known: RefCell<Known>,
    warmth: Warmth,
}

/// Endpoints by destination and policy, both by address of the object, which the configuration keeps alive.
#[derive(Default, Debug)]
struct Known {
    config: Arc<Config>,
    candidates: HashMap<(usize, usize), Rc<Candidates>>,
}

impl Known {
    /// Begins anew for another configuration.
    fn follow(&mut self, config: &Arc<Config>) {
        if !Arc::ptr_eq(&self.config, config) {
            *self = Self { config: config.clone(), candidates: HashMap::new() };
        }
    }
}

/// The endpoints that a destination has.
#[derive(Debug)]
pub struct Candidates {
    endpoints: Vec<SocketAddr>,
    /// Of each endpoint, in the same order.
    hashes: Vec<u64>,
    affinity: bool,
    turn: Rc<Cell<usize>>,
    monitor: Option<Monitor>,
    warming: Option<Rc<Warming>>,
    locality: Option<Rc<Locality>>,
    /// Of the zones that `locality` tells apart: weight and endpoints.
    parts: Vec<(u32, Rc<Candidates>)>,
    /// What endpoints are declared to speak.
    pub speech: Option<Speech>,
    /// What is open to the destination.
    pub row: Arc<Row>,
}

/// What one choice has to heed.
#[derive(Clone, Copy, Debug)]
pub struct Wish<'a> {
    /// Clients with the same hash get the same endpoint, as long as it is there.
    pub hash: Option<u64>,
    /// Endpoints that failed already.
    pub tried: &'a [SocketAddr],
    /// Whether those are avoided.
    pub avoid_tried: bool,
    /// Whether it may be one of a zone where none was tried yet.
    pub leaves_zone: bool,
}

/// A request or connection that counts as in flight until this is dropped.
#[derive(Debug)]
pub struct InFlight {
    counts: Rc<RefCell<HashMap<SocketAddr, u32>>>,
    endpoint: SocketAddr,
    _used: OneUse,
    held: Vec<Place>,
}

impl InFlight {
    /// Keeps `held` as long as this.
    pub fn hold<P: Into<Place>>(&mut self, held: Option<P>) {
        self.held.extend(held.map(Into::into));
    }
}

impl Candidates {
    fn new(
        worker: &Worker,
        config: &Config,
        target: &Target,
        destination: &Destination,
        endpoints: Vec<SocketAddr>,
    ) -> Self {
        let Destination { affinity, speech, .. } = *destination;
        let hashes = endpoints.iter().copied().map(endpoint_hash).collect();
        let monitor = worker.shared.monitors.monitor(target, &endpoints);
        let warming = worker.balancer.warmth.of(target, &endpoints);
        let policy = target.policy.as_deref();
        let locality =
            policy.and_then(|policy| Locality::new(policy, config.zone.as_deref(), destination, &endpoints));
        let (locality, parts) = (locality.map(Rc::new), Vec::new());
        let turn = Rc::default();
        let row = worker.counters.destinations.row(target);
        let all = Self { endpoints, hashes, affinity, turn, monitor, warming, locality, parts, speech, row };
        all.in_parts(&[])
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.endpoints.len()
    }

    /// Whether clients of the Service stay with their endpoint.
    pub fn affinity(&self) -> bool {
        self.affinity
    }

    /// Notes what became of a request or a connection to `endpoint`.
    pub fn note(&self, worker: &Worker, endpoint: SocketAddr, event: Event) {
        if let Some(monitor) = &self.monitor {
            monitor.note(worker, endpoint, event);
        }
    }

    /// Some of them, of one zone.
    fn some(&self, endpoints: Vec<SocketAddr>, hashes: Vec<u64>, turn: Rc<Cell<usize>>) -> Self {
        let (monitor, warming, row) = (self.monitor.clone(), self.warming.clone(), self.row.clone());
        Self { endpoints, hashes, turn, monitor, warming, row, locality: None, parts: Vec::new(), ..*self }
    }

    /// Told apart by zone, as those in `before` were, whose turns go on.
    fn in_parts(mut self, before: &[(u32, Rc<Self>)]) -> Self {
        let split =
            self.locality.as_ref().map(|locality| locality.split(&self.endpoints)).unwrap_or_default();
        let part = |(index, part): (usize, Part)| {
            let turn = before.get(index).map_or_else(Rc::default, |(_, before)| before.turn.clone());
            let weight = if part.endpoints.is_empty() { 0 } else { part.weight };
            (weight, Rc::new(self.some(part.endpoints, Vec::new(), turn)))
        };
        self.parts = split.into_iter().enumerate().map(part).collect();
        self
    }

    /// Those that a request without a hash goes to: of one zone where zones are told apart.
    fn of_zone(&self, draws: &Draws, wish: &Wish<'_>) -> &Self {
        let some = self.parts.iter().filter(|(_, part)| !part.endpoints.is_empty());
        let tried = |part: &Self| part.endpoints.iter().any(|at| wish.tried.contains(at));
        let parts = some.clone().map(|(weight, part)| (*weight, tried(part)));
        let chosen = locality::choose(draws, parts, wish.leaves_zone);
        chosen.and_then(|index| some.clone().nth(index)).map_or(self, |(_, part)| part)
    }

    /// Those of them that are not left out for failing; the same where nobody is.
    fn healthy(self: &Rc<Self>) -> Rc<Self> {
        let left_out = self.monitor.as_ref().map(Monitor::left_out).unwrap_or_default();
        if left_out.is_empty() {
            return self.clone();
        }
        let pairs = self.endpoints.iter().copied().zip(self.hashes.iter().copied());
        let (endpoints, hashes) = pairs.filter(|(endpoint, _)| !left_out.contains(endpoint)).unzip();
        let all = self.some(endpoints, hashes, self.turn.clone());
        Rc::new(Self { locality: self.locality.clone(), ..all }.in_parts(&self.parts))
    }
}

impl Balancer {
    /// The endpoints of `target`; `None` when there is none, or none that is well or may be reached in plain text.
    pub async fn candidates(
        &self,
        worker: &Worker,
        config: &Arc<Config>,
        target: &Target,
    ) -> Option<Rc<Candidates>> {
        if target.state != TargetState::Ready || wants_tls(target) {
            return None;
        }
        let named = config.named(&target.host, target.port);
        let destination = named.as_ref().or_else(|| config.destination(&target.host, target.port))?;
        if let Some(name) = destination.external_name.as_ref().filter(|_| destination.endpoints.is_empty()) {
            let mut endpoints = worker.names.resolve(name, destination.port, &worker.counters).await;
            // What is steered here would come back for ever.
            endpoints.retain(|endpoint| config.frontend(*endpoint).is_none());
            let all = Rc::new(Candidates::new(worker, config, target, destination, endpoints));
            return Some(all.healthy()).filter(|all| all.len() > 0);
        }
        let policy = target.policy.as_ref();
        let key = (Arc::as_ptr(destination).addr(), policy.map_or(0, |policy| Arc::as_ptr(policy).addr()));
        let mut known = self.known.borrow_mut();
        known.follow(config);
        let candidates = known.candidates.entry(key).or_insert_with(|| {
            let endpoints = select(destination, policy.map(|policy| &**policy));
            Rc::new(Candidates::new(worker, config, target, destination, endpoints))
        });
        Some(candidates.healthy()).filter(|all| all.len() > 0)
    }

    /// Why [`Self::candidates`] found none.
    pub fn why_none(&self, worker: &Worker, config: &Config, target: &Target) -> Trouble {
        let named = config.named(&target.host, target.port);
        let destination = named.as_ref().or_else(|| config.destination(&target.host, target.port));
        let name =
            destination.and_then(|destination| Some((destination.external_name.as_ref()?, destination.port)));
        let refused = name.is_some_and(|(name, port)| worker.names.is_refused(name, port));
        if refused { Trouble::NameRefused } else { Trouble::NoEndpoints }
    }

    /// One of `candidates`; `None` only when there is none.
    pub fn choose(
        &self,
        draws: &Draws,
        candidates: &Candidates,
        policy: Option<&Policy>,
        wish: Wish<'_>,
    ) -> Option<SocketAddr> {
        if let Some(hash) = wish.hash {
            let scored = candidates.endpoints.iter().copied().zip(candidates.hashes.iter().copied());
            return by_hash(hash, scored, wish.tried);
        }
        let candidates = candidates.of_zone(draws, &wish);
        let simple = simple(policy);
        let mut chosen = self.draw(draws, candidates, simple)?;
        for _ in 1..CHOICES {
            if !wish.avoid_tried || !wish.tried.contains(&chosen) {
                break;
            }
            chosen = self.draw(draws, candidates, simple)?;
        }
        // Chance has had its turns: one that was not tried is better than one that failed.
        let failed = wish.avoid_tried && wish.tried.contains(&chosen);
        let other = candidates.endpoints.iter().find(|endpoint| failed && !wish.tried.contains(endpoint));
        Some(other.copied().unwrap_or(chosen))
    }

    /// One of them; those that are new are drawn in vain now and then.
    fn draw(&self, draws: &Draws, candidates: &Candidates, simple: SimpleBalancer) -> Option<SocketAddr> {
        let warming = candidates.warming.as_ref().filter(|_| warmup::slows(simple));
        let mut chosen = self.draw_any(draws, candidates, simple)?;
        for _ in 1..warmup::TRIES {
            if warming.is_none_or(|warming| warming.takes(chosen, draws.next())) {
                break;
            }
            chosen = self.draw_any(draws, candidates, simple)?;
        }
        Some(chosen)
    }

    fn draw_any(&self, draws: &Draws, candidates: &Candidates, simple: SimpleBalancer) -> Option<SocketAddr> {
        let endpoints = &candidates.endpoints;
        match simple {
            SimpleBalancer::RoundRobin => {
                let turn = candidates.turn.get();
                candidates.turn.set(turn.wrapping_add(1));
                endpoints.get(turn % endpoints.len().max(1)).copied()
            }
            // The original destination is the Service, and the kernel chooses at random.
            SimpleBalancer::Random | SimpleBalancer::Passthrough => {
                endpoints.get(draws.below(endpoints.len())).copied()
            }
            SimpleBalancer::Unspecified | SimpleBalancer::LeastRequest | SimpleBalancer::LeastConn => {
                let first = draws.below(endpoints.len());
                // From the others, so that two are compared whenever there are two.
                let second =
                    (first + 1 + draws.below(endpoints.len().saturating_sub(1))) % endpoints.len().max(1);
                let pair = endpoints.get(first).into_iter().chain(endpoints.get(second));
                let in_flight = self.in_flight.borrow();
                pair.min_by_key(|endpoint| in_flight.get(endpoint).copied().unwrap_or(0)).copied()
            }
        }
    }

    /// Counts a request or a connection (`what`) to `endpoint`, one of `candidates`.
    pub fn enter(&self, endpoint: SocketAddr, candidates: &Candidates, what: Use) -> InFlight {
        *self.in_flight.borrow_mut().entry(endpoint).or_default() += 1;
        let (counts, used) = (self.in_flight.clone(), candidates.row.one(what));
        InFlight { counts, endpoint, _used: used, held: Vec::new() }
    }

    /// Forgets what belongs to another configuration than `config`, though nobody asks for anything.
    pub fn sweep(&self, config: &Arc<Config>) {
        self.known.borrow_mut().follow(config);
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let mut counts = self.counts.borrow_mut();
        if let Some(count) = counts.get_mut(&self.endpoint) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                counts.remove(&self.endpoint);
            }
        }
    }
}

/// The endpoint that clients with `hash` get; of those in `tried` only when there is no other. `scored` has the hash of each.
pub fn by_hash(
    hash: u64,
    scored: impl Iterator<Item = (SocketAddr, u64)>,
    tried: &[SocketAddr],
) -> Option<SocketAddr> {
    // The best score stays the best when others come and go.
    let best = scored.max_by_key(|(endpoint, own)| (!tried.contains(endpoint), mix(hash ^ *own)));
    best.map(|(endpoint, _)| endpoint)
}

/// What a hash of an endpoint is made of.
pub fn endpoint_hash(endpoint: SocketAddr) -> u64 {
    hash_of(endpoint.to_string().as_bytes())
}

/// How one is chosen where no hash says so.
pub fn simple(policy: Option<&Policy>) -> SimpleBalancer {
    let simple = policy.and_then(|policy| policy.traffic.load_balancer.as_ref()?.simple);
    simple.unwrap_or(SimpleBalancer::LeastRequest)
}

/// Whether the policy wants TLS to endpoints, which there is none of yet; it is never replaced by plain text.
pub fn wants_tls(target: &Target) -> bool {
    let tls = target.policy.as_ref().and_then(|policy| policy.traffic.tls.as_ref());
    tls.is_some_and(|tls| tls.mode != TlsMode::Disable)
}

/// The endpoints that have the labels of the policy's subset.
pub fn select(destination: &Destination, policy: Option<&Policy>) -> Vec<SocketAddr> {
    let endpoints = destination.endpoints.iter().filter(|endpoint| {
        policy.is_none_or(|policy| {
            let has = |(key, value): (&String, &String)| {
                endpoint.pod.as_ref().is_some_and(|pod| pod.labels.get(key) == Some(value))
            };
            policy.labels.iter().all(has)
        })
    });
    endpoints.map(|endpoint| endpoint.address).collect()
}
