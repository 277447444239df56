//! Names and extent of services and nodes: read by people and by a starting agent; of a service, programs read the cluster IP.

use bytemuck::{Pod, Zeroable};

use crate::Addr;

/// Longest name that Kubernetes allows for a namespace, a Service or a port, in bytes.
pub const NAME_MAX: usize = 63;

/// A name in a map: its length, then its bytes, then zeros.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Pod, Zeroable)]
pub struct Name {
    /// Bytes used.
    pub len: u8,
    /// UTF-8.
    pub bytes: [u8; NAME_MAX],
}
const _: () = assert!(size_of::<Name>() == 64);

impl Name {
    /// `text`, cut at [`NAME_MAX`] bytes (longer names do not pass Kubernetes' validation).
    pub fn new(text: &str) -> Self {
        let mut end = text.len().min(NAME_MAX);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        let mut bytes = [0; NAME_MAX];
        bytes[..end].copy_from_slice(&text.as_bytes()[..end]);
        Self { len: end as u8, bytes }
    }

    /// The text; empty when the bytes are no name.
    pub fn as_str(&self) -> &str {
        let end = usize::from(self.len).min(NAME_MAX);
        core::str::from_utf8(&self.bytes[..end]).unwrap_or_default()
    }
}

/// Names and extent of a service port. Value of `SERVICES`; of it, programs read only the cluster IP.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Pod, Zeroable)]
pub struct ServiceValue {
    /// Namespace of the Service.
    pub namespace: Name,
    /// Name of the Service.
    pub name: Name,
    /// Name of the port; often empty.
    pub port_name: Name,
    /// First slot of the service's whole range: cluster, local, then excluded endpoints.
    pub range_start: u32,
    /// How many slots that range has.
    pub range_count: u32,
    /// The Service's port, network byte order.
    pub port_be: u16,
    /// IANA number: TCP, UDP or SCTP.
    pub protocol: u8,
    /// [`ServiceKind`] as a number.
    pub kind: u8,
    /// IP version, 4 or 6: a dual-stack Service has one service port for each.
    pub family: u8,
    /// Zero.
    pub pad: [u8; 3],
    /// The Service's cluster IP of this family; unspecified if it has none.
    pub cluster_ip: Addr,
}
const _: () = assert!(size_of::<ServiceValue>() == 224);

stored_enum! {
/// `spec.type`, with headless as a type of its own.
pub enum ServiceKind {
    /// `ClusterIP`.
    ClusterIp = 1,
    /// `NodePort`.
    NodePort = 2,
    /// `LoadBalancer`.
    LoadBalancer = 3,
    /// `ClusterIP` with `clusterIP: None`.
    Headless = 4,
}
}

/// A node that endpoints name. Value of `NODES`; read by people only.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Pod, Zeroable)]
pub struct NodeValue {
    /// `endpoints[].nodeName`.
    pub name: Name,
    /// `endpoints[].zone`.
    pub zone: Name,
}
const _: () = assert!(size_of::<NodeValue>() == 128);

/// A pod: one whose sockets are left alone, or an endpoint. Value of `OPT_OUTS` and `PODS`; read by people only.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Pod, Zeroable)]
pub struct PodValue {
    /// Its namespace.
    pub namespace: Name,
    /// Its name, cut at [`NAME_MAX`] bytes.
    pub name: Name,
}
const _: () = assert!(size_of::<PodValue>() == 128);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_cut_at_a_character_and_read_back() {
        let long = [b'a'; 80];
        let long = core::str::from_utf8(&long).unwrap();
        assert_eq!(Name::new("shop").as_str(), "shop");
        assert_eq!(Name::new("").as_str(), "");
        assert_eq!(Name::new(long).as_str().len(), NAME_MAX);
        assert_eq!(Name { len: 200, bytes: [0xff; NAME_MAX] }.as_str(), "", "garbage in a map");
    }
}
