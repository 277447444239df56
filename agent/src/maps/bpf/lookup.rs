//! Parts of the maps: what leads from a few frontends to their backends.

use std::collections::BTreeSet;

use anyhow::Result;
use bytemuck::must_cast;
use sluice_common::layout::{
    ADDRESS_NODE, BackendValue, CONFIG_HOST_NETNS, FrontendKey, FrontendValue, NodeValue, ServiceValue,
};

use super::BpfMaps;
use crate::maps::Tables;

/// How often an entry is read that the kernel is reusing for another key.
const TRIES: u32 = 3;

impl BpfMaps {
    /// What [`Self::dump`] holds of these frontends, those of NodePorts named by an address of the node: they and all that
    /// they lead to.
    ///
    /// # Errors
    /// The kernel refuses a read.
    pub fn dump_of(&self, dialled: &BTreeSet<FrontendKey>) -> Result<Tables> {
        let mut tables = Tables::default();
        for key in dialled {
            if let Ok(kind) = self.addresses.get(&must_cast(key.addr), 0) {
                tables.addresses.insert(key.addr, kind);
                if kind & ADDRESS_NODE != 0 {
                    let any = key.on_any_node_address();
                    tables.frontends.extend(self.frontend(&any).map(|value| (any, value)));
                }
            }
            tables.frontends.extend(self.frontend(key).map(|value| (*key, value)));
        }
        let ids: BTreeSet<u32> = tables.frontends.values().map(|value| value.service_id).collect();
        for id in ids {
            if let Ok(value) = self.services.get(&id, 0) {
                tables.services.insert(id, must_cast(value));
            }
        }
        self.dump_slots(&mut tables)?;
        Ok(tables)
    }

    /// Names and extent of the service port `id`.
    pub fn service(&self, id: u32) -> Option<ServiceValue> {
        self.services.get(&id, 0).ok().map(must_cast)
    }

    /// The backend `id`; `None` if the id is free.
    pub fn backend(&self, id: u32) -> Option<BackendValue> {
        let backend: BackendValue = must_cast(self.backends.get(&id, 0).ok()?);
        (backend.port_be != 0).then_some(backend)
    }

    /// Names of the node `id`.
    pub fn node(&self, id: u32) -> Option<NodeValue> {
        self.nodes.get(&id, 0).ok().map(must_cast)
    }

    /// The cookie of the node's own network namespace.
    pub fn host_netns(&self) -> Option<u64> {
        self.config.get(&CONFIG_HOST_NETNS, 0).ok()
    }

    fn frontend(&self, key: &FrontendKey) -> Option<FrontendValue> {
        let read = || self.frontends.get(&must_cast(*key), 0).ok().map(must_cast::<_, FrontendValue>);
        (0..TRIES).find_map(|_| read().filter(|value| value.check == key.check()))
    }
}
