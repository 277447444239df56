//! Durations as Go and protobuf write them: `1.5s`, `300ms`, `1m30s`. Limits of single fields are not here.

use std::{fmt, time::Duration};

use serde::{Deserialize, Deserializer, de};

/// A duration that was read from an object.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Debug)]
pub struct Span(pub Duration);

/// Nanoseconds of each unit; two-letter units stand before the letter that they end in.
const UNITS: [(&str, f64); 7] =
    [("ns", 1.0), ("us", 1e3), ("µs", 1e3), ("ms", 1e6), ("s", 1e9), ("m", 6e10), ("h", 3.6e12)];

/// Reads `text`; `None` when it is no duration, negative, or beyond 2^63 ns as in Go.
pub fn parse(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let mut rest = text;
    let mut nanos = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, tail) = rest.split_at(digits);
        let unit_len = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_len);
        let (_, factor) = UNITS.into_iter().find(|(name, _)| *name == unit)?;
        nanos += number.parse::<f64>().ok()? * factor;
        rest = tail;
    }
    let in_range = !text.is_empty() && nanos <= i64::MAX as f64;
    in_range.then(|| Duration::from_nanos(nanos.round() as u64))
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(SpanVisitor)
    }
}

struct SpanVisitor;

impl de::Visitor<'_> for SpanVisitor {
    type Value = Span;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a duration such as \"1.5s\", \"300ms\" or \"1m30s\"")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Span, E> {
        parse(text).map(Span).ok_or_else(|| E::invalid_value(de::Unexpected::Str(text), &self))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_read_as_go_writes_it() {
        for (text, want_ms) in [
            ("1.5s", Some(1_500.0)),
            ("300ms", Some(300.0)),
            ("1m30s", Some(90_000.0)),
            ("1h", Some(3_600_000.0)),
            ("0s", Some(0.0)),
            ("0", Some(0.0)),
            ("250us", Some(0.25)),
            (".5s", Some(500.0)),
            ("", None),
            ("5", None),
            ("s", None),
            ("-1s", None),
            ("1 s", None),
            ("1d", None),
            ("1..5s", None),
            ("9999999h", None),
        ] {
            let want = want_ms.map(|ms: f64| Duration::from_nanos((ms * 1e6) as u64));
            assert_eq!(parse(text), want, "{text:?}");
        }
    }
}
