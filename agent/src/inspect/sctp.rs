//! SCTP ports that would have to change.

use std::collections::BTreeSet;

use sluice_common::layout::SCTP;

use super::rows::{service_name, used_slots};
use crate::{maps::Tables, model::sctp_trouble};

/// What is wrong with SCTP Services, one line for each port that clients dial.
pub fn sctp_ports(tables: &Tables) -> BTreeSet<String> {
    let of_sctp = tables.frontends.iter().filter(|(key, _)| key.protocol == SCTP);
    let troubles = of_sctp.filter_map(|(key, value)| {
        let service = tables.services.get(&value.service_id)?;
        let used = [(value.cluster_start, value.cluster_count), (value.local_start, value.local_count)];
        let slots = used.into_iter().flat_map(|range| used_slots(tables, range));
        let ports =
            slots.filter_map(|slot| Some(u16::from_be(tables.backends.get(&slot.backend_id)?.port_be)));
        let (dialled, is_node_port) = (u16::from_be(key.port_be), key.scope == 1);
        let what = format!("{} {dialled}", if is_node_port { "nodePort" } else { "port" });
        let trouble = ports.min_by_key(|port| *port == dialled)?;
        let trouble = sctp_trouble(&what, dialled, trouble, is_node_port)?;
        Some(format!("Service {}: {trouble}", service_name(service)))
    });
    troubles.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        inspect::tests::tables_with,
        model::{EndpointState, Protocol, ServiceKind},
    };

    #[test]
    fn sctp_whose_port_would_change_is_told_once_for_each_port() {
        for (case, protocol, port, node_port, want) in [
            ("another port", Protocol::Sctp, 80, 0, &["port 80 would"][..]),
            ("the same", Protocol::Sctp, 8080, 0, &[]),
            ("its NodePort", Protocol::Sctp, 8080, 30_080, &["nodePort 30080 would"]),
            ("both", Protocol::Sctp, 80, 30_080, &["nodePort 30080 would", "port 80 would"]),
            ("TCP", Protocol::Tcp, 80, 30_080, &[]),
        ] {
            let mut tables = tables_with(&[EndpointState::Ready, EndpointState::Ready], |service| {
                service.kind = ServiceKind::NodePort;
                service.external_ips = vec!["203.0.113.20".parse().unwrap()];
                service.ports[0].port = port;
                service.ports[0].node_port = node_port;
            });
            // What endpoints there are is the same for all transports.
            tables.frontends = tables
                .frontends
                .into_iter()
                .map(|(key, value)| {
                    (sluice_common::layout::FrontendKey { protocol: protocol as u8, ..key }, value)
                })
                .collect();
            let told: Vec<String> = sctp_ports(&tables).into_iter().collect();
            assert_eq!(told.len(), want.len(), "{case}: {told:?}");
            for (told, want) in told.iter().zip(want) {
                assert!(
                    told.starts_with("Service shop/cart: SCTP to ") && told.contains(want),
                    "{case}: {told}"
                );
            }
        }
    }
}
