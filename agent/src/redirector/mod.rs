//! The redirector's data plane: HTTP and TCP connections that the kernel steers here, under rules.
//!
//! Snapshots come in through [`Redirector::apply`], listeners through [`Redirector::start`]; both are made
//! elsewhere. Every worker thread runs the same code on its own listeners, pools and counters.

mod access;
mod attempts;
mod balance;
mod body;
mod bounded;
mod checks;
mod circuit;
mod config;
mod confinement;
mod connect;
mod connection;
mod counters;
mod deadline;
mod destinations;
mod draws;
mod explain;
mod forbidden;
mod forward;
mod frames;
mod h2c;
mod handover;
mod hash;
mod head;
mod headers;
mod heads;
mod idle;
mod limits;
mod link;
mod locality;
mod memory;
mod mirror;
mod monitors;
mod names;
mod options;
mod outliers;
mod pace;
mod pool;
mod process;
mod proxy_protocol;
mod pulse;
mod replay;
mod replies;
mod request;
mod requests;
mod server;
mod session;
mod snapshot;
mod stream;
mod tcp;
mod tunnel;
mod upstream;
mod view;
mod warmup;
mod worker;

pub use checks::authority;
pub use confinement::{Confinement, confine};
pub use explain::{Answer, Question, explain};
pub use handover::OnceReplaced;
pub use heads::Heads;
pub use options::{Options, SourceAddress};
pub use process::{LONGEST_END, ProcessOptions, run};
pub use server::Redirector;
pub use snapshot::{Endpoint, Pod, Port, Service, Snapshot};
