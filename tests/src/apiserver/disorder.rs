//! What a server may do to the order of things: say what it has said, say what was true before, and list what is gone by the
//! time of the watch.

use super::{ApiServer, Event, State, path_of};

impl State {
    /// After a listing of `path`: what is to vanish goes.
    pub(super) fn vanish(&mut self, path: &str) {
        let Some(key) = self.vanishing.take_if(|(of, _)| *of == path) else { return };
        if let Some(object) = self.objects.remove(&key) {
            self.version += 1;
            self.events.push(Event { version: self.version, path: key.0, kind: "DELETED", object });
        }
    }
}

impl ApiServer {
    /// Sends the last `count` events again, the latest first, each twice; then, for every object that they are about, how
    /// it is now. As a watch does that goes from one server to another whose cache is older.
    pub fn repeat(&self, count: usize) {
        self.shared().edit(|state| {
            let past: Vec<Event> = state.events.iter().rev().take(count).cloned().collect();
            let said = past.iter().filter(|event| event.kind != "BOOKMARK");
            let again: Vec<Event> = said.flat_map(|event| [event.clone(), event.clone()]).collect();
            let now = again.iter().map(|event| {
                let key = (event.path, super::key_of(&event.object));
                match state.objects.get(&key) {
                    // An object that is known, and one that is not: added all the same, deleted all the same.
                    Some(object) => Event { kind: "ADDED", object: object.clone(), ..event.clone() },
                    None => Event { kind: "DELETED", ..event.clone() },
                }
            });
            let now: Vec<Event> = now.collect();
            for event in again.into_iter().chain(now) {
                state.version += 1;
                state.events.push(Event { version: state.version, ..event });
            }
        });
    }

    /// Deletes `Kind namespace/name` right after the next listing of its kind, which still has it.
    pub fn vanish_once_listed(&self, kind: &str, name: &str) {
        let path = path_of(&serde_json::json!({ "kind": kind }));
        self.shared().edit(|state| state.vanishing = Some((path, name.to_owned())));
    }

    /// Whether that is still to come.
    pub fn is_vanishing(&self) -> bool {
        self.shared().lock().vanishing.is_some()
    }
}
