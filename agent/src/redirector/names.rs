//! External names: asked for when a request goes there, kept for a while. An answer that failed is not kept.

use std::{cell::RefCell, collections::HashMap, net::SocketAddr, sync::Arc, time::Duration};

use tokio::time::Instant;

use super::config::canonical;

const KEPT: Duration = Duration::from_secs(30);
/// No request waits longer for an answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Answers by name and port.
#[derive(Default, Debug)]
pub struct Names(RefCell<HashMap<(Arc<str>, u16), Answer>>);

/// Until when an answer is kept, and what it was.
type Answer = (Instant, Vec<SocketAddr>);

impl Names {
    /// The addresses of `name`; none when it has none or nobody answers.
    pub async fn resolve(&self, name: &Arc<str>, port: u16) -> Vec<SocketAddr> {
        let key = (name.clone(), port);
        let now = Instant::now();
        if let Some((_, addresses)) = self.0.borrow().get(&key).filter(|(until, _)| *until > now) {
            return addresses.clone();
        }
        let lookup = tokio::net::lookup_host((&**name, port));
        let Ok(Ok(found)) = tokio::time::timeout(PATIENCE, lookup).await else {
            return Vec::new();
        };
        let addresses: Vec<_> = found.map(canonical).collect();
        self.0.borrow_mut().insert(key, (now + KEPT, addresses.clone()));
        addresses
    }

    /// Forgets what is too old.
    pub fn sweep(&self) {
        let now = Instant::now();
        self.0.borrow_mut().retain(|_, (until, _)| *until > now);
    }
}
