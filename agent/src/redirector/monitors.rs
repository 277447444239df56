//! What workers know together about the health of endpoints. What follows from it is decided in `outliers.rs`.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};

use crate::l7::rules::table::Target;
use tokio::time::Instant;

use super::{
    counters::Counter,
    outliers::{Detector, Effect, Event, Settings},
    worker::Worker,
};

/// Host, port and subset of a destination.
type Key = (Arc<str>, u16, Option<Arc<str>>);

/// Detectors by destination. They outlive changes of the configuration.
#[derive(Debug)]
pub struct Monitors {
    epoch: Instant,
    detectors: Mutex<HashMap<Key, Arc<Mutex<Detector>>>>,
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
        let settings = Settings::of(target.policy.as_deref())?;
        let key = (target.host.clone(), target.port, target.subset.clone());
        let mut detectors = self.detectors.lock().unwrap_or_else(PoisonError::into_inner);
        let detector = detectors.entry(key).or_default().clone();
        Some(Monitor { epoch: self.epoch, settings, detector, all: all.to_vec() })
    }

    /// Forgets the detectors of destinations that no configuration has any more and that know nothing bad.
    pub fn sweep(&self) {
        let mut detectors = self.detectors.lock().unwrap_or_else(PoisonError::into_inner);
        let knows = |detector: &Mutex<Detector>| {
            !detector.lock().unwrap_or_else(PoisonError::into_inner).is_well(self.epoch.elapsed())
        };
        detectors.retain(|_, detector| Arc::strong_count(detector) > 1 || knows(detector));
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
