//! What we use of an object's metadata, and the check that it is the object that we think.

use std::collections::BTreeMap;

use serde_json::Value;

use super::super::ObjectName;
use super::Messages;

/// Versions of `networking.istio.io` that have the same fields.
const VERSIONS: [&str; 3] = ["v1", "v1beta1", "v1alpha3"];

/// Identity and age of an object.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Meta {
    /// Namespace and name; the namespace is `default` when the object has none.
    pub name: ObjectName,
    /// `metadata.creationTimestamp` in seconds since 1970; 0 if unknown. The oldest claim to a host wins.
    pub created_s: i64,
    /// `metadata.annotations`.
    pub annotations: BTreeMap<String, String>,
}

/// Reads the metadata of `object`, which must be of `kind`.
pub(super) fn read(object: &Value, kind: &str, messages: &mut Messages) -> Meta {
    let api_version = object["apiVersion"].as_str().unwrap_or_default();
    let known =
        api_version.strip_prefix("networking.istio.io/").is_some_and(|version| VERSIONS.contains(&version));
    if !known {
        messages.error(
            "apiVersion",
            format!("{api_version:?} is not networking.istio.io/v1, v1beta1 or v1alpha3"),
        );
    }
    if object["kind"] != kind {
        messages.error("kind", format!("is {}, wanted {kind}", object["kind"]));
    }
    for key in object.as_object().into_iter().flat_map(|fields| fields.keys()) {
        if !["apiVersion", "kind", "metadata", "spec", "status"].contains(&key.as_str()) {
            messages.error(key, "unknown field; rules belong under `spec`");
        }
    }
    let meta = &object["metadata"];
    let name = meta["name"].as_str().unwrap_or_default();
    if name.is_empty() {
        messages.error("metadata.name", "is missing");
    }
    let namespace = meta["namespace"].as_str().filter(|text| !text.is_empty()).unwrap_or("default");
    let created = meta["creationTimestamp"].as_str();
    let created_s = created.map_or(Some(0), seconds_since_1970).unwrap_or_else(|| {
        messages
            .warn("metadata.creationTimestamp", "is not RFC 3339 in UTC; the object counts as the oldest");
        0
    });
    let annotations = meta["annotations"].as_object().into_iter().flatten();
    Meta {
        name: ObjectName::new(namespace, name),
        created_s,
        annotations: annotations
            .filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())))
            .collect(),
    }
}

/// From `2026-08-01T10:00:00Z`, the only form that the API server writes.
fn seconds_since_1970(text: &str) -> Option<i64> {
    let (date, time) = text.strip_suffix('Z')?.split_once('T')?;
    let [year, month, day] = three_numbers(date, '-')?;
    let [hour, minute, second] = three_numbers(time.split('.').next()?, ':')?;
    let valid =
        (1..=12).contains(&month) && (1..=31).contains(&day) && hour < 24 && minute < 60 && second < 61;
    if !valid || !(0..=9999).contains(&year) {
        return None;
    }
    // Years are counted from March, so that the leap day is the last one.
    let (year, month) = if month < 3 { (year - 1, month + 9) } else { (year, month - 3) };
    let leap_days = year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    let days = year * 365 + leap_days + (month * 153 + 2) / 5 + day - 1 - DAYS_TO_1970;
    Some(((days * 24 + hour) * 60 + minute) * 60 + second)
}

/// Days from 1 March of year 0 to 1 January 1970, proleptic Gregorian.
const DAYS_TO_1970: i64 = 719_468;

fn three_numbers(text: &str, separator: char) -> Option<[i64; 3]> {
    let mut parts = text.split(separator).map(|part| part.parse::<u32>().ok().map(i64::from));
    let numbers = [parts.next()??, parts.next()??, parts.next()??];
    parts.next().is_none().then_some(numbers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timestamp_becomes_seconds() {
        for (text, want) in [
            ("1970-01-01T00:00:00Z", Some(0)),
            ("2000-02-29T12:00:00Z", Some(951_825_600)),
            ("2026-08-01T10:00:00Z", Some(1_785_578_400)),
            ("2026-08-01T10:00:00.123Z", Some(1_785_578_400)),
            ("2026-08-01", None),
            ("2026-13-01T10:00:00Z", None),
            ("yesterday", None),
        ] {
            assert_eq!(seconds_since_1970(text), want, "{text}");
        }
    }
}
