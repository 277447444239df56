//! The library behind the `sluice` binary.
//!
//! Data flows one way: sources ([`manifests`], [`k8s`]) → [`model`] → [`compile`] → [`reconcile`] → [`maps`].

pub mod compile;
pub mod maps;
pub mod model;
pub mod objects;
pub mod reconcile;
