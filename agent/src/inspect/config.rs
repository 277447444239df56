//! What became of each object: used, used in part, or left out.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use crate::maps::Tables;

/// One object.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ConfigRow {
    /// Kind.
    pub kind: String,
    /// Namespace; empty for objects that have none.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// `accepted`, `rejected` or `superseded`.
    pub state: String,
    /// What is wrong with it.
    pub messages: Vec<ConfigMessage>,
}

/// Something that is wrong with an object.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ConfigMessage {
    /// `error` when the object is left out, `warning` when only the part at `path` is.
    pub severity: &'static str,
    /// Path of the field; empty if it concerns the whole object.
    pub path: String,
    /// What is wrong and what follows.
    pub message: String,
}

/// What is wrong with one object: its kind, namespace and name, whether it is left out, path, message.
pub type Complaint = ([String; 3], bool, String, String);

/// The Services that the maps hold, the rule objects with their states, and every object that somebody complained about.
pub fn config(
    tables: &Tables,
    rules: Vec<([String; 3], String)>,
    complaints: impl Iterator<Item = Complaint>,
) -> Vec<ConfigRow> {
    let rules: BTreeMap<[String; 3], String> = rules.into_iter().collect();
    let service = |value: &sluice_common::layout::ServiceValue| {
        ["Service", value.namespace.as_str(), value.name.as_str()].map(str::to_owned)
    };
    let held: BTreeSet<[String; 3]> = tables.services.values().map(service).collect();
    let mut messages: BTreeMap<[String; 3], Vec<ConfigMessage>> = BTreeMap::new();
    for (object, rejected, path, message) in complaints {
        let severity = if rejected { "error" } else { "warning" };
        messages.entry(object).or_default().push(ConfigMessage { severity, path, message });
    }
    let objects: BTreeSet<[String; 3]> =
        held.into_iter().chain(messages.keys().chain(rules.keys()).cloned()).collect();
    let row = |object: [String; 3]| {
        let messages = messages.remove(&object).unwrap_or_default();
        let rejected = messages.iter().any(|message| message.severity == "error");
        let accepted = || rules.get(&object).cloned().unwrap_or_else(|| "accepted".to_owned());
        // What is in force then is the last good form.
        let state = if rejected { "rejected".to_owned() } else { accepted() };
        let [kind, namespace, name] = object;
        ConfigRow { kind, namespace, name, state, messages }
    };
    objects.into_iter().map(row).collect()
}

#[cfg(test)]
mod tests {
    use bytemuck::Zeroable as _;
    use sluice_common::layout::{Name, ServiceValue};

    use super::*;

    #[test]
    fn every_object_is_accepted_or_says_why_not() {
        let mut tables = Tables::default();
        let named =
            ServiceValue { namespace: Name::new("shop"), name: Name::new("cart"), ..ServiceValue::zeroed() };
        tables.services = [(1, named), (2, named)].into();
        let about = |kind: &str, name: &str| [kind, "shop", name].map(str::to_owned);
        let complaints = [
            (about("Service", "cart"), false, "spec.ports[1]".to_owned(), "left out".to_owned()),
            (about("Service", "bad"), true, "spec".to_owned(), "no".to_owned()),
            (about("EndpointSlice", "cart-1"), false, "endpoints[0]".to_owned(), "no address".to_owned()),
        ];
        let rules = vec![(about("VirtualService", "cart"), "superseded".to_owned())];
        let rows = config(&tables, rules, complaints.into_iter());
        let got: Vec<_> = rows
            .iter()
            .map(|row| (&row.kind[..], &row.name[..], &row.state[..], row.messages.len()))
            .collect();
        assert_eq!(
            got,
            [
                ("EndpointSlice", "cart-1", "accepted", 1),
                ("Service", "bad", "rejected", 1),
                ("Service", "cart", "accepted", 1),
                ("VirtualService", "cart", "superseded", 0),
            ]
        );
        assert_eq!(rows[1].messages[0].severity, "error");
    }
}
