//! Who owns an address that two Services want: whose cluster IP it is, then the older one, then the first by name.

use std::collections::{BTreeMap, BTreeSet};

use sluice_common::layout::FrontendKind;

use super::{CompiledPort, Dialled};
use crate::model::ObjectName;

/// A wish for an address; the order of claims is their precedence. A cluster IP comes first, whatever its age: those
/// are allocated once, so that anybody else who claims one does so in the hope of its traffic (CVE-2020-8554).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Claim {
    kind: FrontendKind,
    created_s: i64,
    service: ObjectName,
}

/// All wishes. Updated per Service; the answer does not depend on the order of updates.
#[derive(Debug, Default)]
pub struct Claims {
    /// In their order.
    by_address: BTreeMap<Dialled, Vec<Claim>>,
    by_service: BTreeMap<ObjectName, (i64, Vec<(Dialled, FrontendKind)>)>,
}

impl Claims {
    /// Replaces the wishes of `service` by those of its compiled ports; returns the other Services that won or
    /// lost an address by it, which must be planned again.
    pub fn update(&mut self, service: &ObjectName, ports: &[CompiledPort]) -> BTreeSet<ObjectName> {
        let created_s = ports.first().map_or(0, |port| port.created_s);
        let frontends = ports.iter().flat_map(|port| &port.frontends);
        let wanted: BTreeMap<Dialled, FrontendKind> =
            frontends.map(|(dialled, frontend)| (*dialled, frontend.kind)).collect();
        let (old_created_s, old) = self.by_service.remove(service).unwrap_or_default();
        let mut touched = BTreeSet::new();
        for (dialled, kind) in &old {
            let claim = Claim { kind: *kind, created_s: old_created_s, service: service.clone() };
            self.change(*dialled, &mut touched, |claims| {
                claims.retain(|other| *other != claim);
            });
        }
        for (dialled, kind) in &wanted {
            let claim = Claim { kind: *kind, created_s, service: service.clone() };
            self.change(*dialled, &mut touched, |claims| {
                if let Err(place) = claims.binary_search(&claim) {
                    claims.insert(place, claim);
                }
            });
        }
        if !wanted.is_empty() {
            self.by_service.insert(service.clone(), (created_s, wanted.into_iter().collect()));
        }
        touched.remove(service);
        touched
    }

    /// The Service that `dialled` belongs to.
    pub fn owner(&self, dialled: &Dialled) -> Option<&ObjectName> {
        self.by_address.get(dialled)?.first().map(|claim| &claim.service)
    }

    fn change(
        &mut self,
        dialled: Dialled,
        touched: &mut BTreeSet<ObjectName>,
        edit: impl FnOnce(&mut Vec<Claim>),
    ) {
        let claims = self.by_address.entry(dialled).or_insert_with(|| Vec::with_capacity(1));
        touched.extend(claims.iter().map(|claim| claim.service.clone()));
        edit(claims);
        if claims.is_empty() {
            self.by_address.remove(&dialled);
        }
    }
}
