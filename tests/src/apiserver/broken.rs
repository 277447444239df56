//! A server that is there only in part: it gives some kinds and not others, or its connections are cut without a word.

use serde_json::json;

use super::{ApiServer, path_of};
use crate::world::{tool, tool_path};

impl super::State {
    /// As [`ApiServer::forget_between_pages`] has told it, once a list's first page went out.
    pub(super) fn forget_between_pages(&mut self, is_first_of_several: bool) {
        if is_first_of_several && self.forgets_after.take().is_some() {
            self.version += 1;
            self.oldest = self.version;
            self.events.clear();
        }
    }
}

impl ApiServer {
    /// Forgets, in the midst of the next list of several pages, what it is of: whoever asks for the second page is told 410.
    /// Until then pages have `objects` at most.
    pub fn forget_between_pages(&self, objects: usize) {
        self.shared().edit(|state| state.forgets_after = Some(objects));
    }

    /// Whether that is still to come.
    pub fn is_to_forget(&self) -> bool {
        self.shared().lock().forgets_after.is_some()
    }

    /// Answers whoever asks for a kind with 500, or as before.
    pub fn fail(&self, kind: &str, fails: bool) {
        let path = path_of(&json!({ "kind": kind }));
        self.shared().edit(|state| match fails {
            true => drop(state.failing.insert(path, 500)),
            false => drop(state.failing.remove(path)),
        });
    }

    /// Answers every request with 503 and this `Retry-After`, as a balancer in front of no server does.
    pub fn unavailable(&self, retry_after_s: Option<u32>) {
        self.shared().edit(|state| state.unavailable = retry_after_s);
    }

    /// Loses every packet from and to the server, so that neither end hears of the other: no answer, no end, no refusal.
    ///
    /// # Panics
    /// nft (package nftables) is not there.
    pub fn cut(&self, cut: bool) {
        let (name, port) = (format!("cut-{}", self.address.port()), self.address.port());
        let rules = match cut {
            true => format!(
                "table inet {name} {{ chain input {{ type filter hook input priority 0; \
                 tcp dport {port} drop; tcp sport {port} drop; }}; }}"
            ),
            false => format!("delete table inet {name}"),
        };
        let mut command = tool("nsenter");
        command.arg(format!("--net=/run/netns/{}", self.netns)).arg(tool_path("nft")).arg(rules);
        let output = command.output().expect("nsenter starts");
        assert!(output.status.success(), "nft: {}", String::from_utf8_lossy(&output.stderr));
    }
}
