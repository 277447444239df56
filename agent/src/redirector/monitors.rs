//! What workers know together about the health of endpoints. What follows from it is decided in `outliers.rs`.

use std::{
    collections::{BTreeMap, HashMap},
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};

use crate::{
    l7::rules::table::{Policy, Target},
    metrics::DestinationCounts,
};
use tokio::time::Instant;

use super::{
    balance::select,
    config::Config,
    counters::Counter,
    destinations::Name,
    outliers::{Detector, Effect, Event, Settings},
    worker::Worker,
};

/// Host, port and subset of a destination.
type Key = (Arc<str>, u16, Option<Arc<str>>);

/// What is known of the endpoints of one destination, and who asked for it last.
#[derive(Debug)]
struct Watched {
    name: Name,
    detector: Arc<Mutex<Detector>>,
    /// Whose endpoints they are; `None` when the rule does not ask for it any more.
    policy: Option<(Settings, Arc<Policy>)>,
    /// The endpoints then.
    all: Vec<SocketAddr>,
}

/// Detectors by destination. They outlive changes of the configuration.
#[derive(Debug)]
pub struct Monitors {
    epoch: Instant,
    detectors: Mutex<HashMap<Key, Watched>>,
}

/// The endpoints of one destination under one policy, and what is known of them.
#[derive(Clone, Debug)]
pub struct Monitor {
    epoch: Instant,
    settings: Settings,
    detector: Arc<Mutex<Detector>>,
    all: Vec<SocketAddr>,
}

impl Default for Monitors {
    fn default() -> Self {
        Self { epoch: Instant::now(), detectors: Mutex::default() }
    }
}

impl Monitors {
    /// What watches `all`, the endpoints of `target`; `None` when its policy does not ask for it.
    pub fn monitor(&self, target: &Target, all: &[SocketAddr]) -> Option<Monitor> {
        let key = (target.host.clone(), target.port, target.subset.clone());
        let mut detectors = self.detectors.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((settings, policy)) = Settings::of(target.policy.as_deref()).zip(target.policy.clone())
        else {
            if let Some(watched) = detectors.get_mut(&key) {
                watched.policy = None;
            }
            return None;
        };
        let watched = detectors.entry(key).or_insert_with(|| Watched {
            name: Name::of(target),
            detector: Arc::default(),
            policy: None,
            all: Vec::new(),
        });
        watched.policy = Some((settings.clone(), policy));
        watched.all = all.to_vec();
        Some(Monitor { epoch: self.epoch, settings, detector: watched.detector.clone(), all: all.to_vec() })
    }

    /// Forgets the detectors of destinations that no configuration has any more and that know nothing bad.
    pub fn sweep(&self) {
        let mut detectors = self.detectors.lock().unwrap_or_else(PoisonError::into_inner);
        let knows = |detector: &Mutex<Detector>| {
            !detector.lock().unwrap_or_else(PoisonError::into_inner).is_well(self.epoch.elapsed())
        };
        detectors.retain(|_, watched| Arc::strong_count(&watched.detector) > 1 || knows(&watched.detector));
    }

    /// Adds to `sums` how many of the endpoints that destinations have in `config` are ejected, and how many are not.
    pub fn add_to(&self, config: &Config, sums: &mut BTreeMap<String, DestinationCounts>) {
        let now = self.epoch.elapsed();
        let detectors = self.detectors.lock().unwrap_or_else(PoisonError::into_inner);
        for ((host, port, _), watched) in &*detectors {
            let Some((settings, policy)) = &watched.policy else { continue };
            let all = match config.destination(host, *port) {
                Some(destination) if destination.is_resolved() => watched.all.clone(),
                Some(destination) => select(destination, Some(policy)),
                None if config.named(host, *port).is_some() => watched.all.clone(),
                None => continue,
            };
            let mut detector = watched.detector.lock().unwrap_or_else(PoisonError::into_inner);
            let ejected = detector.ejected(settings, &all, now).len();
            let (kept, ejected) = ((all.len() - ejected) as u64, ejected as u64);
            let counts = DestinationCounts { kept, ejected, ..DestinationCounts::default() };
            sums.entry(watched.name.to_string()).or_default().add(&counts);
        }
    }
}

impl Monitor {
    /// Those that are to be left out now.
    pub fn left_out(&self) -> Vec<SocketAddr> {
        let mut detector = self.detector.lock().unwrap_or_else(PoisonError::into_inner);
        detector.left_out(&self.settings, &self.all, self.epoch.elapsed())
    }

    /// Notes and counts what became of a request or a connection to `endpoint`.
    pub fn note(&self, worker: &Worker, endpoint: SocketAddr, event: Event) {
        let mut detector = self.detector.lock().unwrap_or_else(PoisonError::into_inner);
        match detector.note(&self.settings, &self.all, endpoint, event, self.epoch.elapsed()) {
            Effect::None => {}
            Effect::Ejected => worker.count(Counter::Ejections),
            Effect::TooMany => worker.count(Counter::EjectionsRefused),
        }
    }
}
