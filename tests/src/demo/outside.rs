//! The part of the demo that a single node cannot show: two nodes on an overlay, a client outside of the cluster, and
//! Services with a pod on each node.

use anyhow::Result;

use super::{
    dial::{self, Dialled, Protocol},
    servers::Servers,
};
use crate::{
    manifest,
    world::{Agent, Pod, TwoNodes},
};

/// `outlet` is led anywhere; `counter` keeps the client's address and stays on the node that took the packet, for its
/// only pod is on node-2. `members` and `staff` admit some clients only. `attic` has no pod.
const SERVICES: &str = "\
---
apiVersion: v1
kind: Service
metadata: {name: outlet, namespace: shop}
spec:
  type: LoadBalancer
  clusterIP: 10.96.0.90
  clusterIPs: [10.96.0.90, \"fd00:10:96::90\"]
  externalIPs: [203.0.113.95, \"2001:db8:50::95\"]
  selector: {app: outlet}
  ports:
  - {name: http, port: 80, targetPort: 8080, nodePort: 30080}
  - {name: prices, port: 5300, targetPort: 5300, nodePort: 30053, protocol: UDP}
status: {loadBalancer: {ingress: [{ip: 203.0.113.90}, {ip: \"2001:db8:50::90\"}]}}
---
apiVersion: v1
kind: Service
metadata: {name: counter, namespace: shop}
spec:
  type: LoadBalancer
  externalTrafficPolicy: Local
  healthCheckNodePort: 30991
  clusterIP: 10.96.0.91
  clusterIPs: [10.96.0.91, \"fd00:10:96::91\"]
  selector: {app: counter}
  ports:
  - {name: http, port: 80, targetPort: 8080, nodePort: 30081}
status: {loadBalancer: {ingress: [{ip: 203.0.113.91}, {ip: \"2001:db8:50::91\"}]}}
---
apiVersion: v1
kind: Service
metadata: {name: members, namespace: shop}
spec:
  type: LoadBalancer
  loadBalancerSourceRanges: [192.168.50.0/28, \"fd00:50::/124\"]
  clusterIP: 10.96.0.92
  clusterIPs: [10.96.0.92, \"fd00:10:96::92\"]
  selector: {app: outlet}
  ports:
  - {name: http, port: 80, targetPort: 8080, nodePort: 30082}
status: {loadBalancer: {ingress: [{ip: 203.0.113.92}, {ip: \"2001:db8:50::92\"}]}}
---
apiVersion: v1
kind: Service
metadata: {name: staff, namespace: shop}
spec:
  type: LoadBalancer
  loadBalancerSourceRanges: [10.0.0.0/8, \"fd00:10::/32\"]
  clusterIP: 10.96.0.93
  clusterIPs: [10.96.0.93, \"fd00:10:96::93\"]
  selector: {app: outlet}
  ports:
  - {name: http, port: 80, targetPort: 8080, nodePort: 30083}
status: {loadBalancer: {ingress: [{ip: 203.0.113.93}, {ip: \"2001:db8:50::93\"}]}}
---
apiVersion: v1
kind: Service
metadata: {name: attic, namespace: shop}
spec:
  type: NodePort
  clusterIP: 10.96.0.94
  clusterIPs: [10.96.0.94, \"fd00:10:96::94\"]
  selector: {app: attic}
  ports:
  - {name: http, port: 80, targetPort: 8080, nodePort: 30084}
";
/// Pod, Service, node.
const PODS: [(&str, &str, usize); 3] =
    [("outlet-1", "outlet", 1), ("outlet-2", "outlet", 2), ("counter-1", "counter", 2)];
/// TCP by nginx and UDP by socat, in each pod.
const PORTS: [(u64, bool); 2] = [(8080, false), (5300, true)];

/// Two nodes with servers and agents. Everything ends with the value.
pub struct Outside {
    agents: Option<[Agent; 2]>,
    _servers: Servers,
    world: TwoNodes,
}

impl Outside {
    /// Builds it, with agents that have these flags besides.
    ///
    /// # Errors
    /// A server does not start.
    pub fn start(flags: &[&str]) -> Result<Self> {
        let mut world = TwoNodes::new();
        let (mut servers, mut text) = (Servers::default(), SERVICES.to_owned());
        for (name, app, node) in PODS {
            let pod = world.pod(node, name);
            let [v4, v6] = pod.addresses();
            text += &manifest::pod_on(&format!("node-{node}"), name, app, &[&v4, &v6]);
            for (port, udp) in PORTS {
                servers.add(&pod, port, udp, &world.node(node).folder().join(name))?;
            }
        }
        world.apply("outside", &text);
        let mut outside = Self { agents: None, _servers: servers, world };
        outside.restart(flags);
        Ok(outside)
    }

    /// Kills the agents, if they run, and starts others with these flags.
    pub fn restart(&mut self, flags: &[&str]) {
        self.agents.take().into_iter().flatten().for_each(Agent::kill);
        self.agents = Some([1, 2].map(|node| self.world.node(node).agent_with(flags)));
    }

    /// Nodes, pods, the client.
    pub const fn world(&self) -> &TwoNodes {
        &self.world
    }

    /// Dials from `pod`, which may be the client, a node's host or a pod, as the other part of the demo does.
    ///
    /// # Errors
    /// The client program does not start.
    pub fn dial(&self, pod: &Pod, protocol: Protocol, to: &str) -> Result<Dialled> {
        dial::dial(pod, protocol, to, ("/", "a: b"))
    }
}
