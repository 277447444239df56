//! HTTP, TLS and TCP rules of Istio: which Services have them, and what the redirector must know. Pure.

use serde_json::Value;

use crate::model::RuleKind;

mod plan;
pub mod rules;
pub mod snapshot;
mod split;

pub use plan::{Offline, Place, Plan, Planner, Report, offline};
pub use rules::definitions;

/// What is wrong with one rule object, whatever else there is.
pub fn messages(kind: RuleKind, object: &Value) -> Vec<rules::Message> {
    let mesh = rules::hosts::Mesh::default();
    match kind {
        RuleKind::VirtualService => rules::table::read_virtual_service(object, &mesh).messages,
        RuleKind::DestinationRule => rules::table::read_destination_rule(object, &mesh).messages,
    }
}
