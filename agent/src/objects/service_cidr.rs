//! `networking.k8s.io/v1.ServiceCIDR` into the model.

use ipnet::IpNet;
use k8s_openapi::api::networking::v1 as networking;

use super::{Complaints, Converted, parse_network};
use crate::model::ObjectName;

/// Converts a ServiceCIDR: its networks. One that is going away counts while it is there, for its addresses may be in use.
pub fn service_cidr(object: &networking::ServiceCIDR) -> Converted<(ObjectName, Vec<IpNet>)> {
    let name = ObjectName::new("", object.metadata.name.clone().unwrap_or_default());
    let mut complaints = Complaints::new("ServiceCIDR", name.clone());
    let texts = object.spec.iter().flat_map(|spec| spec.cidrs.iter().flatten());
    let mut networks = Vec::new();
    for (index, text) in texts.enumerate() {
        match parse_network(text) {
            Some(network) => networks.push(network),
            None => {
                complaints
                    .add(format!("spec.cidrs[{index}]"), format!("{text:?} is not a network; left out"));
            }
        }
    }
    complaints.done(Some((name, networks)))
}
