//! Which Services and addresses a slice is about.

use std::{net::IpAddr, sync::Arc};

use super::{
    super::{EndpointSlice, ObjectName, ServiceKind},
    Store,
};

impl Store {
    pub(super) fn share(&mut self, name: Arc<str>) -> Arc<str> {
        if let Some(shared) = self.places.get(&name) {
            return Arc::clone(shared);
        }
        self.places.insert(Arc::clone(&name));
        name
    }

    pub(super) fn index(&mut self, name: &ObjectName, slice: &EndpointSlice) {
        let names = self.by_service.entry(slice.service.clone()).or_default();
        if let Err(place) = names.binary_search(name) {
            names.insert(place, name.clone());
        }
        self.touch(&slice.service);
        let shared = Arc::new(name.clone());
        for address in slice.endpoints.iter().flat_map(|endpoint| &endpoint.addresses) {
            let names = self.by_address.entry(*address).or_insert_with(|| Vec::with_capacity(1));
            if !names.contains(&shared) {
                names.push(Arc::clone(&shared));
            }
            self.mark_users_of(*address);
        }
    }

    /// The endpoints of a Service changed.
    fn touch(&mut self, service: &ObjectName) {
        self.dirty.insert(service.clone());
        self.l7_news.endpoints_of.insert(service.clone());
    }

    pub(super) fn unindex(&mut self, name: &ObjectName, slice: &EndpointSlice) {
        self.touch(&slice.service);
        if let Some(names) = self.by_service.get_mut(&slice.service) {
            names.retain(|other| other != name);
            if names.is_empty() {
                self.by_service.remove(&slice.service);
            }
        }
        for address in slice.endpoints.iter().flat_map(|endpoint| &endpoint.addresses) {
            self.mark_users_of(*address);
            if let Some(names) = self.by_address.get_mut(address) {
                names.retain(|other| **other != *name);
                if names.is_empty() {
                    self.by_address.remove(address);
                }
            }
        }
    }

    /// Headless Services look at the ports that other slices show for their endpoints' addresses.
    pub(super) fn mark_users_of(&mut self, address: IpAddr) {
        let names = self.by_address.get(&address).into_iter().flatten();
        for service in names.filter_map(|name| self.slices.get(&**name)).map(|slice| &slice.service) {
            let headless =
                self.services.get(service).is_some_and(|service| service.kind == ServiceKind::Headless);
            if headless {
                self.dirty.insert(service.clone());
            }
        }
    }
}
