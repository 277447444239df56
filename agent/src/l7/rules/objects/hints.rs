//! What a user most likely meant by a field that does not exist. Only words; nothing is decided here.

use super::fields::Container;

/// Ends the sentence "unknown field" at `path`; empty when nothing comes to mind.
pub(super) fn unknown_field(path: &str, schema: &[Container]) -> String {
    let Some((place, field)) = path.rsplit_once('.') else {
        return String::new();
    };
    further_out(place, field, schema)
        .or_else(|| further_in(place, field, schema))
        .or_else(|| misspelt(place, field, schema))
        .unwrap_or_default()
}

/// Ends the sentence about a value of the wrong type.
pub(super) fn wrong_type(text: &str) -> &'static str {
    if text.starts_with("invalid type: map, expected a sequence") {
        "; a list is wanted: put `-` before its first field"
    } else {
        ""
    }
}

/// Whether the schema says that one object stands at `path`.
pub(super) fn is_object(path: &str, schema: &[Container]) -> bool {
    let place = without_indices(path);
    schema.iter().any(|container| container.path == place)
}

/// Indented too far: the field belongs to something that contains `place`.
fn further_out(place: &str, field: &str, schema: &[Container]) -> Option<String> {
    let mut inner = place;
    while let Some((outer, below)) = inner.rsplit_once('.') {
        if knows(outer, field, schema) {
            let below = below.split('[').next().unwrap_or(below);
            return Some(format!("; `{field}` belongs to {outer}, beside `{below}`: check the indentation"));
        }
        inner = outer;
    }
    None
}

/// Not indented enough: the field belongs to something within `place`.
fn further_in(place: &str, field: &str, schema: &[Container]) -> Option<String> {
    let place = without_indices(place);
    let inner = schema.iter().find(|container| {
        let below = container.path.strip_prefix(place.as_str());
        below.is_some_and(|below| below.starts_with('.')) && (container.fields)().contains(&field)
    })?;
    Some(format!("; `{field}` belongs to {}: check the indentation", inner.path))
}

/// Spelt nearly like a field that `place` has.
fn misspelt(place: &str, field: &str, schema: &[Container]) -> Option<String> {
    let place = without_indices(place);
    let container = schema.iter().find(|container| container.path == place)?;
    let known = (container.fields)().iter().map(|known| (distance(&plain(field), &plain(known)), known));
    let (_, nearest) = known.filter(|(distance, _)| *distance <= 2).min()?;
    Some(format!("; did you mean `{nearest}`?"))
}

fn knows(place: &str, field: &str, schema: &[Container]) -> bool {
    let place = without_indices(place);
    schema.iter().any(|container| container.path == place && (container.fields)().contains(&field))
}

/// `spec.http[3].route` as the schema names it: `spec.http[].route`.
fn without_indices(path: &str) -> String {
    path.chars().filter(|c| !c.is_ascii_digit()).collect()
}

fn plain(name: &str) -> String {
    name.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).collect()
}

/// Letters to insert, remove or change to get from `a` to `b`.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, letter) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, other) in b.iter().enumerate() {
            let changed = diagonal + usize::from(letter != *other);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}
