//! From Kubernetes objects to the model. Pure; what is wrong becomes a [`Problem`], never a panic.

use std::net::IpAddr;

use crate::model::ObjectName;

mod address;
mod node;
mod pods;
mod service;
mod slice;

pub use address::{parse_ip, parse_port};
pub use node::node;
pub use pods::{PodFacts, pod_facts, slices_from_pods};
pub use service::{ServiceWithSelector, service};
pub use slice::slice;

/// What is wrong with an object, where in it, and what follows.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{kind} {object}: {path}: {message}")]
pub struct Problem {
    /// Kind of the object.
    pub kind: &'static str,
    /// Namespace and name.
    pub object: ObjectName,
    /// Path of the field, as in `spec.ports[0].port`.
    pub path: String,
    /// What is wrong and what is done about it.
    pub message: String,
}

/// The result of a conversion: what is usable, and what was wrong on the way.
#[derive(Debug)]
pub struct Converted<T> {
    /// `None` when the object needs nothing from us, or nothing of it is usable.
    pub value: Option<T>,
    /// In the order in which they were met.
    pub problems: Vec<Problem>,
}

/// Collects problems of one object.
struct Complaints {
    kind: &'static str,
    object: ObjectName,
    problems: Vec<Problem>,
}

impl Complaints {
    const fn new(kind: &'static str, object: ObjectName) -> Self {
        Self { kind, object, problems: Vec::new() }
    }

    fn add(&mut self, path: impl Into<String>, message: impl Into<String>) {
        self.problems.push(Problem {
            kind: self.kind,
            object: self.object.clone(),
            path: path.into(),
            message: message.into(),
        });
    }

    /// The addresses among `texts`; the others are complained about and left out.
    fn addresses(&mut self, path: &str, texts: &[String]) -> Vec<IpAddr> {
        let mut addresses = Vec::with_capacity(texts.len());
        for (index, text) in texts.iter().enumerate() {
            match parse_ip(text) {
                Some(address) => addresses.push(address),
                None => {
                    self.add(format!("{path}[{index}]"), format!("{text:?} is not an IP address; left out"))
                }
            }
        }
        addresses
    }

    fn done<T>(self, value: Option<T>) -> Converted<T> {
        Converted { value, problems: self.problems }
    }
}
