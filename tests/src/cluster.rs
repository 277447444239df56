//! A node on an API server: what the tests of the Kubernetes source start from.

use serde_json::json;

use crate::{
    apiserver::{ApiServer, assets},
    manifest,
    peer::Peer,
    world::{Agent, Pod, World},
};

/// Runs a test on our own API server and, if `KUBEBUILDER_ASSETS` names one, on a real one too.
pub fn on_every_api_server(test: impl Fn(Cluster)) {
    test(Cluster::new());
    if let Some(assets) = assets() {
        println!("and again, on the kube-apiserver in {}", assets.display());
        test(Cluster::on(|world| ApiServer::start_real(world, &assets)));
    }
}

/// A node whose agent learns from an API server, with two pods that serve TCP 8080 and a client.
pub struct Cluster {
    /// Node and pods.
    pub world: World,
    /// The API server.
    pub api: ApiServer,
    /// `cart-1` and `cart-2`, with their servers.
    pub pods: Vec<(Pod, Peer)>,
    /// Sockets in the pod `client`.
    pub client: Peer,
}

impl Default for Cluster {
    fn default() -> Self {
        Self::new()
    }
}

impl Cluster {
    /// No objects, no agent.
    pub fn new() -> Self {
        Self::on(|world| ApiServer::start(world))
    }

    fn on(start: impl FnOnce(&World) -> ApiServer) -> Self {
        let mut world = World::new();
        let pods = (1..=2).map(|index| world.server(&format!("cart-{index}"), &[(8080, false)])).collect();
        let client_pod = world.pod("client");
        let client = world.peer(&client_pod);
        let api = start(&world);
        Self { world, api, pods, client }
    }

    /// Starts the agent; does not wait.
    pub fn spawn(&self) -> Agent {
        self.world.spawn_agent(&["--kubeconfig", &self.api.kubeconfig()])
    }

    /// Starts the agent and waits until it is healthy.
    pub fn agent(&self) -> Agent {
        let agent = self.spawn();
        self.world.wait_healthy();
        agent
    }

    /// An EndpointSlice of `service` with the first `count` pods; `hints` are zones, one for each.
    pub fn slice(&self, service: &str, count: usize, hints: &[&str]) -> String {
        let endpoint = |(index, (pod, _)): (usize, &(Pod, Peer))| {
            let mut endpoint =
                json!({"addresses": [pod.v4], "conditions": {"ready": true}, "nodeName": "node-1"});
            if let Some(zone) = hints.get(index) {
                endpoint["hints"] = json!({"forZones": [{"name": zone}]});
            }
            endpoint
        };
        let endpoints: Vec<_> = self.pods[..count].iter().enumerate().map(endpoint).collect();
        format!(
            "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: {service}-1, namespace: shop, \
             labels: {{kubernetes.io/service-name: {service}}}}}\naddressType: IPv4\n\
             ports: [{{name: http, port: 8080, protocol: TCP}}]\nendpoints: {}\n",
            json!(endpoints)
        )
    }

    /// The Service shop/cart with the first `count` pods.
    pub fn cart(&self, count: usize) {
        self.api.apply(&manifest::service("cart", &["10.96.0.1"], &["http:80:8080"]));
        self.api.apply(&self.slice("cart", count, &[]));
    }

    /// Starts the agent on this API server, where shop/cart has one pod, and on a second one, where it has two; with
    /// these flags besides. Waits until it is healthy.
    pub fn agent_on_two(&self, flags: &[&str]) -> (ApiServer, Agent) {
        let other = ApiServer::start_at(&self.world, 6444);
        self.cart(1);
        other.apply(&manifest::service("cart", &["10.96.0.1"], &["http:80:8080"]));
        other.apply(&self.slice("cart", 2, &[]));
        let (kubeconfig, first, second) = (self.api.kubeconfig(), self.api.url(), other.url());
        let servers = ["--kubeconfig", &kubeconfig, "--api-server", &first, "--api-server", &second];
        let agent = self.world.spawn_agent(&[&servers, flags].concat());
        self.world.wait_healthy();
        (other, agent)
    }

    /// Waits until the agent has seen everything up to now: events of one kind come in order.
    pub fn catch_up(&self) {
        self.api.apply(&manifest::service("marker", &["10.99.99.99"], &["http:80:8080"]));
        self.api.apply(&self.slice("marker", 1, &[]));
        self.world.wait_verdict("10.99.99.99:80", "translate", 1);
        self.api.delete("Service", "shop/marker");
        self.api.delete("EndpointSlice", "shop/marker-1");
        self.world.wait_verdict("10.99.99.99:80", "pass", 0);
    }

    /// Dials until told to stop by `during`'s return; every connection must succeed.
    pub fn never_fails(&mut self, during: impl FnOnce(&ApiServer, &World)) {
        let (done, client, api, world) =
            (std::sync::atomic::AtomicBool::new(false), &mut self.client, &self.api, &self.world);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(std::sync::atomic::Ordering::Relaxed) {
                    client.tcp("10.96.0.1:80").expect("no connection is lost");
                }
            });
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| during(api, world)));
            done.store(true, std::sync::atomic::Ordering::Relaxed);
            if let Err(panic) = result {
                std::panic::resume_unwind(panic);
            }
        });
    }
}
