//! From Kubernetes objects to the model. Pure; what is wrong becomes a [`Problem`], never a panic.

use std::net::IpAddr;

use crate::model::{ObjectName, shorten};

mod address;
mod node;
mod pods;
mod service;
mod service_cidr;
mod slice;

pub use address::{parse_ip, parse_network, parse_port};
pub use node::node;
pub use pods::{PodFacts, own_pod, pod_facts, slices_from_pods};
pub use service::{ServiceWithSelector, TargetPort, service};
pub use service_cidr::service_cidr;
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
    /// Whether nothing of the object is lost by it.
    pub is_warning: bool,
}

/// The result of a conversion: what is usable, and what was wrong on the way.
#[derive(Debug)]
pub struct Converted<T> {
    /// `None` when the object needs nothing from us, or nothing of it is usable.
    pub value: Option<T>,
    /// In the order in which they were met.
    pub problems: Vec<Problem>,
}

/// Problems that are kept of one object; of the others it is told how many there are.
const MOST_PROBLEMS: usize = 20;

/// Collects problems of one object; bounded, whatever the object.
struct Complaints {
    kind: &'static str,
    object: ObjectName,
    problems: Vec<Problem>,
    /// Those that are not kept, and whether they are all warnings.
    others: usize,
    others_warn: bool,
}

impl Complaints {
    const fn new(kind: &'static str, object: ObjectName) -> Self {
        Self { kind, object, problems: Vec::new(), others: 0, others_warn: true }
    }

    fn add(&mut self, path: impl Into<String>, message: impl Into<String>) {
        self.push(path.into(), message.into(), false);
    }

    /// Something worth a look.
    fn warn(&mut self, path: impl Into<String>, message: impl Into<String>) {
        self.push(path.into(), message.into(), true);
    }

    fn push(&mut self, mut path: String, mut message: String, is_warning: bool) {
        if self.problems.len() >= MOST_PROBLEMS {
            self.others += 1;
            self.others_warn &= is_warning;
            return;
        }
        shorten(&mut path);
        shorten(&mut message);
        let (kind, object) = (self.kind, self.object.clone());
        self.problems.push(Problem { kind, object, path, message, is_warning });
    }

    /// The addresses among `texts`; the others are complained about and left out.
    fn addresses(&mut self, path: &str, texts: &[String]) -> Vec<IpAddr> {
        let mut addresses = Vec::with_capacity(texts.len());
        for (index, text) in texts.iter().enumerate() {
            match parse_ip(text) {
                Some(address) => addresses.push(address),
                None => {
                    // `spec.clusterIP` is no list.
                    let place =
                        if path.ends_with("IP") { path.to_owned() } else { format!("{path}[{index}]") };
                    self.add(place, format!("{text:?} is not an IP address; left out"));
                }
            }
        }
        addresses
    }

    /// Addresses of Services, endpoints and pods: those that only their own machine or a group of machines has cannot be one's
    /// own. The API server refuses them in slices; files are not validated by it.
    fn own_addresses(&mut self, path: &str, texts: &[String]) -> Vec<IpAddr> {
        let mut addresses = self.addresses(path, texts);
        addresses.retain(|address| {
            let link_local = match address {
                IpAddr::V4(v4) => v4.is_link_local() || v4.is_broadcast(),
                IpAddr::V6(v6) => v6.is_unicast_link_local(),
            };
            let bad =
                address.is_loopback() || address.is_unspecified() || address.is_multicast() || link_local;
            if bad {
                self.add(
                    path,
                    format!(
                        "{address} is a loopback, unspecified, link-local or multicast address; left out"
                    ),
                );
            }
            !bad
        });
        addresses
    }

    fn done<T>(mut self, value: Option<T>) -> Converted<T> {
        if self.others > 0 {
            let (kind, object) = (self.kind, self.object);
            let message = format!("there are {} more such problems", self.others);
            let path = "metadata.name".to_owned();
            self.problems.push(Problem { kind, object, path, message, is_warning: self.others_warn });
        }
        Converted { value, problems: self.problems }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn problems_of_one_object_are_bounded() {
        let mut complaints = Complaints::new("Service", ObjectName::new("shop", "cart"));
        (0..100_000).for_each(|i| complaints.warn(format!("spec.{i}"), "ü".repeat(10_000)));
        complaints.add("spec.last", "is wrong");
        let problems = complaints.done(Some(())).problems;
        assert_eq!(problems.len(), MOST_PROBLEMS + 1);
        assert!(problems.iter().all(|problem| problem.message.len() < 1_000));
        let last = &problems[MOST_PROBLEMS];
        let want = "Service shop/cart: metadata.name: there are 99981 more such problems";
        assert_eq!((last.to_string().as_str(), last.is_warning), (want, false));
    }
}
