//! Who may do what: once told, the server allows that alone, and remembers what of it was asked for.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{ApiServer, State};

/// Verb, group, resource.
pub type Right = (String, String, String);

/// The rights of a ClusterRole.
pub fn rights(role: &Value) -> BTreeSet<Right> {
    let texts = |value: &Value| -> Vec<String> {
        value.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let mut rights = BTreeSet::new();
    for rule in role["rules"].as_array().into_iter().flatten() {
        for group in texts(&rule["apiGroups"]) {
            for resource in texts(&rule["resources"]) {
                let verbs = texts(&rule["verbs"]).into_iter();
                rights.extend(verbs.map(|verb| (verb, group.clone(), resource.clone())));
            }
        }
    }
    rights
}

/// What a request for a list or a watch asks for: `/api/v1/pods`, `/apis/GROUP/VERSION/RESOURCE`.
fn asked(path: &str, watch: bool) -> Right {
    let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    let group = if parts[0] == "api" { "" } else { parts[1] };
    let resource = parts.last().copied().unwrap_or_default();
    ((if watch { "watch" } else { "list" }).to_owned(), group.to_owned(), resource.to_owned())
}

impl State {
    /// Notes what is asked for; whether it is allowed.
    pub(super) fn allows(&mut self, path: &str, watch: bool) -> bool {
        self.may(asked(path, watch))
    }

    /// The same of any verb.
    pub(super) fn allows_verb(&mut self, verb: &str, group: &str, resource: &str) -> bool {
        self.may((verb.to_owned(), group.to_owned(), resource.to_owned()))
    }

    fn may(&mut self, right: Right) -> bool {
        let allowed = self.allowed.as_ref().is_none_or(|allowed| allowed.contains(&right));
        self.asked.insert(right);
        allowed
    }
}

impl ApiServer {
    /// Answers 401 from now on to whoever does not show this token.
    pub fn want_token(&self, token: &str) {
        self.shared().edit(|state| state.token = Some(format!("Bearer {token}")));
    }

    /// Allows this alone from now on; all else is answered 403.
    pub fn allow_only(&self, rights: BTreeSet<Right>) {
        self.shared().edit(|state| state.allowed = Some(rights));
    }

    /// What was asked for since the start, allowed or not.
    pub fn asked(&self) -> BTreeSet<Right> {
        self.shared().lock().asked.clone()
    }
}
