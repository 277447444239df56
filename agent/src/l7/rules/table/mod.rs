//! From objects to the table of a Service port, and from a request to a rule. How rules act is in `actions`.

mod accept;
mod covers;
mod delegate;
mod explain;
mod index;
mod listing;
mod locality_checks;
mod matches;
mod missing;
mod policy;
mod policy_checks;
mod report;
mod routes;
mod rule;
mod select;
mod set;
mod target;
mod unserved;

#[cfg(test)]
pub(crate) mod tests;

pub use accept::{Read, VirtualService, read_virtual_service};
pub use explain::{Explanation, Skipped, Verdict, explain};
pub use listing::{Line, Share};
pub use matches::Match;
pub use policy::{DestinationRule, Policy, read_destination_rule};
pub use routes::{ClientRoutes, ClientRule, Routes};
pub use rule::{Action, HttpRule, Route, RouteDestination};
pub use select::{Selected, Selection};
pub use set::{Findings, Kind, KnownService, KnownServices, RuleSet, Superseded};
pub use target::{Target, TargetState};
pub use unserved::{Host, Hosts, Scope, Steering};
