//! Istio objects as they are written: types, reading, messages with paths. What they mean is in `table`.

use serde_json::Value;

mod definitions;
mod destination_rule;
mod fields;
mod hints;
mod http;
mod message;
mod meta;
mod reader;
mod schema;
mod span;
mod traffic_policy;
mod virtual_service;

#[cfg(test)]
mod tests;

pub use definitions::{Definition, definitions};
pub use destination_rule::*;
pub use http::*;
pub use message::{Message, Messages, Severity};
pub use meta::Meta;
pub use span::Span;
pub use traffic_policy::*;
pub use virtual_service::*;

/// Reads the metadata and the spec of a VirtualService; `None` when the spec cannot be read at all.
pub fn virtual_service(object: &Value, messages: &mut Messages) -> (Meta, Option<VirtualServiceSpec>) {
    let meta = meta::read(object, "VirtualService", messages);
    let spec = reader::read(&object["spec"], fields::VIRTUAL_SERVICE, messages);
    reader::warn_pruned::<VirtualServiceSpec>(object, fields::VIRTUAL_SERVICE, messages);
    (meta, spec)
}

/// Reads the metadata and the spec of a DestinationRule; `None` when the spec cannot be read at all.
pub fn destination_rule(object: &Value, messages: &mut Messages) -> (Meta, Option<DestinationRuleSpec>) {
    let meta = meta::read(object, "DestinationRule", messages);
    let spec = reader::read(&object["spec"], fields::DESTINATION_RULE, messages);
    reader::warn_pruned::<DestinationRuleSpec>(object, fields::DESTINATION_RULE, messages);
    (meta, spec)
}
