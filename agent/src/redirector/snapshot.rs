//! The snapshot, as the agent writes it.

pub use crate::l7::snapshot::{Endpoint, Pod, Port, Service, Snapshot};
