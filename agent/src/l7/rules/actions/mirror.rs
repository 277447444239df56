//! Mirrors: copies of requests whose answers nobody reads. Sending them is the caller's.

use super::super::{
    hosts::Mesh,
    objects::{HttpRoute, Messages, Percent},
};
use super::{DestinationName, Share};

/// One compiled mirror.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mirror {
    /// Where copies go.
    pub destination: DestinationName,
    /// How many; all, unless the rule says otherwise.
    pub share: Share,
    /// Where it stands in the rule, as in `mirrors[0]`.
    pub(crate) place: String,
}

impl Mirror {
    /// Compiles `mirror` or `mirrors` of the rule at `path`.
    pub(crate) fn compile(
        raw: &HttpRoute,
        path: &str,
        namespace: &str,
        mesh: &Mesh,
        messages: &mut Messages,
    ) -> Vec<Self> {
        if raw.mirror.is_some() && !raw.mirrors.is_empty() {
            messages.error(path, "has both mirror and mirrors; keep mirrors");
            return Vec::new();
        }
        let mut compiled = Vec::new();
        let old = raw.mirror_percent.map(|value| Percent { value: f64::from(value) });
        if old.is_some() {
            messages.warn(format!("{path}.mirrorPercent"), "is deprecated; use mirrorPercentage.value");
        }
        if raw.mirror.is_none() && (old.is_some() || raw.mirror_percentage.is_some()) {
            messages.warn(format!("{path}.mirrorPercentage"), "has no effect without mirror");
        }
        if raw.mirror.is_some() {
            let place = if raw.mirror_percentage.is_some() { "mirrorPercentage" } else { "mirrorPercent" };
            let share = Share::compile(
                raw.mirror_percentage.or(old),
                Share::ALL,
                &format!("{path}.{place}"),
                messages,
            );
            let path = format!("{path}.mirror");
            let destination = DestinationName::compile(raw.mirror.as_ref(), &path, namespace, mesh, messages);
            compiled.extend(destination.map(|destination| Self {
                destination,
                share,
                place: "mirror".to_owned(),
            }));
        }
        for (i, mirror) in raw.mirrors.iter().enumerate() {
            let path = format!("{path}.mirrors[{i}]");
            let share =
                Share::compile(mirror.percentage, Share::ALL, &format!("{path}.percentage"), messages);
            let path = format!("{path}.destination");
            let destination =
                DestinationName::compile(mirror.destination.as_ref(), &path, namespace, mesh, messages);
            compiled.extend(destination.map(|destination| Self {
                destination,
                share,
                place: format!("mirrors[{i}]"),
            }));
        }
        compiled
    }
}
