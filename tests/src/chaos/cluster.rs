//! What chaos comes over: two nodes on an API server, a Service reached from everywhere, two reached by rules.

use std::{
    fs,
    process::{Child, Stdio},
};

use anyhow::Result;
use serde_json::{Value, json};

use crate::{
    apiserver::ApiServer,
    http::{Nginx, nginx_http2},
    outside::{self, SERVED},
    peer::Peer,
    wait,
    world::{Agent, Pod, TwoNodes, kill, tool_path},
};

/// Where the Service with rules is dialled.
pub const RULED: &str = "10.96.0.2:80";
/// Where the one is dialled whose server switches protocols.
pub const UPGRADED: &str = "10.96.0.3:80";

const WEB: &str = "---\napiVersion: v1\nkind: Service\nmetadata: {name: web, namespace: shop}\nspec:\n  clusterIP: 10.96.0.2\n  \
    clusterIPs: [10.96.0.2]\n  ports: [{name: http2-web, port: 80, targetPort: 8081, protocol: TCP}]\n\
    ---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: web, namespace: shop}\n\
    spec:\n  hosts: [web]\n  http:\n  - {name: all, retries: {attempts: 0}, route: [{destination: {host: web}}]}\n";

/// The machine, and what runs on it.
pub struct Cluster {
    /// Nodes, pods, the client outside.
    pub world: TwoNodes,
    /// Where the agents get their objects from.
    pub api: ApiServer,
    /// The agents of node-1 and node-2.
    pub agents: [Option<Agent>; 2],
    /// Pods of `shop/cart`: on node-1, on node-2, and one that comes and goes.
    pub pods: Vec<Pod>,
    /// A pod of node-1 that dials.
    pub inside: Pod,
    /// Redirectors of node-1 that no agent has started.
    pub redirectors: Vec<Child>,
    _servers: Vec<Peer>,
    _web: Nginx,
    chat: Child,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.redirectors.iter_mut().chain([&mut self.chat]).for_each(kill);
    }
}

impl Cluster {
    /// Starts everything and waits until both nodes serve.
    ///
    /// # Errors
    /// A server does not start.
    pub fn start() -> Result<Self> {
        let mut world = TwoNodes::new();
        let servers =
            [(1, "near"), (2, "far"), (2, "spare")].map(|(node, name)| world.server(node, name, &SERVED));
        let (pods, servers): (Vec<Pod>, Vec<Peer>) = servers.into_iter().unzip();
        let web = world.pod(1, "web");
        let inside = world.pod(1, "inside");
        let nginx = nginx_http2(world.node(1).folder(), &web, 8081);
        let chat = switching(&world, &web)?;
        let api = ApiServer::start(world.node(1));
        for number in [1, 2] {
            let host = &world.node(number).host;
            api.put(json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": format!("node-{number}")},
                "status": {"addresses": host.addresses().map(|address| json!({"type": "InternalIP", "address": address}))}}));
        }
        api.apply(&outside::cart(""));
        api.serve_rules();
        api.apply(WEB);
        api.put(slice(
            "web",
            "IPv4",
            &[("node-1", web.addresses()[0].clone())],
            &[("http2-web", "TCP", 8081)],
        ));
        api.apply(
            &WEB.replace("web", "chat")
                .replace("http2-chat", "http-chat")
                .replace("10.96.0.2", "10.96.0.3")
                .replace("8081", "8092"),
        );
        api.put(slice(
            "chat",
            "IPv4",
            &[("node-1", web.addresses()[0].clone())],
            &[("http-chat", "TCP", 8092)],
        ));
        let mut cluster = Self {
            world,
            api,
            agents: [None, None],
            pods,
            inside,
            redirectors: Vec::new(),
            _servers: servers,
            _web: nginx,
            chat,
        };
        cluster.endpoints(&["near", "far"]);
        for number in [1, 2] {
            cluster.agent(number, None, &[]);
        }
        Ok(cluster)
    }

    /// Makes these pods the endpoints of `shop/cart`.
    pub fn endpoints(&self, names: &[&str]) {
        for (index, family) in ["IPv4", "IPv6"].into_iter().enumerate() {
            let chosen = self.pods.iter().filter(|pod| names.contains(&pod.name.as_str()));
            let endpoints: Vec<_> = chosen
                .map(|pod| {
                    let node = if pod.name == "near" { "node-1" } else { "node-2" };
                    (node, pod.addresses()[index].clone())
                })
                .collect();
            let ports = [("http", "TCP", SERVED[0].0), ("dns", "UDP", SERVED[1].0)];
            self.api.put(slice("cart", family, &endpoints, &ports));
        }
    }

    /// Starts the agent of a node, with these flags besides, and waits until it is healthy. `binary` if not ours.
    pub fn agent(&mut self, number: usize, binary: Option<&std::path::Path>, flags: &[&str]) {
        let node = self.world.node(number);
        let kubeconfig = self.api.kubeconfig();
        let words = [&["--kubeconfig", &kubeconfig], flags].concat();
        self.agents[number - 1] = Some(match binary {
            None => node.spawn_agent(&words),
            Some(binary) => node.spawn_other_agent(binary, &words),
        });
        match binary {
            None => node.wait_healthy(),
            Some(binary) => node.wait_other_healthy(binary),
        }
    }

    /// Waits until the agent of a node sees that many endpoints of `shop/cart`.
    pub fn wait_endpoints(&self, number: usize, count: usize) {
        wait::until("endpoints are followed", || {
            let explained = self.world.node(number).json(&["explain", "10.96.0.1:80"]);
            let found = explained["endpoints"].as_array().map(Vec::len);
            if found == Some(count) { Ok(()) } else { Err(explained) }
        });
    }
}

/// A server that switches from HTTP/1.1 to one that gives back what it gets.
fn switching(world: &TwoNodes, pod: &Pod) -> Result<Child> {
    let script = world.node(1).folder().join("switch.sh");
    let text = "while read -r line && [ \"$line\" != \"$(printf '\\r')\" ]; do :; done\n\
        printf 'HTTP/1.1 101 Switching Protocols\\r\\nConnection: Upgrade\\r\\nUpgrade: websocket\\r\\n\\r\\n'\nexec cat\n";
    fs::write(&script, text)?;
    let mut command = pod.command(&tool_path("socat"));
    command.args(["TCP-LISTEN:8092,fork,reuseaddr", &format!("EXEC:sh {}", script.display())]);
    Ok(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?)
}

fn slice(service: &str, family: &str, endpoints: &[(&str, String)], ports: &[(&str, &str, u16)]) -> Value {
    let endpoint = |(node, address): &(&str, String)| json!({"addresses": [address], "conditions": {"ready": true}, "nodeName": node});
    let port = |(name, protocol, port): &(&str, &str, u16)| json!({"name": name, "protocol": protocol, "port": port});
    json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": format!("{service}-{}", family.to_lowercase()), "namespace": "shop",
            "labels": {"kubernetes.io/service-name": service}},
        "addressType": family, "ports": ports.iter().map(port).collect::<Vec<_>>(),
        "endpoints": endpoints.iter().map(endpoint).collect::<Vec<_>>()})
}
