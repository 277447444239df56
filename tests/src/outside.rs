//! A Service with every address that clients outside can dial, its pods on two nodes, and an agent on each.

use crate::{
    peer::{Answer, Peer, address},
    wait,
    world::{Agent, Pod, TwoNodes},
};

/// Ports that the pods serve: TCP and UDP.
pub const SERVED: [(u16, bool); 2] = [(8080, false), (5353, true)];
/// NodePorts of TCP and UDP.
pub const NODE_PORTS: [u16; 2] = [30_080, 30_053];

/// The Service `shop/cart` with pods `near` on node-1 and `far` on node-2.
#[derive(Debug)]
pub struct Outside {
    /// The machine.
    pub world: TwoNodes,
    /// Dials from outside.
    pub client: Peer,
    /// Pods of the Service.
    pub pods: Vec<(Pod, Peer)>,
    /// One on each node, as far as they run.
    pub agents: Vec<Agent>,
}

/// The manifest of `shop/cart`; `more` are lines of its spec, such as a policy.
pub fn cart(more: &str) -> String {
    let more = more.lines().map(|line| format!("  {line}\n")).collect::<String>();
    format!(
        "---\napiVersion: v1\nkind: Service\nmetadata: {{name: cart, namespace: shop}}\nspec:\n  type: LoadBalancer\n  \
         clusterIP: 10.96.0.1\n  clusterIPs: [10.96.0.1, \"fd00:10:96::1\"]\n  ipFamilies: [IPv4, IPv6]\n  \
         externalIPs: [203.0.113.20, \"2001:db8:50::20\"]\n  selector: {{app: cart}}\n{more}  ports:\n  \
         - {{name: http, port: 80, targetPort: 8080, nodePort: {}, protocol: TCP}}\n  \
         - {{name: dns, port: 53, targetPort: 5353, nodePort: {}, protocol: UDP}}\n\
         status: {{loadBalancer: {{ingress: [{{ip: 203.0.113.10}}, {{ip: \"2001:db8:50::10\"}}]}}}}\n",
        NODE_PORTS[0], NODE_PORTS[1]
    )
}

impl Outside {
    /// Servers on the nodes named (`near` on 1, `far` on 2), agents with these flags.
    pub fn new(servers: &[usize], flags: &[&str]) -> Self {
        let mut world = TwoNodes::new();
        let names = ["near", "far"];
        let pods: Vec<_> = servers.iter().map(|node| world.server(*node, names[node - 1], &SERVED)).collect();
        let client = world.client().peer();
        let mut outside = Self { world, client, pods, agents: Vec::new() };
        outside.apply("");
        outside.agents = [1, 2].map(|number| outside.world.node(number).agent_with(flags)).into();
        outside
    }

    /// Puts the Service in place with these lines in its spec, and the pods.
    pub fn apply(&self, more: &str) {
        self.world.apply("shop", &self.text(more));
    }

    /// The same with a Maglev table.
    pub fn apply_maglev(&self, more: &str) {
        let annotated = "namespace: shop, annotations: {sluice.dev/algorithm: maglev}}";
        self.world.apply("shop", &self.text(more).replacen("namespace: shop}", annotated, 1));
    }

    /// The manifests of the Service, with these lines in its spec, and of the pods.
    pub fn text(&self, more: &str) -> String {
        let pods = self.pods.iter().map(|(pod, _)| {
            let node = if pod.name == "near" { "node-1" } else { "node-2" };
            let [v4, v6] = pod.addresses();
            crate::manifest::pod_on(node, &pod.name, "cart", &[&v4, &v6])
        });
        cart(more) + &pods.collect::<String>()
    }

    /// Every address for clients outside, with the node that it is dialled at: `host:port` for TCP and for UDP.
    pub fn dialled(&self, node: usize) -> Vec<[String; 2]> {
        self.world.route_services_to(node);
        let host = self.world.node(node).host.addresses();
        let hosts = [&host[0], "203.0.113.10", "203.0.113.20", "10.96.0.1"];
        let hosts = hosts.into_iter().chain([
            host[1].as_str(),
            "2001:db8:50::10",
            "2001:db8:50::20",
            "fd00:10:96::1",
        ]);
        let at = |name: &str, port: u16| {
            if name.contains(':') { format!("[{name}]:{port}") } else { format!("{name}:{port}") }
        };
        hosts
            .map(|name| {
                let [tcp, udp] = if host.iter().any(|own| own == name) { NODE_PORTS } else { [80, 53] };
                [at(name, tcp), at(name, udp)]
            })
            .collect()
    }

    /// Waits until both nodes have the policies in these lines of the spec.
    pub fn wait_policy(&self, text: &str) {
        let (external, internal) = (text.contains("externalT"), text.contains("internalT"));
        for number in [1, 2] {
            wait::until("the policy is programmed", || {
                let rows = self.world.node(number).json(&["frontend"]);
                // All of them: they are switched one by one.
                let all = |kind: &str, field: &str, want: bool| {
                    let rows = rows.as_array().into_iter().flatten().filter(|row| row["kind"] == kind);
                    let found: Vec<bool> = rows.map(|row| row[field] == want).collect();
                    !found.is_empty() && found.iter().all(|right| *right)
                };
                let right =
                    all("nodePort", "externalLocal", external) && all("clusterIP", "internalLocal", internal);
                if right { Ok(()) } else { Err(rows) }
            });
        }
    }

    /// The client's own address of the family of `to`.
    pub fn own_address(&self, to: &str) -> String {
        let [v4, v6] = self.world.client().addresses();
        if to.starts_with('[') { v6 } else { v4 }
    }
}

/// The address that the server saw as its client's.
pub fn seen(answer: &Answer) -> String {
    address(&answer.client).ip().to_canonical().to_string()
}

/// Dials until `right` says so.
pub fn until<T: std::fmt::Debug>(what: &str, dial: impl FnMut() -> T, right: impl Fn(&T) -> bool) -> T {
    let mut dial = dial;
    wait::until(what, || {
        let got = dial();
        if right(&got) { Ok(got) } else { Err(format!("{got:?}")) }
    })
}
