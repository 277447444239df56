//! Percentages in the steps that upstream has, and the draw that decides them.

use std::fmt;

use super::super::objects::{Messages, Percent};

/// Parts of a million: a percentage in steps of 0.0001.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Share(u32);

const MILLION: u32 = 1_000_000;

impl Share {
    /// Never.
    pub const NONE: Self = Self(0);
    /// Always.
    pub const ALL: Self = Self(MILLION);

    /// From a percentage; outside 0 to 100 is an error.
    pub(crate) fn compile(raw: Option<Percent>, absent: Self, path: &str, messages: &mut Messages) -> Self {
        let Some(Percent { value }) = raw else {
            return absent;
        };
        if !(0.0..=100.0).contains(&value) {
            messages.error(format!("{path}.value"), format!("{value} is not within 0 to 100"));
            return absent;
        }
        Self((value * 10_000.0).round() as u32)
    }

    /// Whether this time is one of the share; `draw` is uniform over all of `u32`.
    pub const fn hits(self, draw: u32) -> bool {
        ((draw as u64 * MILLION as u64) >> 32) < self.0 as u64
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} %", f64::from(self.0) / 10_000.0)
    }
}
