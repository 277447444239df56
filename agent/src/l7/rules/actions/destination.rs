//! Destinations as rules name them, and the weighted choice. Whether a destination exists is in `table`.

use std::sync::Arc;

use super::super::{
    hosts::{self, Mesh},
    objects::{Destination, Messages},
};

/// A destination with its host resolved.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct DestinationName {
    /// Host in full, lower case.
    pub host: Arc<str>,
    /// Subset of a DestinationRule.
    pub subset: Option<Arc<str>>,
    /// Service port; when absent, the Service's only port, else the port addressed.
    pub port: Option<u16>,
}

impl DestinationName {
    /// Checks and resolves `raw`, which stands at `path` of an object in `namespace`.
    pub(crate) fn compile(
        raw: Option<&Destination>,
        path: &str,
        namespace: &str,
        mesh: &Mesh,
        messages: &mut Messages,
    ) -> Option<Self> {
        let Some(raw) = raw else {
            messages.error(path, "is missing");
            return None;
        };
        let why = if raw.host.is_empty() {
            Some("is missing")
        } else if raw.host.contains('*') {
            Some("a destination is one host, not a wildcard")
        } else {
            hosts::fault(&raw.host)
        };
        if let Some(why) = why {
            messages.error(format!("{path}.host"), format!("{:?}: {why}", raw.host));
        }
        let subset = raw.subset.as_deref().filter(|subset| !subset.is_empty());
        let port = match &raw.port {
            None => None,
            Some(port) => Some(port_number(port.number, &format!("{path}.port.number"), messages)?),
        };
        why.is_none().then(|| Self {
            host: mesh.resolve(&raw.host, namespace).into(),
            subset: subset.map(Arc::from),
            port,
        })
    }
}

/// A port, 1 to 65535.
pub(crate) fn port_number(number: u32, path: &str, messages: &mut Messages) -> Option<u16> {
    let port = u16::try_from(number).ok().filter(|port| *port > 0);
    if port.is_none() {
        messages.error(path, format!("{number} is not within 1 to 65535"));
    }
    port
}

/// Weights of a rule's destinations; shares are weight by sum, whatever the sum is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Weights {
    weights: Vec<u32>,
    total: u64,
}

impl Weights {
    /// Checks `raw`, the weights of the destinations at `path` in order.
    pub(crate) fn compile(raw: &[i64], path: &str, messages: &mut Messages) -> Self {
        let mut weights = Vec::with_capacity(raw.len());
        for (i, weight) in raw.iter().enumerate() {
            // Upstream's type is int32.
            if !(0..=i64::from(i32::MAX)).contains(weight) {
                messages.error(
                    format!("{path}[{i}].weight"),
                    format!("{weight} is not within 0 to {}", i32::MAX),
                );
            }
            weights.push(u32::try_from(*weight).unwrap_or(0));
        }
        if let [only] = weights.as_mut_slice() {
            *only = 1;
        }
        let total = weights.iter().map(|weight| u64::from(*weight)).sum();
        if total == 0 && !raw.is_empty() {
            messages.error(path, "total destination weight = 0");
        }
        Self { weights, total }
    }

    /// Index of the destination that `draw` falls on, uniform over all of `u32`; `None` if there is none.
    pub fn pick(&self, draw: u32) -> Option<usize> {
        let mut point = ((u128::from(draw) * u128::from(self.total)) >> 32) as u64;
        for (i, weight) in self.weights.iter().enumerate() {
            if point < u64::from(*weight) {
                return Some(i);
            }
            point -= u64::from(*weight);
        }
        None
    }

    /// Weight of each destination; one destination alone has weight 1.
    pub fn as_slice(&self) -> &[u32] {
        &self.weights
    }
}
