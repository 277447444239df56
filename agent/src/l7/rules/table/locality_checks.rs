//! What can be wrong with `localityLbSetting`, and what of it is not honoured.

use super::super::{
    locality::Zones,
    objects::{LocalityLbSetting, Messages},
};

/// The only label of `failoverPriority` that endpoints are known by.
const ZONE_LABEL: &str = "topology.kubernetes.io/zone";

/// Checks the setting at `path`; `hashed`: it stands beside `consistentHash`.
pub(super) fn check(raw: &LocalityLbSetting, hashed: bool, path: &str, messages: &mut Messages) {
    let fails_over = !raw.failover.is_empty() || !raw.failover_priority.is_empty();
    if !raw.distribute.is_empty() && fails_over {
        messages.error(path, "has distribute beside failover or failoverPriority; keep one");
    }
    if hashed {
        messages.warn(
            path,
            "has no effect beside consistentHash: a hash chooses among the endpoints of all zones",
        );
    }
    for (i, distribute) in raw.distribute.iter().enumerate() {
        let path = format!("{path}.distribute[{i}]");
        let total: u64 = distribute.to.values().copied().map(u64::from).sum();
        if total != 100 {
            messages.error(format!("{path}.to"), format!("adds up to {total} and not to 100"));
        }
        let mut named = std::iter::once(&distribute.from).chain(distribute.to.keys());
        if let Some(name) = named.find(|name| Zones::of(name).is_none()) {
            let text = format!(
                "{name:?} names no zone, and regions of endpoints are not known: the entry has no effect"
            );
            messages.warn(path, text);
        }
    }
    if !raw.failover.is_empty() {
        let text = "regions of endpoints are not known: those of other zones stand in, all alike";
        messages.warn(format!("{path}.failover"), text);
    }
    for (i, label) in raw.failover_priority.iter().enumerate() {
        if label != ZONE_LABEL {
            let text = format!("{label:?} is not honoured: only {ZONE_LABEL} is known of endpoints");
            messages.warn(format!("{path}.failoverPriority[{i}]"), text);
        }
    }
}
