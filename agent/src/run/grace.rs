//! Connections from before a port's rules: kept for a while, then ended, so that no traffic escapes the rules. Which ports,
//! when, and what was dialled for them; pure, the clock is passed in. Ending is the sweeper's part and the flows'.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    str::FromStr,
    time::{Duration, Instant},
};

use sluice_common::layout::{FLAG_REDIRECTED, FrontendKey, TCP};

use crate::{maps::Tables, model::ObjectName};

const LONGEST_S: u64 = 86_400;

type Port = (ObjectName, u16);

/// How long connections are kept that are open when rules appear; `None` is for ever.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct GraceTime(pub Option<Duration>);

impl FromStr for GraceTime {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "never" {
            return Ok(Self(None));
        }
        let seconds = text.parse().ok().filter(|seconds| *seconds <= LONGEST_S);
        let refused = || format!("{text:?} is neither \"never\" nor a number of seconds up to {LONGEST_S}");
        seconds.map(|seconds| Self(Some(Duration::from_secs(seconds)))).ok_or_else(refused)
    }
}

/// The ports that rules hold for, and when their connections from before end.
///
/// An agent that starts does not know since when rules hold: for all of them, the time begins anew.
#[derive(Debug)]
pub struct Grace {
    time: GraceTime,
    ruled: BTreeSet<Port>,
    ends: BTreeMap<Port, Instant>,
}

impl Grace {
    /// No rules yet.
    pub const fn new(time: GraceTime) -> Self {
        Self { time, ruled: BTreeSet::new(), ends: BTreeMap::new() }
    }

    /// From `now` on, rules hold for `ports` and no others. Where they are gone, nothing ends any more.
    pub fn set(&mut self, ports: &BTreeSet<Port>, now: Instant) {
        self.ends.retain(|port, _| ports.contains(port));
        if let Some(time) = self.time.0 {
            self.ends.extend(ports.difference(&self.ruled).map(|port| (port.clone(), now + time)));
        }
        self.ruled.clone_from(ports);
    }

    /// When something ends next.
    pub fn wake(&self) -> Option<Instant> {
        self.ends.values().min().copied()
    }

    /// Whether anything ends at `now`.
    pub fn is_due(&self, now: Instant) -> bool {
        self.wake().is_some_and(|at| at <= now)
    }

    /// What clients dialled whose connections end at `now`: of ports whose time is over and that `tables` say by now rules
    /// hold for. A NodePort stands for itself on each address of `node`. Nothing is named twice.
    pub fn take_due(&mut self, now: Instant, tables: &Tables, node: &[IpAddr]) -> BTreeSet<FrontendKey> {
        let due = |port: &Port| self.ends.get(port).is_some_and(|at| *at <= now);
        let (mut dialled, mut done) = (BTreeSet::new(), BTreeSet::new());
        let flagged = tables
            .frontends
            .iter()
            .filter(|(key, value)| key.protocol == TCP && value.flags & FLAG_REDIRECTED != 0);
        for (key, value) in flagged {
            let Some(service) = tables.services.get(&value.service_id) else { continue };
            let name = ObjectName::new(service.namespace.as_str(), service.name.as_str());
            let port = (name, u16::from_be(service.port_be));
            if !due(&port) {
                continue;
            }
            if key.scope == 0 {
                dialled.insert(*key);
            } else {
                let own =
                    node.iter().map(|address| FrontendKey { addr: (*address).into(), scope: 0, ..*key });
                dialled.extend(own.filter(|own| own.on_any_node_address() == *key));
            }
            done.insert(port);
        }
        self.ends.retain(|port, _| !done.contains(port));
        dialled
    }
}

#[cfg(test)]
mod tests;
