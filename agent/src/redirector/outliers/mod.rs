//! Endpoints that fail again and again are left out for a while: `outlierDetection`. Pure; time comes in.

use std::{collections::HashMap, net::SocketAddr, time::Duration};

use crate::l7::rules::{OutlierDetection, table::Policy};

/// An endpoint is left out for so long at most, unless `baseEjectionTime` is longer.
const LONGEST_EJECTION: Duration = Duration::from_secs(300);

/// What a policy asks for, with the defaults of absent fields. Zero turns a threshold off.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Settings {
    consecutive_5xx: u32,
    consecutive_gateway: u32,
    /// Counted apart from answers; `None` counts these failures as 5xx.
    consecutive_local: Option<u32>,
    interval: Duration,
    base_ejection: Duration,
    max_ejection_percent: u32,
    min_health_percent: u32,
}

/// What became of a request or of a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    /// An answer, or a TCP connection, which counts as 200.
    Answer(u16),
    /// No answer; what the client was told instead: 503 or 504.
    Failure(u16),
}

/// What followed from an event.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Effect {
    /// Nothing.
    None,
    /// The endpoint is left out from now on.
    Ejected,
    /// It would be, but `maxEjectionPercent` of the endpoints already are.
    TooMany,
}

/// What is known of the endpoints of one destination.
#[derive(Default, Debug)]
pub struct Detector(HashMap<SocketAddr, Health>);

/// What is older than this says nothing about an endpoint any more.
const FORGOTTEN: Duration = Duration::from_secs(3600);

#[derive(Clone, Copy, Default, Debug)]
struct Health {
    consecutive_5xx: u32,
    consecutive_gateway: u32,
    consecutive_local: u32,
    ejected_at: Option<Duration>,
    /// Ejections, less one for each sweep since the last one ended.
    times: u32,
    /// End of the last ejection.
    back_since: Duration,
    /// When something was noted of it last.
    noted_at: Duration,
}

impl Settings {
    /// Those of `policy`; `None` when it does not ask for any.
    pub fn of(policy: Option<&Policy>) -> Option<Self> {
        let raw = policy?.traffic.outlier_detection.as_ref()?;
        let OutlierDetection { split_external_local_origin_errors: split, .. } = *raw;
        let span = |span: Option<crate::l7::rules::Span>, absent| {
            span.map_or(Duration::from_secs(absent), |span| span.0).max(Duration::from_millis(1))
        };
        Some(Self {
            consecutive_5xx: raw.consecutive_5xx_errors.or(raw.consecutive_errors).unwrap_or(5),
            consecutive_gateway: raw.consecutive_gateway_errors.unwrap_or(0),
            consecutive_local: split.then_some(raw.consecutive_local_origin_failures.unwrap_or(5)),
            interval: span(raw.interval, 10),
            base_ejection: span(raw.base_ejection_time, 30),
            max_ejection_percent: raw.max_ejection_percent.unwrap_or(10),
            min_health_percent: raw.min_health_percent.unwrap_or(0),
        })
    }

    /// How many sweeps there were until `at`: endpoints come back with a sweep only.
    fn sweeps(&self, at: Duration) -> u32 {
        u32::try_from(at.as_nanos() / self.interval.as_nanos()).unwrap_or(u32::MAX)
    }

    /// When an endpoint that was ejected at `at` for the `times`-th time comes back.
    fn back_at(&self, at: Duration, times: u32) -> Duration {
        let longest = LONGEST_EJECTION.max(self.base_ejection);
        let due = at.saturating_add(self.base_ejection.saturating_mul(times).min(longest));
        let missing = due.as_nanos() % self.interval.as_nanos();
        let wait = if missing == 0 { 0 } else { self.interval.as_nanos() - missing };
        due.saturating_add(Duration::from_nanos(u64::try_from(wait).unwrap_or(u64::MAX)))
    }
}

impl Health {
    /// Ends an ejection whose time is over; what was counted before it counts no more.
    fn refresh(&mut self, settings: &Settings, now: Duration) {
        let Some(at) = self.ejected_at else { return };
        let back_at = settings.back_at(at, self.times);
        if now >= back_at {
            *self =
                Self { times: self.times, back_since: back_at, noted_at: self.noted_at, ..Self::default() };
        }
    }

    /// Whether a threshold is reached with this event.
    fn count(&mut self, settings: &Settings, event: Event) -> bool {
        let reached = |count: &mut u32, hit: bool, threshold: u32| {
            *count = if hit { count.saturating_add(1) } else { 0 };
            let reached = threshold > 0 && *count >= threshold;
            if reached {
                *count = 0;
            }
            reached
        };
        let status = match (event, settings.consecutive_local) {
            (Event::Failure(_), Some(threshold)) => {
                return reached(&mut self.consecutive_local, true, threshold);
            }
            (Event::Answer(status) | Event::Failure(status), _) => status,
        };
        self.consecutive_local = 0;
        let server_error = reached(&mut self.consecutive_5xx, status >= 500, settings.consecutive_5xx);
        let gateway = matches!(status, 502..=504);
        reached(&mut self.consecutive_gateway, gateway, settings.consecutive_gateway) || server_error
    }
}

impl Detector {
    /// Notes what became of a request to `endpoint`, one of `all`. `now` counts from any fixed moment.
    pub fn note(
        &mut self,
        settings: &Settings,
        all: &[SocketAddr],
        endpoint: SocketAddr,
        event: Event,
        now: Duration,
    ) -> Effect {
        // Most endpoints are well, and nothing needs to be remembered of them.
        let well = event == Event::Answer(200) && !self.0.contains_key(&endpoint);
        if well || !all.contains(&endpoint) {
            return Effect::None;
        }
        let health = self.0.entry(endpoint).or_default();
        health.noted_at = now;
        health.refresh(settings, now);
        if !health.count(settings, event) || health.ejected_at.is_some() {
            return Effect::None;
        }
        self.0.retain(|endpoint, _| all.contains(endpoint));
        let ejected = u128::try_from(self.ejected(settings, all, now).len() + 1).unwrap_or(u128::MAX);
        let total = u128::try_from(all.len()).unwrap_or(u128::MAX);
        if ejected * 100 > total * u128::from(settings.max_ejection_percent) {
            return Effect::TooMany;
        }
        let health = self.0.entry(endpoint).or_default();
        let since = settings.sweeps(now).saturating_sub(settings.sweeps(health.back_since));
        health.times = health.times.saturating_sub(since).saturating_add(1);
        health.ejected_at = Some(now);
        Effect::Ejected
    }

    /// Whether nothing that still counts is known of any endpoint.
    pub fn is_well(&self, now: Duration) -> bool {
        self.0.values().all(|health| now.saturating_sub(health.noted_at) > FORGOTTEN)
    }

    /// Those of `all` that are to be left out; none when less than `minHealthPercent` would be left.
    pub fn left_out(&mut self, settings: &Settings, all: &[SocketAddr], now: Duration) -> Vec<SocketAddr> {
        let ejected = self.ejected(settings, all, now);
        let (healthy, total) = ((all.len() - ejected.len()) as u64, all.len() as u64);
        let panic = healthy * 100 < total * u64::from(settings.min_health_percent);
        if panic { Vec::new() } else { ejected }
    }

    /// Those of `all` that are ejected, whether or not so many are that nobody is left out for it.
    pub fn ejected(&mut self, settings: &Settings, all: &[SocketAddr], now: Duration) -> Vec<SocketAddr> {
        if self.0.is_empty() {
            return Vec::new();
        }
        let mut is_ejected = |endpoint: &SocketAddr| {
            self.0.get_mut(endpoint).is_some_and(|health| {
                health.refresh(settings, now);
                health.ejected_at.is_some()
            })
        };
        all.iter().copied().filter(|endpoint| is_ejected(endpoint)).collect()
    }
}

#[cfg(test)]
mod tests;
