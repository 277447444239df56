//! A service port's endpoints: joined by port name over all slices, each address and port once.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use super::CompiledEndpoint;
use crate::model::{Endpoint, EndpointSlice, EndpointState, Family, ServicePort};

/// An endpoint before selection, with its hints.
pub struct Candidate {
    pub compiled: CompiledEndpoint,
    pub zone_hints: BTreeSet<String>,
    pub node_hints: BTreeSet<String>,
}

/// The endpoints of `port`, sorted by address and port. Of duplicates the better state wins, then the earlier
/// slice by name, so that the order in which objects arrive does not matter.
pub fn collect(slices: &[&EndpointSlice], port: &ServicePort, family: Family) -> Vec<Candidate> {
    let mut found: BTreeMap<(IpAddr, u16), Candidate> = BTreeMap::new();
    for slice in slices {
        let joined =
            slice.ports.iter().filter(|slot| slot.name == port.name && slot.protocol == port.protocol);
        for number in joined.map(|slot| slot.port.unwrap_or(port.port)) {
            for endpoint in &slice.endpoints {
                let address = endpoint.addresses.first().filter(|address| Family::of(**address) == family);
                let Some(address) = address else { continue };
                let better =
                    found.get(&(*address, number)).is_none_or(|other| endpoint.state < other.compiled.state);
                if better {
                    found.insert((*address, number), candidate(*address, number, endpoint));
                }
            }
        }
    }
    found.into_values().collect()
}

fn candidate(address: IpAddr, port: u16, endpoint: &Endpoint) -> Candidate {
    Candidate {
        compiled: CompiledEndpoint {
            address,
            port,
            state: endpoint.state,
            local: false,
            in_cluster: false,
            in_local: false,
            excluded: None,
            node: endpoint.node.clone(),
            zone: endpoint.zone.clone(),
            weight: 1,
        },
        zone_hints: endpoint.zone_hints.clone(),
        node_hints: endpoint.node_hints.clone(),
    }
}

/// Whether `state` lets an endpoint serve when nothing ready exists.
pub const fn is_fallback(state: EndpointState) -> bool {
    matches!(state, EndpointState::Terminating)
}
