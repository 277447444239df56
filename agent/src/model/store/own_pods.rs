//! What the store knows of this node's own pods.

use super::{ObjectName, OptOut, Store};

impl Store {
    /// The pods of this node that want to be left alone; `None` before they were listed.
    pub fn opt_outs(&self) -> Option<Vec<OptOut>> {
        let wanting = |(pod, uid): (&ObjectName, &Option<String>)| {
            uid.as_ref().map(|uid| OptOut { pod: pod.clone(), uid: uid.clone() })
        };
        self.own_pods.as_ref().map(|known| known.iter().filter_map(wanting).collect())
    }

    /// The names of this node's pods; `None` before they were listed.
    pub fn own_pods(&self) -> Option<Vec<String>> {
        self.own_pods.as_ref().map(|known| known.keys().map(ToString::to_string).collect())
    }
}
