//! What one client sees of one frontend: made once per connection and change of the configuration.

use std::{collections::BTreeMap, sync::Arc};

use crate::l7::rules::{Client, table::ClientRoutes};

use super::{
    config::{Config, Frontend},
    proxy_protocol::Ends,
};

/// A frontend as one client sees it.
#[derive(Debug)]
pub struct View {
    /// The configuration that this was made from.
    pub config: Arc<Config>,
    /// The port that was dialled.
    pub frontend: Arc<Frontend>,
    /// The rules that hold for the client.
    pub routes: Arc<ClientRoutes>,
    /// Who dialled what.
    pub ends: Ends,
}

impl View {
    /// The view of a connection with these ends; `None` when nothing is there.
    pub fn new(config: Arc<Config>, ends: Ends) -> Option<Self> {
        let frontend = config.frontend(ends.dialled)?.clone();
        let pod = config.pod(ends.client.ip());
        let nothing = BTreeMap::new();
        let routes = frontend.shared.clone().unwrap_or_else(|| {
            let client = Client {
                namespace: pod.map(|pod| pod.namespace.as_str()),
                labels: pod.map_or(&nothing, |pod| &pod.labels),
                dialled: Some(ends.dialled.ip()),
            };
            Arc::new(frontend.routes.for_client(&client))
        });
        Some(Self { config, frontend, routes, ends })
    }

    /// Whether requests must be told apart: some HTTP rule holds, or each is balanced.
    pub fn wants_http(&self) -> bool {
        self.routes.has_http() || self.frontend.per_request
    }
}
