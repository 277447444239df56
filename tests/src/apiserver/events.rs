//! Events that clients publish about objects (events.k8s.io/v1): created, and patched when they come again.

use serde_json::Value;

use super::{ApiServer, State};

/// Below which they are, for each namespace.
const NAMESPACES: &str = "/apis/events.k8s.io/v1/namespaces/";

/// Whether a path is one of events.
pub(super) fn is_theirs(path: &str) -> bool {
    path.strip_prefix(NAMESPACES).is_some_and(|rest| rest.split('/').nth(1) == Some("events"))
}

impl State {
    /// Takes what was sent; the status and the event as it is now.
    pub(super) fn publish(&mut self, method: &str, path: &str, body: &[u8]) -> Result<(u16, Value), u16> {
        let verb = match method {
            "POST" => "create",
            "PATCH" => "patch",
            _ => return Err(405),
        };
        if !self.allows_verb(verb, "events.k8s.io", "events") {
            return Err(403);
        }
        let sent: Value = serde_json::from_slice(body).map_err(|_| 400_u16)?;
        if verb == "create" {
            let name = sent["metadata"]["name"].as_str().ok_or(422_u16)?;
            self.published.insert(format!("{path}/{name}"), sent.clone());
            return Ok((201, sent));
        }
        let event = self.published.get_mut(path).ok_or(404_u16)?;
        *event = sent;
        Ok((200, event.clone()))
    }
}

impl ApiServer {
    /// Events that were published since the start, each as it was sent last.
    pub fn published(&self) -> Vec<Value> {
        self.shared().lock().published.values().cloned().collect()
    }
}
