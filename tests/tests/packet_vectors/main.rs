//! The golden vectors of kube-proxy's own tests, packet by packet: what a client outside, a pod and the node without socket
//! hooks meet. Every vector is a test of its own name; all that change nothing share one world (`world.rs`). What sockets
//! with hooks meet is in `vectors.rs`.

#![allow(clippy::unwrap_used, reason = "clippy sees tests only in functions that are marked as such")]

mod changes;
mod further;
mod ranges;
mod table;
mod world;
