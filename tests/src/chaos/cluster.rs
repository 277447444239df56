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
    carts: Vec<Pod>,
    /// Pods of the Services with rules: on node-1, and one on node-2 that comes and goes.
    webs: Vec<Pod>,
    /// A pod of node-1 that dials.
    pub inside: Pod,
    /// Redirectors of node-1 that no agent has started.
    pub redirectors: Vec<Child>,
    _servers: Vec<Peer>,
    _nginxes: Vec<Nginx>,
    chats: Vec<Child>,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.redirectors.iter_mut().chain(&mut self.chats).for_each(kill);
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
        let (carts, servers): (Vec<Pod>, Vec<Peer>) = servers.into_iter().unzip();
        let webs = vec![world.pod(1, "web"), world.pod(2, "web-2")];
        let inside = world.pod(1, "inside");
        let nginxes = webs.iter().map(|web| nginx_http2(world.node(1).folder(), web, 8081)).collect();
        let chats = webs.iter().map(|web| switching(&world, web)).collect::<Result<_>>()?;
        let api = ApiServer::start(world.node(1));
        for number in [1, 2] {
            let host = &world.node(number).host;
            api.put(json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": format!("node-{number}")},
                "status": {"addresses": host.addresses().map(|address| json!({"type": "InternalIP", "address": address}))}}));
        }
        api.apply(&outside::cart(""));
        api.serve_rules();
        api.apply(WEB);
        api.apply(
            &WEB.replace("web", "chat")
                .replace("http2-chat", "http-chat")
                .replace("10.96.0.2", "10.96.0.3")
                .replace("8081", "8092"),
        );
        let mut cluster = Self {
            world,
            api,
            agents: [None, None],
            carts,
            webs,
            inside,
            redirectors: Vec::new(),
            _servers: servers,
            _nginxes: nginxes,
            chats,
        };
        cluster.spare(false);
        for number in [1, 2] {
            cluster.agent(number, None, &[]);
        }
        Ok(cluster)
    }

    /// Makes the last pod of every Service one of its endpoints, or takes it away; the others stay.
    pub fn spare(&self, is_there: bool) {
        for (index, family) in ["IPv4", "IPv6"].into_iter().enumerate() {
            let put = |service: &str, pods: &[Pod], ports: &[(&str, &str, u16)]| {
                let chosen = &pods[..pods.len() - usize::from(!is_there)];
                let node = |pod: &Pod| {
                    if pod.cgroup.starts_with(self.world.node(1).cgroup()) { "node-1" } else { "node-2" }
                };
                let endpoints: Vec<_> =
                    chosen.iter().map(|pod| (node(pod), pod.addresses()[index].clone())).collect();
                self.api.put(slice(service, family, &endpoints, ports));
            };
            put("cart", &self.carts, &[("http", "TCP", SERVED[0].0), ("dns", "UDP", SERVED[1].0)]);
            if family == "IPv4" {
                put("web", &self.webs, &[("http2-web", "TCP", 8081)]);
                put("chat", &self.webs, &[("http-chat", "TCP", 8092)]);
            }
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

    /// Waits until both agents see that the spare endpoints are there, or that they are not.
    pub fn wait_spare(&self, is_there: bool) {
        let rows =
            [("10.96.0.1:80", self.carts.len()), (RULED, self.webs.len()), (UPGRADED, self.webs.len())];
        for (number, (dialled, all)) in [1, 2].into_iter().flat_map(|number| rows.map(|row| (number, row))) {
            wait::until("endpoints are followed", || {
                let explained = self.world.node(number).json(&["explain", dialled]);
                let found = explained["endpoints"].as_array().map(Vec::len);
                if found == Some(all - usize::from(!is_there)) { Ok(()) } else { Err((number, explained)) }
            });
        }
    }
}

/// A server that switches from HTTP/1.1 to one that gives back what it gets.
fn switching(world: &TwoNodes, pod: &Pod) -> Result<Child> {
    let script = world.node(1).folder().join(format!("switch-{}.sh", pod.name));
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
