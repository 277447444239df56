//! Whose the endpoints' addresses are, which people want to know and no program does: what fails here is no more than a warning.

use anyhow::Result;
use sluice_common::layout::{Name, PodValue};

use super::Programmer;
use crate::{loader::Loaded, maps::bpf::PodNames, model::ObjectName};

/// The map, and whether what an earlier agent wrote and is true no more was taken away.
pub(super) struct Names(PodNames, bool);

impl Names {
    pub(super) fn open(loaded: &Loaded) -> Result<Self> {
        Ok(Self(PodNames::open(loaded.pins())?, false))
    }
}

impl Programmer {
    /// Writes down what changed.
    pub(super) fn name_pods(&mut self) {
        if let Err(error) = self.try_name_pods() {
            let text = format!("`sluice monitor` does not name every endpoint's pod: {error:#}");
            self.shared.warn("pod-names", text);
        }
    }

    fn try_name_pods(&mut self) -> Result<()> {
        let Names(map, is_tidy) = &mut self.names;
        if !*is_tidy && !self.store.is_partial() {
            map.keep_only(&self.store.named_addresses())?;
            *is_tidy = true;
        }
        let value =
            |pod: ObjectName| PodValue { namespace: Name::new(&pod.namespace), name: Name::new(&pod.name) };
        let renamed = self.store.take_renamed().into_iter();
        map.set(&renamed.map(|(address, pod)| (address, pod.map(value))).collect())
    }
}
