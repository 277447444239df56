//! Limits of `connectionPool`: what one client has open to one destination, over all workers of the node.
//!
//! Only destinations that have limits are looked at. [`Usage`] decides; the rest keeps it and waits.

use std::{
    collections::HashMap,
    net::IpAddr,
    pin::pin,
    sync::{Arc, Mutex, PoisonError},
};

use crate::l7::rules::table::{Policy, Target};
use tokio::sync::Notify;

/// `retryBudget` where a field of it is absent.
const BUDGET_PERCENT: f64 = 20.0;
const BUDGET_MIN: u32 = 3;

/// What is limited.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum What {
    /// TCP connections, and HTTP/1 connections that carry a request; HTTP/2 shares one per endpoint.
    Connection,
    /// Requests that wait for a connection: for a place or until it is made.
    Pending,
    /// Requests until the end of their answers.
    Request,
    /// Requests that are retries.
    Retry,
}

/// The most there may be of each; `u32::MAX` is no limit.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Bounds {
    connections: u32,
    pending: u32,
    requests: u32,
    retries: u32,
    /// Percent of the requests, and how many retries are allowed in any case; replaces `retries`.
    budget: Option<(f64, u32)>,
}

/// What there is.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Usage {
    connections: u32,
    pending: u32,
    requests: u32,
    retries: u32,
}

impl Bounds {
    /// Those of `policy`; `None` when it limits nothing. Zero means unset.
    pub fn of(policy: Option<&Policy>) -> Option<Self> {
        let traffic = &policy?.traffic;
        let pool = traffic.connection_pool.as_ref();
        let (tcp, http) = (pool.and_then(|pool| pool.tcp.as_ref()), pool.and_then(|pool| pool.http.as_ref()));
        let limit = |number: Option<u32>| number.filter(|number| *number > 0).unwrap_or(u32::MAX);
        let bounds = Self {
            connections: limit(tcp.map(|tcp| tcp.max_connections)),
            pending: limit(http.map(|http| http.http1_max_pending_requests)),
            requests: limit(http.map(|http| http.http2_max_requests)),
            retries: limit(http.map(|http| http.max_retries)),
            budget: traffic.retry_budget.as_ref().map(|budget| {
                let least = budget.min_retry_concurrency.unwrap_or(BUDGET_MIN);
                (budget.percent.unwrap_or(BUDGET_PERCENT), least)
            }),
        };
        let numbers = [bounds.connections, bounds.pending, bounds.requests, bounds.retries];
        (numbers != [u32::MAX; 4] || bounds.budget.is_some()).then_some(bounds)
    }
}

impl Usage {
    /// Adds one, unless there are as many as `bounds` allow.
    pub fn enter(&mut self, what: What, bounds: &Bounds) -> bool {
        let limit = match (what, bounds.budget) {
            (What::Connection, _) => bounds.connections,
            (What::Pending, _) => bounds.pending,
            (What::Request, _) => bounds.requests,
            (What::Retry, None) => bounds.retries,
            (What::Retry, Some((percent, least))) => {
                least.max((f64::from(self.requests) * percent / 100.0) as u32)
            }
        };
        let count = self.count(what);
        let free = *count < limit;
        *count += u32::from(free);
        free
    }

    /// Takes one away.
    pub fn leave(&mut self, what: What) {
        let count = self.count(what);
        *count = count.saturating_sub(1);
    }

    const fn count(&mut self, what: What) -> &mut u32 {
        match what {
            What::Connection => &mut self.connections,
            What::Pending => &mut self.pending,
            What::Request => &mut self.requests,
            What::Retry => &mut self.retries,
        }
    }
}

/// A client and a destination.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Key {
    client: IpAddr,
    host: Arc<str>,
    port: u16,
    subset: Option<Arc<str>>,
}

/// What every client has open, by destination.
#[derive(Default, Debug)]
pub struct Circuits(Mutex<HashMap<Key, Arc<Account>>>);

#[derive(Default, Debug)]
struct Account {
    usage: Mutex<Usage>,
    /// A connection was given back.
    freed: Notify,
}

/// One client's limits for one destination.
#[derive(Clone, Debug)]
pub struct Circuit {
    account: Arc<Account>,
    bounds: Bounds,
}

/// One of what is limited, until this is dropped.
#[derive(Debug)]
pub struct Held {
    account: Arc<Account>,
    what: What,
}

impl Circuits {
    /// The limits of `client` for `target`; `None` when there are none.
    pub fn circuit(&self, client: IpAddr, target: &Target) -> Option<Circuit> {
        let bounds = Bounds::of(target.policy.as_deref())?;
        let key = Key { client, host: target.host.clone(), port: target.port, subset: target.subset.clone() };
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Some(Circuit { account: all.entry(key).or_default().clone(), bounds })
    }

    /// Forgets those that have nothing open.
    pub fn sweep(&self) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, account| Arc::strong_count(account) > 1);
    }
}

impl Circuit {
    /// One more; `None` when there are too many.
    pub fn enter(&self, what: What) -> Option<Held> {
        let mut usage = self.account.usage.lock().unwrap_or_else(PoisonError::into_inner);
        usage.enter(what, &self.bounds).then(|| Held { account: self.account.clone(), what })
    }

    /// Waits for one more connection. Who waits must hold a [`What::Pending`].
    pub async fn connection(&self) -> Held {
        loop {
            // In line first: a place that is given back after the look must wake this one.
            let mut freed = pin!(self.account.freed.notified());
            freed.as_mut().enable();
            if let Some(held) = self.enter(What::Connection) {
                return held;
            }
            freed.await;
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.account.usage.lock().unwrap_or_else(PoisonError::into_inner).leave(self.what);
        if self.what == What::Connection {
            self.account.freed.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::l7::rules::{Labels, ObjectName, TrafficPolicy};

    fn bounds(traffic: serde_json::Value) -> Option<Bounds> {
        let traffic: TrafficPolicy = serde_json::from_value(traffic).unwrap();
        let name = ObjectName { namespace: "shop".to_owned(), name: "dr".to_owned() };
        Bounds::of(Some(&Policy { destination_rule: name, labels: Labels::new(), traffic }))
    }

    #[test]
    fn each_field_limits_one_thing() {
        for (case, traffic, want) in [
            ("connections", json!({"connectionPool": {"tcp": {"maxConnections": 2}}}), [2, 9, 9, 9]),
            ("pending", json!({"connectionPool": {"http": {"http1MaxPendingRequests": 2}}}), [9, 2, 9, 9]),
            ("requests", json!({"connectionPool": {"http": {"http2MaxRequests": 2}}}), [9, 9, 2, 9]),
            ("retries", json!({"connectionPool": {"http": {"maxRetries": 2}}}), [9, 9, 9, 2]),
            ("budget", json!({"retryBudget": {}}), [9, 9, 9, 3]),
            ("budget of 50 %", json!({"retryBudget": {"percent": 50}}), [9, 9, 9, 4]),
            (
                "budget's least",
                json!({"retryBudget": {"percent": 0, "minRetryConcurrency": 1}}),
                [9, 9, 9, 1],
            ),
        ] {
            let bounds = bounds(traffic).unwrap();
            let mut usage = Usage::default();
            let mut most = |what| (0..9).take_while(|_| usage.enter(what, &bounds)).count();
            let got = [What::Connection, What::Pending, What::Request, What::Retry].map(&mut most);
            assert_eq!(got, want, "{case}");
            // What has gone makes room for one.
            for what in [What::Connection, What::Pending, What::Request, What::Retry] {
                usage.leave(what);
                assert!(usage.enter(what, &bounds), "{case}: {what:?}");
            }
        }
    }

    #[test]
    fn nothing_is_limited_by_absence_or_zero() {
        for traffic in [
            json!({}),
            json!({"connectionPool": {"tcp": {"maxConnections": 0}}}),
            json!({"connectionPool": {"http": {"maxRequestsPerConnection": 1}}}),
        ] {
            assert_eq!(bounds(traffic.clone()), None, "{traffic}");
        }
        assert_eq!(Bounds::of(None), None);
    }
}
