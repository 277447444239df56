//! From JSON to types, with a path for everything that does not fit. Which values make sense is not here.

use serde::de::DeserializeOwned;
use serde_ignored::Path;
use serde_json::Value;

use super::{Messages, fields::Container, hints};
use crate::model::{UNREADABLE, annotations};

/// How the message about an unknown field begins.
const UNKNOWN: &str = "unknown field";

/// Where kubectl keeps what the user wrote.
const LAST_APPLIED: &str = annotations::LAST_APPLIED.name;

/// Maps whose values are conditions: an absent value there is a mistake, not the same as no entry.
const CONDITIONS: [&str; 3] = ["headers", "withoutHeaders", "queryParams"];

/// Reads `spec`. Every unknown field is an error; of wrong types only the first, because serde stops there.
pub(super) fn read<T: DeserializeOwned>(
    spec: &Value,
    schema: &[Container],
    messages: &mut Messages,
) -> Option<T> {
    if !spec.is_object() {
        messages.error("spec", if spec.is_null() { "is missing" } else { "is not an object" });
        return None;
    }
    if let Some(why) = spec.get(UNREADABLE).and_then(Value::as_str) {
        messages.error("spec", why);
        return None;
    }
    let mut spec = spec.clone();
    drop_nulls(&mut spec, false);
    let lists = misplaced_lists(&spec, "spec", schema, messages);
    if lists > 0 {
        return None;
    }
    let mut unknown = Vec::new();
    let mut track = serde_path_to_error::Track::new();
    let tracked = serde_path_to_error::Deserializer::new(spec, &mut track);
    let result = serde_ignored::deserialize(tracked, |path| unknown.push(render(&path)));
    for path in unknown {
        let hint = hints::unknown_field(&path, schema);
        messages.error(path, format!("{UNKNOWN}{hint}"));
    }
    match result {
        Ok(value) => Some(value),
        Err(error) => {
            let path = track.path().to_string();
            let path = if path == "." { "spec".to_owned() } else { format!("spec.{path}") };
            let text = error.to_string();
            let hint = hints::wrong_type(&text);
            messages.error(path, text + hint);
            None
        }
    }
}

/// Warns of unknown fields that the API server has dropped, as far as kubectl has kept what was written.
pub(super) fn warn_pruned<T: DeserializeOwned>(
    object: &Value,
    schema: &[Container],
    messages: &mut Messages,
) {
    let applied = object["metadata"]["annotations"][LAST_APPLIED].as_str();
    let Some(Ok(applied)) = applied.map(serde_json::from_str::<Value>) else { return };
    let mut said = Messages::default();
    read::<T>(&applied["spec"], schema, &mut said);
    let known = messages.clone().into_vec();
    for message in said.into_vec() {
        if message.text.starts_with(UNKNOWN) && !known.contains(&message) {
            messages
                .warn(message.path, format!("was applied, and dropped by the API server: {}", message.text));
        }
    }
}

/// Complains of lists where one object is wanted: serde would take their items for the fields in order.
fn misplaced_lists(value: &Value, path: &str, schema: &[Container], messages: &mut Messages) -> usize {
    match value {
        Value::Array(_) if path.ends_with(']') => {
            messages.error(path, "a list stands within a list: remove one `-`");
            1
        }
        Value::Array(_) if hints::is_object(path, schema) => {
            messages.error(path, "is a list, wanted one object: remove the `-`");
            1
        }
        Value::Array(items) => {
            let items = items.iter().enumerate();
            items.map(|(i, item)| misplaced_lists(item, &format!("{path}[{i}]"), schema, messages)).sum()
        }
        Value::Object(fields) => fields
            .iter()
            .map(|(name, field)| misplaced_lists(field, &format!("{path}.{name}"), schema, messages))
            .sum(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => 0,
    }
}

/// Protobuf's JSON reads null as absent.
fn drop_nulls(value: &mut Value, keep: bool) {
    match value {
        Value::Object(fields) => {
            fields.retain(|_, value| keep || !value.is_null());
            for (name, value) in fields {
                drop_nulls(value, CONDITIONS.contains(&name.as_str()));
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| drop_nulls(item, false)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// `spec.http[0].route`; serde_ignored's own form says `http.?.0.route`.
fn render(path: &Path<'_>) -> String {
    match path {
        Path::Root => "spec".to_owned(),
        Path::Seq { parent, index } => format!("{}[{index}]", render(parent)),
        Path::Map { parent, key } => format!("{}.{key}", render(parent)),
        Path::Some { parent } | Path::NewtypeStruct { parent } | Path::NewtypeVariant { parent } => {
            render(parent)
        }
    }
}
