//! HTTP, TLS and TCP rules of Istio: which Services have them, and what the redirector must know.

pub mod rules;
