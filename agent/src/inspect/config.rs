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
    /// `accepted` or `rejected`.
    pub state: &'static str,
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

/// The Services that the maps hold, and every object that somebody complained about.
pub fn config(tables: &Tables, complaints: impl Iterator<Item = Complaint>) -> Vec<ConfigRow> {
    let service = |value: &sluice_common::layout::ServiceValue| {
        ["Service", value.namespace.as_str(), value.name.as_str()].map(str::to_owned)
    };
    let held: BTreeSet<[String; 3]> = tables.services.values().map(service).collect();
    let mut messages: BTreeMap<[String; 3], Vec<ConfigMessage>> = BTreeMap::new();
    for (object, rejected, path, message) in complaints {
        let severity = if rejected { "error" } else { "warning" };
        messages.entry(object).or_default().push(ConfigMessage { severity, path, message });
    }
    let objects: BTreeSet<[String; 3]> = held.into_iter().chain(messages.keys().cloned()).collect();
    let row = |object: [String; 3]| {
        let messages = messages.remove(&object).unwrap_or_default();
        let rejected = messages.iter().any(|message| message.severity == "error");
        let [kind, namespace, name] = object;
        ConfigRow { kind, namespace, name, state: if rejected { "rejected" } else { "accepted" }, messages }
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
        let rows = config(&tables, complaints.into_iter());
        let got: Vec<_> =
            rows.iter().map(|row| (&row.kind[..], &row.name[..], row.state, row.messages.len())).collect();
        assert_eq!(
            got,
            [
                ("EndpointSlice", "cart-1", "accepted", 1),
                ("Service", "bad", "rejected", 1),
                ("Service", "cart", "accepted", 1),
            ]
        );
        assert_eq!(rows[1].messages[0].severity, "error");
    }
}
