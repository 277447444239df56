//! The redirector over real sockets. One file per part; what they share is in `world.rs`.

#![allow(clippy::unwrap_used, reason = "clippy sees tests only in functions that are marked as such")]

mod actions;
mod balancing;
mod clients;
mod endpoints;
mod fairness;
mod flood;
mod gated;
mod gauges;
mod hostile;
mod hostile_http2;
mod life;
mod limits;
mod passing;
mod pings;
mod resting;
mod retries;
mod streams;
mod upgrade;
mod world;
