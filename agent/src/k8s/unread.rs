//! Objects in whose definitions anything goes, read part by part: what is wrong with one of them, or done to us by it, concerns
//! nobody else. Pure.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use serde::Deserialize;
use serde_json::{Map, Value, value::RawValue};

use crate::model::UNREADABLE;

/// The longest `spec` that is read. An API server takes objects of a megabyte and a half at most, unless told otherwise.
const LONGEST_SPEC: usize = 1 << 20;

/// Of the metadata what we use. Not what fields somebody manages, which is as deep as the object.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    name: Option<String>,
    namespace: Option<String>,
    resource_version: Option<String>,
    creation_timestamp: Option<Time>,
    annotations: Option<BTreeMap<String, String>>,
}

/// The metadata of an object.
///
/// # Errors
/// It has none, or not such as an API server gives.
pub fn metadata(object: &str) -> serde_json::Result<ObjectMeta> {
    #[derive(Deserialize)]
    struct Object {
        metadata: Metadata,
    }
    let Object { metadata } = serde_json::from_str(object)?;
    Ok(ObjectMeta {
        name: metadata.name,
        namespace: metadata.namespace,
        resource_version: metadata.resource_version,
        creation_timestamp: metadata.creation_timestamp,
        annotations: metadata.annotations,
        ..ObjectMeta::default()
    })
}

/// The fields of an object, but for its metadata and status. What cannot be read says why, for `l7` to tell.
pub fn fields(object: &str) -> Map<String, Value> {
    let parts: BTreeMap<String, &RawValue> = serde_json::from_str(object).unwrap_or_default();
    let others = parts.into_iter().filter(|(name, _)| !["metadata", "status"].contains(&name.as_str()));
    others.map(|(name, text)| (name, field(text.get()))).collect()
}

fn field(text: &str) -> Value {
    let unreadable = |why: String| Value::from(Map::from_iter([(UNREADABLE.to_owned(), why.into())]));
    if text.len() > LONGEST_SPEC {
        return unreadable(format!(
            "has {} bytes, and more than {LONGEST_SPEC} are not read; divide the object",
            text.len()
        ));
    }
    // Text that came through `RawValue` is JSON: what is left to go wrong is its depth.
    serde_json::from_str(text).unwrap_or_else(|error| {
        let text = error.to_string();
        unreadable(match text.starts_with("recursion limit") {
            true => "is nested deeper than 128 levels, which no field allows".to_owned(),
            false => text,
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(spec: &str) -> String {
        let manager = r#"{"manager": "m", "fieldsV1": "#.to_owned() + spec + "}";
        format!(
            r#"{{"metadata": {{"name": "a", "namespace": "n", "resourceVersion": "7", "annotations": {{"x": "y"}},
            "creationTimestamp": "2024-01-02T03:04:05Z", "managedFields": [{manager}]}}, "spec": {spec}, "specs": 1,
            "status": {spec}}}"#
        )
    }

    #[test]
    fn what_cannot_be_read_of_one_field_is_said_in_its_place() {
        let nested = |levels: usize| "{\"a\":".repeat(levels) + "1" + &"}".repeat(levels);
        for (case, spec, why) in [
            ("small", nested(1), None),
            ("deep", nested(120), None),
            ("too deep", nested(200), Some("is nested deeper than 128 levels")),
            ("far too deep", nested(100_000), Some("is nested deeper than 128 levels")),
            (
                "too long",
                format!("\"{}\"", "x".repeat(LONGEST_SPEC)),
                Some("has 1048578 bytes, and more than 1048576"),
            ),
        ] {
            let object = object(&spec);
            let found = metadata(&object).unwrap();
            assert_eq!(
                (found.name.as_deref(), found.resource_version.as_deref()),
                (Some("a"), Some("7")),
                "{case}"
            );
            assert!(found.creation_timestamp.is_some() && found.annotations.is_some(), "{case}");
            let fields = fields(&object);
            assert_eq!(fields.keys().collect::<Vec<_>>(), ["spec", "specs"], "{case}");
            let said = fields["spec"].get(UNREADABLE).and_then(Value::as_str);
            match why {
                Some(why) => assert!(said.is_some_and(|said| said.starts_with(why)), "{case}: {said:?}"),
                None => assert_eq!(fields["spec"].to_string(), spec, "{case}"),
            }
        }
        assert!(metadata("{}").is_err());
    }
}
