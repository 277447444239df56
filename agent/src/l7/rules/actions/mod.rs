//! What a rule does with a request, as pure functions, one file per action. Which rule acts is in `table`.

mod cors;
mod destination;
mod direct;
mod fault;
mod format;
mod headers;
mod mirror;
mod redirect;
mod retries;
mod rewrite;
mod share;
pub(crate) mod timeout;

#[cfg(test)]
mod tests;

pub use cors::{Cors, CorsAnswer};
pub(crate) use destination::port_number;
pub use destination::{DestinationName, Weights};
pub use direct::Direct;
pub use fault::{Abort, Fault, Injected, grpc_to_http};
pub use format::Facts;
pub use headers::{HeaderRules, Operations};
pub(crate) use headers::{apply, host_value};
pub use mirror::Mirror;
pub use redirect::Redirect;
pub use retries::{Outcome, RetryPolicy};
pub use rewrite::{MatchedUri, PathRewrite};
pub use share::Share;
pub use timeout::{capped_grpc_timeout, request_deadline};
