//! What agent and redirector write of their work, to standard error.

use std::{
    fmt::{Debug, Result},
    io::IsTerminal as _,
};

use tracing::field::Field;
use tracing_subscriber::{
    field::MakeExt as _,
    fmt::format::{Writer, debug_fn},
};

use crate::harmless;

/// Writes from now on what `SLUICE_LOG` asks for.
pub fn start() {
    let filter = tracing_subscriber::EnvFilter::try_from_env("SLUICE_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info,kube_client=off,kube_runtime=off"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        // It would say so on standard error, and panic where there is no room for that either.
        .log_internal_errors(false)
        .with_target(false)
        .with_ansi(std::io::stderr().is_terminal())
        .fmt_fields(debug_fn(write_field).delimited(" "))
        .init();
}

/// An event is one line, whatever its texts have.
fn write_field(writer: &mut Writer<'_>, field: &Field, value: &dyn Debug) -> Result {
    let text = harmless::line(&format!("{value:?}"));
    match field.name() {
        "message" => writer.write_str(&text),
        // What the crate `log` says besides: from where.
        name if name.starts_with("log.") => Ok(()),
        name => write!(writer, "{name}={text}"),
    }
}
