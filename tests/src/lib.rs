//! What end-to-end tests and the demo are built from. Everything here is real: namespaces, cgroups, processes,
//! sockets and the `sluice` binary. Needs root; `cargo xtask test` provides the rest.

pub mod apiserver;
pub mod bench;
pub mod canonical;
pub mod chaos;
pub mod cluster;
pub mod container;
pub mod demo;
pub mod echo;
pub mod extras;
pub mod flood;
pub mod http;
pub mod kustomize;
pub mod manifest;
pub mod monitor;
pub mod outside;
pub mod packet;
pub mod peer;
pub mod programmed;
pub mod reference;
pub mod rig;
pub mod shop;
pub mod wait;
pub mod world;
