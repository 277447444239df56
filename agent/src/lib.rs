//! The library behind the `sluice` binary.
//!
//! Data flows one way: sources ([`manifests`], [`k8s`]) → [`model`] → [`compile`] → [`reconcile`] → [`maps`].

mod capabilities;
pub mod cli;
pub mod compile;
pub mod devices;
mod flows;
mod harmless;
pub mod health;
pub mod inspect;
pub mod k8s;
mod kube_proxy;
pub mod l7;
pub mod loader;
pub mod manifests;
pub mod maps;
pub mod metrics;
pub mod model;
mod netlink;
pub mod objects;
pub mod reconcile;
pub mod redirector;
pub mod reserved;
pub mod routes;
pub mod run;
mod signals;
pub mod sockets;
mod sys;
